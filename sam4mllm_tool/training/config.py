"""The settings of a training run: from a file or flags, with the paper's values as defaults."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.pipeline.sam4mllm import METHODS
from sam4mllm_tool.text import parse_json

__all__ = ["TrainingConfig", "list_differences", "read_config"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is tuned. The defaults are the paper's; what the paper has no value for is off or chosen for the machine.

    Attributes:
        mllm: `embedded` (the pair's base, with the adapter that comes with the package, which is continued), a folder or a hub
            id. `BASE+ADAPTER` continues training an adapter, as `init_adapter` does.
        from_base: Whether `embedded` is its base alone, so that a new adapter is trained.
        lessons: A folder of training conversations that `sam4mllm data build` wrote.
        data: In place of `lessons`, datasets to build the training conversations from, each NAME:ROOT or NAME:ROOT:SPLIT.
            They are built into `out`/lessons; for datasets that take hours, run `sam4mllm data build` first.
        vqa_data: Conversations to mix in, NAME:ROOT, as in `sam4mllm data build`.
        held_out: Roots of RefCOCO datasets whose val and test images are left out, as in `sam4mllm data build`.
        held_back: Images of `data` that are not trained on but segmented before and after: a share of them if below 1, else
            their number; 0 for none. By default a tenth of them, at most 20, unless there is `eval_data`.
        recipe: Settings of `sam4mllm data build` for `data`.
        build_processes: Processes that build training conversations from `data`.
        out: The folder for the result; checkpoints are in its folder `checkpoints`.
        dialect: A dialect's name, by default the one that the training conversations were built with.
        init_adapter: The adapter to continue training.
        device: As in torch, by default a GPU if there is one.

        lora_r: Rank of LoRA.
        lora_alpha: Scale of LoRA.
        lora_dropout: Dropout of LoRA, in [0, 1).
        lora_targets: Names of layers inside the language model, or a regular expression for full names.
        projector: Whether the projector is trained too, or full names of the modules that are trained in full.

        learning_rate: Peak learning rate.
        projector_learning_rate: Learning rate of the modules that are trained in full, by default `learning_rate`.
        weight_decay: As in AdamW.
        schedule: Name of a learning-rate schedule of transformers.
        warmup: Warm-up as a share of the steps if below 1, else as a number of steps.
        optimiser: Name of an optimizer of transformers.
        adam_beta2: As in Adam.
        max_grad_norm: Largest norm of the gradient; 0 turns clipping off.
        epochs: Passes over the data.
        max_steps: Optimizer steps, whatever `epochs` is.
        batch: Rows per pass and device.
        accumulation: Passes per optimizer step.
        max_tokens: Most tokens per row, not counting the image's. Longer training conversations take several rows.
        pack: Whether all answers about an image share a row, where the model supports it.
        precision: `auto` is bfloat16 where the device computes in it.
        attention: As in transformers, or `branches`, this package's for packed rows. `auto` is `branches` for packed rows on a
            CPU and `sdpa` elsewhere.
        quantise: `4bit` loads the base in 4 bits with bitsandbytes (QLoRA).
        gradient_checkpointing: Whether activations are recomputed in the backward pass to save memory.
        seed: Of initialization, dropout and order.

        save_every: Steps between checkpoints.
        keep: Number of checkpoints that stay.
        log_every: Steps between lines of metrics.jsonl.
        report_to: Where metrics go besides metrics.jsonl; `auto` is TensorBoard where it is installed.
        workers: Processes that load images; 0 loads them in the training process.
        eval_data: NAME:ROOT of samples to segment during training. Their images must not be trained on.
        eval_split: Split of `eval_data`.
        eval_count: Number of its samples.
        eval_methods: Methods to segment them by.
        eval_segmenter: Segmenter to segment them with.
        eval_every: Steps between evaluations; the last step is always followed by one.

        deepspeed: A file or table for transformers' TrainingArguments.
        fsdp: An option string for TrainingArguments.
        fsdp_config: A file or table for TrainingArguments.
    """

    mllm: str = "embedded"
    from_base: bool = False
    lessons: str = ""
    data: tuple[str, ...] = ()
    vqa_data: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    held_back: float | None = None
    recipe: dict[str, Any] | None = None
    build_processes: int = 1
    out: str = ""
    dialect: str | None = None
    init_adapter: str | None = None
    device: str | None = None

    lora_r: int = 128
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    lora_targets: str | tuple[str, ...] | None = None
    projector: bool | tuple[str, ...] = True

    learning_rate: float = 1e-4
    projector_learning_rate: float | None = None
    weight_decay: float = 1e-3
    schedule: str = "linear"
    warmup: float = 0.01
    optimiser: str = "adamw_torch"
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    epochs: float = 3.0
    max_steps: int | None = None
    batch: int = 1
    accumulation: int = 8
    max_tokens: int = 1536
    pack: bool = True
    precision: Literal["auto", "bf16", "float32"] = "auto"
    attention: Literal["auto", "branches", "eager", "sdpa"] = "auto"
    quantise: Literal["none", "4bit"] = "none"
    gradient_checkpointing: bool = False
    seed: int = 0

    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    report_to: Literal["auto", "tensorboard", "wandb", "none"] = "auto"
    workers: int = 0

    eval_data: str | None = None
    eval_split: str = "val"
    eval_count: int = 100
    eval_methods: tuple[str, ...] = ("pqpp",)
    eval_segmenter: str = "embedded"
    eval_every: int = 500

    deepspeed: str | dict[str, Any] | None = None
    fsdp: str | None = None
    fsdp_config: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for settings that would fail later."""
        if not self.out:
            raise ValueError("training needs 'out', the folder for its result")
        if bool(self.lessons) == bool(self.data):
            raise ValueError(
                "training needs either 'lessons', a folder of training conversations, or 'data' to build them from"
            )
        if self.init_adapter and "+" in self.mllm:
            raise ValueError(f"an adapter is given twice, in mllm {self.mllm!r} and as init_adapter {self.init_adapter!r}")
        for name, minimum in _MINIMUMS.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"expected {name} of at least {minimum}, got {value}")
        for name in ("learning_rate", "projector_learning_rate", "epochs"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"expected {name} above 0, got {value}")
        for name in ("weight_decay", "warmup", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} of 0 or above, got {getattr(self, name)}")
        for name in ("lora_dropout", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"expected {name} from 0 to below 1, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise ValueError(f"expected seed below 2 ** 32, got {self.seed}")
        self._check_evaluation()
        self._check_held_back()

    def _check_evaluation(self) -> None:
        if self.eval_data is None:
            return
        name, _, root = self.eval_data.partition(":")
        if not name or not root:
            raise ValueError(f"expected eval_data as NAME:ROOT, as in refcoco:data/coco, got {self.eval_data!r}")
        if unknown := [method for method in self.eval_methods if method not in METHODS]:
            raise ValueError(f"expected eval_methods among {', '.join(METHODS)}, got {unknown[0]!r}")
        if not self.eval_methods:
            raise ValueError(f"eval_data needs eval_methods: some of {', '.join(METHODS)}")
        if self.fsdp:
            raise ValueError("eval_data needs all weights on each device, but fsdp shards them: leave out one of the two")

    def _check_held_back(self) -> None:
        if self.held_back is None:
            return
        if not 0 <= self.held_back < math.inf or (self.held_back > 1 and self.held_back % 1):
            raise ValueError(f"expected held_back as a share below 1 or as a number of images, got {self.held_back}")
        if self.held_back and not self.data:
            raise ValueError("held_back takes images out of 'data'; with 'lessons', name samples to measure on in eval_data")
        if self.held_back and self.eval_data:
            raise ValueError("expected samples to measure on either from held_back or from eval_data, got both")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "TrainingConfig":
        """Convert settings from a file or flags. Raises ValueError naming an unknown setting or one of the wrong type."""
        hints = get_type_hints(cls)
        if unknown := sorted(set(settings) - set(hints)):
            raise ValueError(f"there is no setting {unknown[0]!r}: the settings are {', '.join(hints)}")
        return cls(**{name: _convert(name, value, hints[name]) for name, value in settings.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON that `from_dict` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_MINIMUMS = {
    "lora_r": 1,
    "lora_alpha": 1,
    "max_steps": 1,
    "batch": 1,
    "build_processes": 1,
    "accumulation": 1,
    "max_tokens": 1,
    "save_every": 1,
    "keep": 1,
    "log_every": 1,
    "eval_every": 1,
    "eval_count": 1,
    "workers": 0,
    "seed": 0,
}
"""Smallest allowed values of whole numbers."""

_WITHOUT_EFFECT = frozenset(
    (
        "out",
        "save_every",
        "keep",
        "log_every",
        "report_to",
        "workers",
        "build_processes",
        *(f.name for f in fields(TrainingConfig) if f.name[:5] == "eval_"),
    )
)
"""Settings that may change when a run is resumed, because they have no effect on what is learnt."""


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the changed settings that would change what a resumed run learns, each as `name: before -> now`."""
    if "from_base" not in before:  # a run of before 0.3.0, in which `embedded` was the base alone
        before = {**before, "from_base": before.get("mllm") == "embedded" and not before.get("init_adapter")}
    names = sorted((set(before) | set(now)) - _WITHOUT_EFFECT)
    return [f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]


