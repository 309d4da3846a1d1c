"""The settings of a training run: from a file, from flags, the paper's where nothing is said."""

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.pipeline.sam4mllm import METHODS

__all__ = ["TrainingConfig", "differences", "read_config"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is tuned. The defaults are the paper's recipe; the rest is off or chosen for the machine.

    mllm: `embedded` (the base that comes with the package, without its adapter), a folder or a hub id; `BASE+ADAPTER` goes on
    from an adapter, as `init_adapter` does. lessons: a folder that `sam4mllm data build` wrote; data: or data sets to build it
    from, each NAME:ROOT or NAME:ROOT:SPLIT, into `out`/lessons, by the settings of `recipe` (those of `data build`), with
    vqa_data, held_out and build_processes as there; for sets that take hours, build first. out: the folder for the result,
    with `checkpoints` in it. dialect: a name; by default the one that the lessons were written in.

    lora_targets: names of layers inside the language model, or a regular expression for full names. projector: whether the
    projector is trained too, or full names of what is.

    projector_learning_rate: another rate for what is trained whole. warmup: share of the steps, or from 1 on a number of
    steps. max_grad_norm: 0 leaves gradients as long as they are. max_steps: stops there whatever `epochs` says. batch: rows a
    pass, on each device; accumulation: passes a step. max_tokens: of a row, beside the picture's; a lesson that has more takes
    several rows. pack: whether the answers of a lesson share a row, where the model can. precision: `auto` is bfloat16 where
    the device computes in it. attention: as in transformers, or `branches`, ours for packed rows; `auto` is that on a CPU
    where rows are packed, sdpa elsewhere.
    quantise: the base in 4 bits (QLoRA), by bitsandbytes.

    save_every: steps between checkpoints; keep: how many stay. report_to: beside metrics.jsonl. workers: processes that open
    pictures. eval_data: NAME:ROOT, whose `eval_split` gives the first `eval_count` samples that are segmented for real with
    `eval_segmenter`, by each of `eval_methods`, every `eval_every` steps and at the end; their pictures may not be among the
    lessons. deepspeed, fsdp_config: files or
    tables, and fsdp: an option string, passed on to transformers' TrainingArguments.
    """

    mllm: str = "embedded"
    lessons: str = ""
    data: tuple[str, ...] = ()
    vqa_data: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
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
    report_to: Literal["tensorboard", "wandb", "none"] = "tensorboard"
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
        """Raises ValueError for what could only fail later."""
        if not self.out:
            raise ValueError("a training needs 'out', the folder for its result")
        if bool(self.lessons) == bool(self.data):
            raise ValueError("a training needs either 'lessons', a folder of them, or 'data' to build them from")
        if self.init_adapter and "+" in self.mllm:
            raise ValueError(f"an adapter is given twice, in mllm {self.mllm!r} and as init_adapter {self.init_adapter!r}")
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"expected {name} of at least {low}, got {value}")
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
            raise ValueError("eval_data needs whole weights on each device, and fsdp shards them: leave one of them out")

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "TrainingConfig":
        """Settings as a file or flags tell them. Raises ValueError naming the unknown one, or the one of a wrong type."""
        hints = get_type_hints(cls)
        if unknown := sorted(set(told) - set(hints)):
            raise ValueError(f"there is no setting {unknown[0]!r}: the settings are {', '.join(hints)}")
        return cls(**{name: _typed(name, value, hints[name]) for name, value in told.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON that `from_dict` reads."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


_LEAST = {
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
"""The least that whole numbers may be."""

_FREE = frozenset(
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
"""What may change between a run and its resumption, for it changes nothing of what is learnt."""


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a resumed run would do otherwise, each as `name: before -> now`."""
    names = sorted((set(before) | set(now)) - _FREE)
    return [f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in names if before.get(name) != now.get(name)]


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a TOML, JSON or YAML file. Raises DataError for a file that can't be read as what its name says."""
    try:
        text = path.read_text(encoding="utf-8")
        match path.suffix.lower():
            case ".toml":
                told: Any = tomllib.loads(text)
            case ".json":
                told = json.loads(text)
            case ".yaml" | ".yml":
                told = _yaml(text)
            case other:
                raise DataError(f"{path}: expected a file ending in .toml, .json or .yaml, got {other or 'no ending'}")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"the settings in {path} can't be read: {reason}") from error
    if not isinstance(told, dict):
        raise DataError(f"{path}: expected settings as names with values, got {type(told).__name__}")
    return told


def _yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped] # comes with transformers

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the setting's type has it: a list as a tuple, a whole number where one with a fraction may be."""
    for kind in get_args(hint) if get_origin(hint) in (UnionType,) or str(hint).startswith("typing.Union") else (hint,):
        if (fitting := _as(value, kind)) is not None or (kind is NoneType and value is None):
            return fitting
    expected = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"expected {name} as {expected}, got {value!r}")


def _as(value: Any, kind: Any) -> Any:
    """The value as one kind, None where it isn't of that kind."""
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
