"""The commands `sam4mllm train` and `sam4mllm export`. Import what they need when they run.

Every field of `TrainingConfig` but `recipe`, which is a table in a file, is an option of `train` with help in `_SETTINGS`.
"""

import json
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from sam4mllm_tool.cli.options import config_options, given_options, with_options
from sam4mllm_tool.errors import DataError, count_noun
from sam4mllm_tool.training.config import TrainingConfig, read_config

__all__ = ["export", "train"]

_SETTINGS = {
    "Model and data": {
        "mllm": "Model to tune, as in 'segment': 'embedded' (built in; its adapter is continued), a local folder or "
        "a Hugging Face model id. Append '+ADAPTER' to continue from a LoRA adapter.",
        "from_base": "Train a new adapter on the base of 'embedded' instead of continuing the built-in one.",
        "lessons": "Folder of training conversations that 'sam4mllm data build' wrote. Required, unless --data is given.",
        "data": "Dataset to build the training conversations from, in OUT/lessons. Repeatable.",
        "vqa_data": "Dataset of conversations to mix in, in the share that CONFIG's table 'recipe' sets. Repeatable.",
        "held_out": "Folder of the RefCOCO family, whose validation and test images are left out. Repeatable.",
        "held_back": "Images of --data that are not trained on but segmented before and after, to show what tuning did: a "
        "share of them if below 1, else their number. By default a tenth of them, at most 20; 0 for none.",
        "build_processes": "Number of processes that build training conversations from --data.",
        "out": "Folder for the adapter, its checkpoints and metrics.jsonl. Required. After an interruption, the same command "
        "continues from the last checkpoint.",
        "dialect": "Wording and coordinate format of the questions; by default, the one of the training conversations.",
        "init_adapter": "LoRA adapter to continue from, a folder.",
        "device": "PyTorch device, as in cpu, cuda or cuda:1; by default, the first CUDA device, or else the CPU.",
    },
    "LoRA": {
        "lora_r": "Rank of the LoRA matrices.",
        "lora_alpha": "LoRA scaling: updates are multiplied by alpha / rank.",
        "lora_dropout": "Dropout probability before the LoRA matrices, from 0 to below 1.",
        "lora_targets": "Names of the language model's layers that get LoRA matrices, several in a row; or one regular "
        "expression for full names. By default, attention and MLP projections, or all linear layers if none has those names.",
        "projector": "Also train the projector between vision encoder and language model, in full.",
    },
    "Optimization": {
        "learning_rate": "Peak learning rate.",
        "projector_learning_rate": "Peak learning rate of modules trained in full; by default, --learning-rate.",
        "weight_decay": "Weight decay factor.",
        "schedule": "Learning rate schedule, as transformers names it: linear, cosine, constant and so on.",
        "warmup": "Warm-up: a share of all steps if below 1, otherwise a number of steps.",
        "optimiser": "Optimizer, as transformers' TrainingArguments names it.",
        "adam_beta2": "Adam's beta2, from 0 to below 1.",
        "max_grad_norm": "Largest norm of the gradient, beyond which it is clipped; 0 turns clipping off.",
        "epochs": "Number of passes over the training conversations.",
        "max_steps": "Number of optimizer steps; overrides --epochs.",
        "batch": "Rows per forward pass on each device.",
        "accumulation": "Forward passes per optimizer step.",
        "max_tokens": "Largest number of text tokens per row, the image's not counted; longer conversations take several rows.",
        "pack": "Put the answers of one conversation into one row, where the model supports it.",
        "precision": "Number format of the computation; 'auto' is bf16 where the device computes in it, else float32.",
        "attention": "Attention implementation, as in transformers; 'branches' is this package's own for packed rows; 'auto' "
        "is 'branches' on a CPU with packed rows, else sdpa.",
        "quantise": "Load the base model in 4 bits (QLoRA), with bitsandbytes.",
        "gradient_checkpointing": "Recompute activations in the backward pass, which saves memory and takes longer.",
        "seed": "Seed of all random choices.",
        "workers": "Number of processes that load images; 0 loads them in the training process.",
    },
    "Checkpoints and logs": {
        "save_every": "Optimizer steps between checkpoints.",
        "keep": "Number of checkpoints to keep: the newest ones.",
        "log_every": "Optimizer steps between lines of metrics.jsonl.",
        "report_to": "Service that the metrics are logged to, besides metrics.jsonl; 'auto' is TensorBoard if it is installed.",
    },
    "Evaluation during training": {
        "eval_data": "Held-out dataset whose samples are segmented with the model so far; no evaluation by default.",
        "eval_split": "Split of --eval-data.",
        "eval_count": "Number of samples to segment: the first ones of the split.",
        "eval_methods": "Methods to segment with, several in a row: pqpp, ppg, box, points, adaptive.",
        "eval_segmenter": "Segmenter of the evaluation: 'embedded', a local folder or a Hugging Face model id.",
        "eval_every": "Optimizer steps between evaluations.",
    },
    "Several devices": {
        "deepspeed": "DeepSpeed configuration, a JSON file.",
        "fsdp": "FSDP options, as transformers' TrainingArguments takes them.",
        "fsdp_config": "FSDP configuration, a JSON file.",
    },
}
_METAVARS = {
    **dict.fromkeys(("mllm", "eval_segmenter"), "SPEC"),
    **dict.fromkeys(("lessons", "out", "init_adapter"), "DIR"),
    **dict.fromkeys(("data", "vqa_data"), "NAME:ROOT[:SPLIT]"),
    **dict.fromkeys(("deepspeed", "fsdp_config"), "FILE"),
    **dict.fromkeys(("dialect", "device", "schedule", "optimiser", "eval_split"), "NAME"),
    **dict.fromkeys(("lora_targets", "eval_methods"), "NAME..."),
    "held_out": "ROOT",
    "eval_data": "NAME:ROOT",
    "fsdp": "OPTIONS",
}


