"""A training run from its settings to the folder that `--mllm BASE+ADAPTER` loads.

The same command after a cut goes on from the newest whole checkpoint; folder.py says what `out` holds.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from sam4mllm_tool import __version__
from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, MANIFEST_FILE
from sam4mllm_tool.data.verify import describe_problems
from sam4mllm_tool.errors import DataError, MissingExtraError, SpecError
from sam4mllm_tool.models.checkpoints import choose_device, quiet_loading
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm, find_dialect
from sam4mllm_tool.protocol import JOINT, PLAIN, Dialect
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.batches import Collator
from sam4mllm_tool.training.callbacks import Bar, Evaluation, Journal, held_out, require_held_out
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.examples import Maker
from sam4mllm_tool.training.model import Student, load_student, uses_bfloat16
from sam4mllm_tool.training.output_dir import (
    ADAPTER_FILE,
    CHECKPOINTS,
    LESSONS,
    METRICS_FILE,
    TRAINING_FILE,
    WRITING,
    is_finished,
    order_of,
    require_own,
    take,
    writing,
)
from sam4mllm_tool.training.rows import Rows, make_rows
from sam4mllm_tool.training.trainer import LessonTrainer, newest_checkpoint

__all__ = ["lessons_for", "train"]


def train(config: TrainingConfig) -> Path:
    """Trains, or goes on where the same command was cut; returns the finished folder, `config.out`.

    Raises DataError for lessons that can't be used or an `out` that holds another run, SpecError or MissingExtraError where
    the model can't be loaded or the settings don't fit it, OSError where `out` can't be written.
    """
    _require("accelerate", "" if config.report_to == "none" else config.report_to)
    out = Path(config.out).expanduser()
    began = time.time()
    require_own(out)
    samples = held_out(config.eval_data, config.eval_split, config.eval_count) if config.eval_data else []
    arguments = _arguments(config, out)  # joins the other processes, and so comes first
    with arguments.main_process_first(local=False, desc="lessons"):
        lessons = lessons_for(config)
        order = order_of(config, lessons, arguments.world_size)
        if is_finished(out, order):
            return out
        if arguments.process_index == 0:
            if config.data:
                for line in describe_problems(lessons):  # what was dropped or mended
                    print(f"lessons: {line}", file=sys.stderr)
            require_held_out(samples, lessons)
            take(out, order)
    dialect = _dialect(config, lessons)
    student = load_student(config)
    with arguments.main_process_first(local=False, desc="rows"):
        rows = _rows(config, lessons, out / CHECKPOINTS, student, order["lessons_sha256"])
    trainer = _trainer(config, arguments, out, student, rows)
    if samples:
        trainer.add_callback(_evaluation(config, trainer, student, dialect, samples))
    newest = newest_checkpoint(out / CHECKPOINTS)
    trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    _finish(out, lessons, trainer, student, dialect, order | {"rows": rows.counts, "seconds": time.time() - began})
    return out


def lessons_for(config: TrainingConfig) -> Path:
    """The folder of lessons, built from `config.data` into `out`/lessons where that is given. Raises DataError."""
    if config.data:
        spoken = find_dialect(config.mllm, config.dialect)
        if spoken is PLAIN and config.dialect is None:
            spoken = JOINT  # a model that is to learn it needs no long instructions, and all points fit one question
        return build_conversations(
            [Source.parse(one) for one in config.data],
            Path(config.out).expanduser() / LESSONS,
            Recipe.of(spoken, config.recipe or {}),
            vqa=[Source.parse(one) for one in config.vqa_data],
            held_out=[Path(one).expanduser() for one in config.held_out],
            processes=config.build_processes,
        )
    folder = Path(config.lessons).expanduser()
    if not (folder / CONVERSATIONS_FILE).is_file():
        raise DataError(
            f"{folder / CONVERSATIONS_FILE} is not there: expected a folder that 'sam4mllm data build' wrote to its end"
        )
    return folder


def _require(*libraries: str) -> None:
    for library in filter(None, libraries):
        if find_spec(library) is None:
            if library == "wandb":  # of no extra
                raise SpecError("report_to = 'wandb' needs wandb, which is not installed: pip install wandb")
            raise MissingExtraError(library, "train")


# What the run is made of --------------------------------------------------------------------------------------------


def _dialect(config: TrainingConfig, lessons: Path) -> Dialect:
    """The one asked for, else the one that the lessons were written in. Raises DataError where neither is told."""
    if config.dialect is not None:
        return find_dialect(config.mllm, config.dialect)
    file = lessons / MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        told = manifest.get("dialect") or manifest["recipe"]["dialect"]
        return find_dialect(config.mllm, told) if isinstance(told, str) else Dialect.from_json(json.dumps(told))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise DataError(f"{file} doesn't tell the lessons' dialect ({error}): give it as 'dialect'") from error


def _arguments(config: TrainingConfig, out: Path) -> TrainingArguments:
    """As transformers wants them, one device a process. Raises DataError for settings that it refuses, SpecError."""
    device = choose_device(config.device)
    for name in ("deepspeed", "fsdp_config"):
        file = getattr(config, name)
        if isinstance(file, str) and not Path(file).is_file():
            raise DataError(f"{name}: {file} is not there")
    if device.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError(f"device = {config.device!r} is one for several processes: leave it out, each takes its own")
    if device.index is not None and "ACCELERATE_TORCH_DEVICE" not in os.environ:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    try:
        arguments = _transformers_arguments(config, out, cpu=device.type == "cpu")
        placed = arguments.device
    except (ValueError, ImportError, OSError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"the settings can't be followed: {reason.strip()}") from error
    if arguments.n_gpu > 1:  # else Trainer would spread each pass over all that it sees
        arguments._n_gpu = 1
    if device.index is not None and placed != device:
        arguments.__dict__["_setup_devices"] = device
        torch.cuda.set_device(device)
    if config.eval_data and (is_deepspeed_zero3_enabled() or os.environ.get("ACCELERATE_USE_FSDP") == "true"):
        raise DataError("eval_data needs whole weights on each device, and they are sharded here (FSDP, ZeRO-3): leave it out")
    return arguments


def _transformers_arguments(config: TrainingConfig, out: Path, *, cpu: bool) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        per_device_train_batch_size=config.batch,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup,
        optim=config.optimiser,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        bf16=uses_bfloat16(config),
        activation_checkpointing=config.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_every,
        logging_steps=config.log_every,
        report_to=["wandb"] if config.report_to == "wandb" else [],
        dataloader_num_workers=config.workers,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        ddp_find_unused_parameters=False,
        deepspeed=config.deepspeed,
        fsdp=config.fsdp,
        fsdp_config=config.fsdp_config,
    )


def _rows(config: TrainingConfig, lessons: Path, folder: Path, student: Student, digest: str) -> Rows:
    """Made by the first process that comes here, once for the run."""
    file = folder / f"rows-{digest[:12]}.sqlite"
    if not file.exists():
        maker = Maker(student.prompter, student.placeholder, packs=student.packs, max_tokens=config.max_tokens)
        make_rows(lessons, file, maker)
    return Rows(file, student.prompter, student.placeholder)


def _trainer(config: TrainingConfig, arguments: TrainingArguments, out: Path, student: Student, rows: Rows) -> LessonTrainer:
    tokenizer = student.prompter.tokenizer
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    dtype = torch.bfloat16 if arguments.bf16 else student.model.dtype
    callbacks: list[Any] = [Journal(out / METRICS_FILE), Bar()]
    if config.report_to == "tensorboard" and arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
    trainer = LessonTrainer(
        student.model,
        arguments,
        rows,
        Collator(pad, student.accepts, student.packs, student.attention == BRANCHES),
        dtype=dtype,
        projector_learning_rate=config.projector_learning_rate,
        keep=config.keep,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _evaluation(
    config: TrainingConfig, trainer: LessonTrainer, student: Student, dialect: Dialect, samples: list[Sample]
) -> Evaluation:
    student.attend("sdpa")  # under which prompts are packed, as at inference
    mllm = TransformersMLLM(student.inner, student.processor, name=f"{config.mllm}, under training")
    student.attend(student.attention)
    with quiet_loading():
        segmenter = load_segmenter(config.eval_segmenter, device=config.device)
    on_cpu = trainer.args.device.type == "cpu"

    @contextmanager
    def answering() -> Iterator[None]:
        student.attend("sdpa")
        try:
            with nullcontext() if on_cpu else trainer.accelerator.autocast():  # on a CPU it will answer in float32
                yield
        finally:
            student.attend(student.attention)

    return Evaluation(
        Sam4Mllm(mllm, segmenter, dialect=dialect),
        samples,
        config.eval_methods,
        config.eval_every,
        trainer.log,
        trainer.accelerator.wait_for_everyone,
        trainer.pause,
        answering,
    )


# The result ---------------------------------------------------------------------------------------------------------


def _finish(
    out: Path,
    lessons: Path,
    trainer: LessonTrainer,
    student: Student,
    dialect: Dialect,
    about: dict[str, Any],
) -> None:
    """Writes the result aside and moves it in."""
    beside = out / WRITING
    with writing(beside, "the adapter", "the last checkpoint stays, and the same command will write it"):
        trainer.save_model(str(beside))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            adapter = json.loads((beside / ADAPTER_FILE).read_text(encoding="utf-8"))
            write_json(beside / ADAPTER_FILE, adapter | {"base_model_name_or_path": student.base})
            (beside / "README.md").unlink(missing_ok=True)
            (beside / "dialect.json").write_text(dialect.to_json(), encoding="utf-8")
            if (lessons / MANIFEST_FILE).is_file():
                shutil.copyfile(lessons / MANIFEST_FILE, beside / MANIFEST_FILE)
            write_json(beside / TRAINING_FILE, {**about, "steps": trainer.state.global_step, "versions": _versions()})
            for path in sorted(beside.iterdir(), key=lambda path: path.name == ADAPTER_FILE):
                path.replace(out / path.name)
            beside.rmdir()
    trainer.accelerator.wait_for_everyone()


def _versions() -> dict[str, str]:
    return {"sam4mllm-tool": __version__} | {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
