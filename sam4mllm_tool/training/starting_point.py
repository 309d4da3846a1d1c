"""What a tuning starts from: the weights that a spec names for `segment`, or its base alone with a new adapter.

`embedded` is a base with the adapter that comes with the package, here as everywhere. An adapter that is continued is saved as
a whole, so that `BASE+OUT` loads the result: nothing is stacked, and `embedded+OUT` takes it in place of the shipped one.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder, find_file
from sam4mllm_tool.models.mllm import EMBEDDED
from sam4mllm_tool.models.mllm.model_specs import find_parts
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.training.config import TrainingConfig

__all__ = ["StartingPoint", "find_starting_point"]


@dataclass(frozen=True)
class StartingPoint:
    """The base and the adapter, if any, that training continues.

    Attributes:
        base: The base's spec, which `BASE+OUT` begins with.
        folder: The base's folder or hub id.
        adapter: Folder or hub id of the adapter that is continued; None for a new one.
        shipped: Whether the adapter is the one that comes with the package.
    """

    base: str
    folder: str
    adapter: str | None
    shipped: bool = False

    def describe(self) -> str:
        """Return what training starts from, in one line."""
        if self.shipped:
            return f"continues the adapter that comes with {self.base!r}; --from-base starts a new one"
        return f"starts a new adapter on {self.base!r}" if self.adapter is None else f"continues the adapter {self.adapter!r}"

    def result_spec(self, out: str | Path) -> str:
        """Return the model spec of the adapter that training writes to `out`."""
        return f"{self.base}+{out}"


def find_starting_point(config: TrainingConfig) -> StartingPoint:
    """Return what training starts from.

    Raises:
        SpecError: The spec is incomplete, or settings of a new adapter are given where another is continued.
    """
    base, adapter = find_parts(config.mllm)
    adapter = adapter or config.init_adapter
    if adapter is not None and config.from_base:
        raise SpecError(f"from_base starts a new adapter, but {adapter!r} is to be continued: leave out one of the two")
    folder, shipped = base, False
    if base == EMBEDDED:
        folder = embedded_folder("mllm")
        if adapter is None and not config.from_base:
            adapter, shipped = embedded_folder("adapter"), True
    start = StartingPoint(base, folder, adapter, shipped)
    if adapter is not None:
        _require_no_other_shape(config, start)
    return start


def _require_no_other_shape(config: TrainingConfig, start: StartingPoint) -> None:
    """Refuse settings of a new adapter that differ from those of the one that is continued: they would have no effect."""
    file = find_file(str(start.adapter), "adapter_config.json")
    if file is None:
        return  # loading it says what is wrong
    default = TrainingConfig(lessons="-", out="-")
    continued = _read_settings(file)
    for name, key in (("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout")):
        value = getattr(config, name)
        if value not in (getattr(default, name), continued.get(key)):
            raise SpecError(
                f"{name} = {value} has no effect: training {start.describe()}, whose {name} is {continued.get(key)}. Leave it "
                "out, or set from_base (--from-base) to train a new adapter"
            )


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"{file} can't be read: {error}") from error
    if not isinstance(settings, dict):
        raise SpecError(f"{file} can't be read: expected a JSON object")
    return settings