_WORSE = 0.01
"""A fall of cIoU beyond which tuning has made the model worse."""


def _print_example(value: bool) -> None:
    if value:
        typer.echo((files("sam4mllm_tool.training") / "example.toml").read_text(encoding="utf-8"), nl=False)
        raise typer.Exit


@with_options(config_options(TrainingConfig, _SETTINGS, _METAVARS))
def train(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Argument(metavar="CONFIG", help="Settings as a TOML, JSON or YAML file; an option overrides the file's setting."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the steps, time and memory that training will take, and write nothing.")
    ] = False,
    example: Annotated[  # noqa: ARG001 - done by its callback
        bool,
        typer.Option("--example", callback=_print_example, is_eager=True, help="Print example settings, for a CONFIG file."),
    ] = False,
    **options: Any,
) -> None:
    """Tune a model on training conversations.

    Writes a LoRA adapter, which --mllm BASE+ADAPTER loads. The defaults are the paper's recipe.
    """
    settings = read_config(config) if config else {}
    given = given_options(ctx, options)
    match given.get("lora_targets"):
        case [str(pattern)] if not pattern.isidentifier():
            given["lora_targets"] = pattern
    try:
        training = TrainingConfig.from_dict({**settings, **given})
    except ValueError as error:
        raise DataError(f"{config}: {error}" if config else str(error)) from error

    if dry_run:
        from sam4mllm_tool.training.dry_run import estimate_run

        print("\n".join(estimate_run(training).lines()))
        return

    from sam4mllm_tool.training.run import train as run_training

    out = run_training(training)
    print("\n".join([f"wrote {out}", *_describe_result(Path(out))]))


def _describe_result(out: Path) -> Iterator[str]:
    """Yield what tuning did to the held-out part, and the command to type next."""
    from sam4mllm_tool.training.output_dir import TRAINING_FILE

    file = out.expanduser() / TRAINING_FILE
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    held_out = about.get("held_out", {})
    if "before" in held_out:
        on = f"{count_noun(held_out['samples'], 'expression')} about {count_noun(held_out['images'], 'image')} not trained on"
        for name in (name for name in held_out["after"] if name.endswith("_cIoU")):
            before, after = (held_out[when][name] for when in ("before", "after"))
            method = name.removeprefix("eval_").removesuffix("_cIoU")
            yield f"cIoU by {method}: {100 * before:.1f} % before, {100 * after:.1f} % after, on {on}"
            if after < before - _WORSE:
                yield "tuning made it worse: try more data, more steps or a lower --learning-rate"
    else:
        yield "nothing was measured: --held-back N or --eval-data shows what tuning did"
    if spec := about.get("load_as"):
        yield f'next: sam4mllm segment IMAGE "EXPRESSION" --mllm {shlex.quote(spec)}'


def export(
    mllm: Annotated[str, typer.Option(metavar="SPEC", help="Model with its adapter: BASE+ADAPTER, or 'embedded'.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, which must be new.")],
    dialect: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Wording and coordinate format of the questions, to store with the model.",
            show_default="the adapter's dialect.json",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Number format of the weights: float32, bfloat16 or float16.", show_default="the base model's"
        ),
    ] = None,
) -> None:
    """Merge an adapter into its base model: one folder, which transformers and vLLM load."""
    from sam4mllm_tool.training.merge_adapter import export as merge_adapter

    print(f"wrote {merge_adapter(mllm, out, dialect=dialect, dtype=dtype)}")
