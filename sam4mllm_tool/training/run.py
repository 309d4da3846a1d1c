"""A training run, from its settings to the adapter folder that `--mllm BASE+ADAPTER` loads.

After an interruption, the same command resumes from the newest complete checkpoint. output_dir.py describes what `out` holds.
"""

import json
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainingArguments

from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, MANIFEST_FILE
from sam4mllm_tool.data.verify import describe_problems
from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.models.checkpoints import quiet_loading
from sam4mllm_tool.models.mllm import EMBEDDED
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm, find_dialect
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.training.adapter_files import RunResult, write_result
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.batches import Collator
from sam4mllm_tool.training.callbacks import (
    HeldOutEvaluation,
    MetricsFile,
    ProgressBar,
    require_disjoint_images,
)
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.held_out_part import hold_out_samples, read_measurements
from sam4mllm_tool.training.model import TrainableModel, load_trainable_model
from sam4mllm_tool.training.output_dir import (
    CHECKPOINTS,
    CONVERSATIONS,
    METRICS_FILE,
    claim_output_dir,
    describe_run,
    is_finished,
)
from sam4mllm_tool.training.preflight import check_before_building, choose_data_dialect, find_report_service
from sam4mllm_tool.training.row_builder import RowBuilder
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset, write_rows
from sam4mllm_tool.training.trainer import ConversationTrainer, find_newest_checkpoint
from sam4mllm_tool.training.trainer_arguments import build_trainer_arguments

__all__ = ["prepare_conversations", "train"]


def train(config: TrainingConfig) -> Path:
    """Train, or resume the run that the same settings started.

    Returns:
        The finished folder, `config.out`.

    Raises:
        DataError: The training conversations can't be used, or `out` holds another run.
        SpecError, MissingExtraError: The model can't be loaded, or the settings don't fit it.
        OSError: `out` can't be written.
    """
    start = check_before_building(config)
    out = Path(config.out).expanduser()
    began = time.time()
    held_out = hold_out_samples(config)
    arguments = build_trainer_arguments(config, out / CHECKPOINTS)  # joins the other processes, so it comes first
    with arguments.main_process_first(local=False, desc="training conversations"):
        conversations_dir = prepare_conversations(config, held_out.held_back)
        description = describe_run(config, conversations_dir, arguments.world_size)
        if is_finished(out, description):
            return out
        if arguments.process_index == 0:
            print(f"training {start.describe()}", file=sys.stderr)
            if config.data:
                _print_problems(conversations_dir)
            require_disjoint_images(held_out.samples, conversations_dir)
            claim_output_dir(out, description)
    dialect = _choose_dialect(config, conversations_dir)
    trainable = load_trainable_model(config)
    with arguments.main_process_first(local=False, desc="rows"):
        rows = _load_rows(config, conversations_dir, out, trainable, description["lessons_sha256"])
    trainer = _build_trainer(config, arguments, out, trainable, rows)
    if held_out.samples:
        trainer.add_callback(_build_evaluation(config, trainer, trainable, dialect, held_out.samples))
    checkpoint = find_newest_checkpoint(out / CHECKPOINTS)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    about = {
        **description,
        "starts_from": {"base": start.base, "adapter": EMBEDDED if start.shipped else start.adapter},
        "load_as": start.result_spec(config.out),
        "held_out": held_out.describe() | read_measurements(out / METRICS_FILE),
        "rows": rows.counts,
        "seconds": time.time() - began,
    }
    write_result(out, trainer, RunResult(start, conversations_dir, dialect, about))
    return out


