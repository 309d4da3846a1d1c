"""Which splits of a data set are on disk, and the options that a command line gives its reader."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sam4mllm_tool.data import DATASETS, PUBLISHED_COUNTS, Dataset, load_dataset
from sam4mllm_tool.errors import DataError

__all__ = ["There", "open_splits", "read_options"]

_SPLITS = ("train", "val", "test")
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class There:
    """The splits that can be opened, and of the others why not."""

    found: Mapping[str, Dataset]
    missing: Mapping[str, str]


def open_splits(name: str, root: Path, split: str | None, options: Mapping[str, Any]) -> There:
    """The named split, or all that are there. Raises DataError where none is, for the reason that the first one gave."""
    found: dict[str, Dataset] = {}
    missing: dict[str, DataError] = {}
    for one in [split] if split else _splits(name, root):
        try:
            found[one] = load_dataset(name, root, one, **options)
        except DataError as error:
            missing[one] = error
    if not found:
        raise next(iter(missing.values()))
    return There(found, {one: str(error) for one, error in missing.items()})


def _splits(name: str, root: Path) -> Sequence[str]:
    """Those that the data set has. Own data may be divided into files of any name; a file alone is all there is."""
    if name == "jsonl":
        files = [path.stem for path in sorted(root.glob("*.jsonl"))]
        return files if len(files) > 1 and "scenes" not in files else ["train"]
    return tuple(PUBLISHED_COUNTS.get(name, _SPLITS))


def read_options(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """A reader's options out of `key=value` words, each of the type of its default.

    What the reader doesn't know is passed on for `load_dataset` to refuse. Raises DataError for a word of another form.
    """
    options: dict[str, Any] = {}
    known = _parameters(name)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise DataError(f"expected an option as key=value, got {pair!r}")
        options[key] = _typed(key, value, known[key].default if key in known else "")
    return options


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in DATASETS:
        return {}
    module, reader = DATASETS[name]
    return inspect.signature(getattr(import_module(f"sam4mllm_tool.data.{module}"), reader)).parameters


def _typed(key: str, value: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return _WORDS[value.lower()]
        return type(default)(value) if isinstance(default, int | float) else value
    except (KeyError, ValueError) as error:
        raise DataError(f"the option {key} is like {default!r}, got {value!r}") from error
