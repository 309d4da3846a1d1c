"""A dataset as a command line names it: `NAME:ROOT`, `NAME:ROOT:SPLIT`, with `?KEY=VALUE` for its reader."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.sample import Dataset
from sam4mllm_tool.errors import DataError

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """A dataset to train on: its name for `load_dataset`, its root, its split and its reader's options."""

    name: str
    root: Path
    split: str = "train"
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Parse `NAME:ROOT` or `NAME:ROOT:SPLIT`, with options as `?KEY=VALUE&KEY=VALUE`. Raises DataError."""
        name, _, rest = text.partition(":")
        if not name or not rest:
            raise DataError(f"expected NAME:ROOT or NAME:ROOT:SPLIT, as in refcoco:data/coco:train, got {text!r}")
        before, mark, pairs = rest.rpartition("?")
        if mark and "=" in pairs and not Path(rest).exists():
            return cls.parse(f"{name}:{before}").with_options(pairs.split("&"))
        root, colon, split = rest.rpartition(":")
        if not colon or not root or Path(rest).exists():
            return cls(name, Path(rest))
        return cls(name, Path(root), split)

    def with_options(self, pairs: Sequence[str]) -> "Source":
        """Add options given as KEY=VALUE; those already set win. Raises DataError for other text."""
        from sam4mllm_tool.data.splits import read_options

        return replace(self, options={**read_options(self.name, pairs), **self.options})

    def to_dict(self) -> dict[str, Any]:
        """Return values for JSON that don't depend on the working directory."""
        return asdict(self) | {"root": str(self.root.resolve())}

    def open(self) -> Dataset:
        """Load the dataset."""
        from sam4mllm_tool.data import load_dataset

        return load_dataset(self.name, self.root, split=self.split, **self.options)