def read_config(path: Path) -> dict[str, Any]:
    """Read the settings in a TOML, JSON or YAML file. Raises DataError if it can't be read as what its suffix says."""
    parsers: dict[str, Callable[[str], Any]]
    parsers = {".toml": tomllib.loads, ".json": parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml}
    parse = parsers.get(path.suffix.lower())
    if parse is None:
        raise DataError(f"{path}: expected a file ending in .toml, .json or .yaml, got {path.suffix or 'no suffix'}")
    try:
        settings = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the settings in {path} can't be read: {reason}") from error
    if not isinstance(settings, dict):
        raise DataError(f"{path}: expected settings as names with values, got {type(settings).__name__}")
    return settings


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped] # comes with transformers

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Convert a value to its setting's type: a list to a tuple, an int to a float."""
    for kind in get_args(hint) if get_origin(hint) in (UnionType,) or str(hint).startswith("typing.Union") else (hint,):
        if (converted := _convert_to(kind, value)) is not None or (kind is NoneType and value is None):
            return converted
    expected = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"expected {name} as {expected}, got {value!r}")


def _convert_to(kind: Any, value: Any) -> Any:
    """Convert a value to one type; None if it isn't of that type."""
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else None
    if get_origin(kind) is tuple:
        return tuple(value) if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value) else None
    if get_origin(kind) is dict:
        return value if isinstance(value, dict) else None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return None
    return value if isinstance(kind, type) and isinstance(value, kind) else None
