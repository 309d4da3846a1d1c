"""The splits of a dataset on disk, and the reader options of a command line."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sam4mllm_tool.data import DATASETS, PUBLISHED_COUNTS, Dataset, load_dataset
from sam4mllm_tool.data.jsonl import ALL, list_jsonl_splits
from sam4mllm_tool.errors import DataError

__all__ = ["AvailableSplits", "open_splits", "read_options"]

_SPLITS = ("train", "val", "test")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class AvailableSplits:
    """The splits that can be read, and the reason for each that can't, by name."""

    opened: Mapping[str, Dataset]
    missing: Mapping[str, str]


def open_splits(name: str, root: Path, split: str | None, options: Mapping[str, Any]) -> AvailableSplits:
    """Open one split of a dataset, or all of them.

    Args:
        name: The dataset's name for `load_dataset`.
        root: The dataset's folder.
        split: The split's name; None for all that exist.
        options: The reader's options.

    Raises:
        DataError: No split can be opened; the message is that of the first one.
    """
    opened: dict[str, Dataset] = {}
    missing: dict[str, DataError] = {}
    for candidate in [split] if split else _split_names(name, root, options.get("file")):
        try:
            opened[candidate] = load_dataset(name, root, candidate, **options)
        except DataError as error:
            missing[candidate] = error
    if not opened:
        raise next(iter(missing.values()))
    return AvailableSplits(opened, {candidate: str(error) for candidate, error in missing.items()})


def _split_names(name: str, root: Path, file: str | None) -> Sequence[str]:
    """List the dataset's splits. Users' own are those that files are named after or lines name, or else all of the data."""
    if name == "jsonl" and root.exists():
        try:
            return tuple(list_jsonl_splits(root / file if file else root)) or (ALL,)
        except DataError:
            return (ALL,)  # opening it says what is wrong
    return tuple(PUBLISHED_COUNTS.get(name, _SPLITS))


def read_options(name: str, pairs: Sequence[str]) -> dict[str, Any]:
    """Parse a reader's options from `key=value` texts, each to the type of its default.

    Unknown options are kept as text, for `load_dataset` to refuse. Raises DataError for text of another form.
    """
    options: dict[str, Any] = {}
    known = _reader_parameters(name)
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise DataError(f"expected an option as key=value, got {pair!r}")
        options[key] = _convert_option(key, value, known[key].default if key in known else "")
    return options


def _reader_parameters(name: str) -> Mapping[str, inspect.Parameter]:
    if name not in DATASETS:
        return {}
    module, reader = DATASETS[name]
    return inspect.signature(getattr(import_module(f"sam4mllm_tool.data.{module}"), reader)).parameters


def _convert_option(key: str, value: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return _BOOLEANS[value.lower()]
        return type(default)(value) if isinstance(default, int | float) else value
    except (KeyError, ValueError) as error:
        raise DataError(f"expected the option {key} as a {type(default).__name__}, got {value!r}") from error