def prepare_conversations(config: TrainingConfig, held_back: Collection[str] = ()) -> Path:
    """Return the folder of training conversations, built from `config.data` if that is given. Raises DataError.

    Args:
        config: The settings.
        held_back: Hashes of images that are not trained on.
    """
    if config.data:
        return build_conversations(
            [Source.parse(text) for text in config.data],
            Path(config.out).expanduser() / CONVERSATIONS,
            Recipe.of(choose_data_dialect(config), config.recipe or {}),
            vqa=[Source.parse(text) for text in config.vqa_data],
            held_out=[Path(root).expanduser() for root in config.held_out],
            held_back=held_back,
            processes=config.build_processes,
        )
    folder = Path(config.lessons).expanduser()
    if not (folder / CONVERSATIONS_FILE).is_file():
        raise DataError(f"{folder / CONVERSATIONS_FILE} is not there: expected a folder that 'sam4mllm data build' completed")
    return folder


def _print_problems(conversations_dir: Path) -> None:
    for line in describe_problems(conversations_dir):
        print(f"training conversations: {line}", file=sys.stderr)


def _choose_dialect(config: TrainingConfig, conversations_dir: Path) -> Dialect:
    """Return the dialect of the settings, else the one that the training conversations were built with."""
    if config.dialect is not None:
        return find_dialect(config.mllm, config.dialect)
    file = conversations_dir / MANIFEST_FILE
    try:
        manifest = parse_json(file.read_text(encoding="utf-8"))
        dialect = manifest.get("dialect") or manifest["recipe"]["dialect"]
        return find_dialect(config.mllm, dialect) if isinstance(dialect, str) else Dialect.from_json(json.dumps(dialect))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise DataError(f"{file} doesn't name the dialect of the training conversations ({error}): set 'dialect'") from error


def _load_rows(
    config: TrainingConfig, conversations_dir: Path, out: Path, trainable: TrainableModel, digest: str
) -> TokenizedDataset:
    """Load the rows; the first process to come here writes them, once per run."""
    file = out / CHECKPOINTS / f"rows-{digest[:12]}.sqlite"
    if not file.exists():
        builder = RowBuilder(trainable.prompter, trainable.placeholder, packs=trainable.packs, max_tokens=config.max_tokens)
        write_rows(conversations_dir, file, builder)
    return TokenizedDataset(file, trainable.prompter, trainable.placeholder)


def _build_trainer(
    config: TrainingConfig, arguments: TrainingArguments, out: Path, trainable: TrainableModel, rows: TokenizedDataset
) -> ConversationTrainer:
    tokenizer = trainable.prompter.tokenizer
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    callbacks: list[Any] = [MetricsFile(out / METRICS_FILE), ProgressBar()]
    if find_report_service(config) == "tensorboard" and arguments.process_index == 0:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations.integration_utils import TensorBoardCallback

        callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"))))
    trainer = ConversationTrainer(
        trainable.model,
        arguments,
        rows,
        Collator(pad_id, trainable.accepted_inputs, trainable.packs, trainable.attention == BRANCHES),
        dtype=torch.bfloat16 if arguments.bf16 else trainable.model.dtype,
        projector_learning_rate=config.projector_learning_rate,
        keep=config.keep,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _build_evaluation(
    config: TrainingConfig, trainer: ConversationTrainer, trainable: TrainableModel, dialect: Dialect, samples: Sequence[Sample]
) -> HeldOutEvaluation:
    with trainable.inference_attention():
        mllm = TransformersMLLM(trainable.base_model, trainable.processor, name=f"{config.mllm}, under training")
    with quiet_loading():
        segmenter = load_segmenter(config.eval_segmenter, device=config.device)
    on_cpu = trainer.args.device.type == "cpu"

    @contextmanager
    def inference_context() -> Iterator[None]:
        # On a CPU the finished adapter will answer in float32, so it is evaluated in float32.
        with trainable.inference_attention(), nullcontext() if on_cpu else trainer.accelerator.autocast():
            yield

    return HeldOutEvaluation(
        Sam4Mllm(mllm, segmenter, dialect=dialect),
        samples,
        config.eval_methods,
        config.eval_every,
        log=trainer.log,
        wait_for_everyone=trainer.accelerator.wait_for_everyone,
        pause_clock=trainer.restart_clock,
        inference_context=inference_context,
    )
