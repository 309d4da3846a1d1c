"""The reference files of the RefCOCO family: pickles such as refs(unc).p, and gRefCOCO's grefs(unc).json.

Unpickling runs any code that a file names, so that only plain values are unpickled here. Python 2 wrote the published files:
their strings are read as latin-1, and their builtins are in `__builtin__`.
"""

import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import normalize_expression
from sam4mllm_tool.errors import DataError

__all__ = ["Reference", "load_plain_pickle", "read_references"]

_NO_TARGET = -1
_PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (dict, list, tuple, set, frozenset, str, int, float, bool)}
_PLAIN |= {"unicode": str, "long": int}
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What pickle raises for bytes that are no pickle, or a truncated one."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Objects of an image and the sentences, with their ids, that refer to them. No annotation ids: no such object."""

    id: int
    image_id: int
    split: str
    annotation_ids: tuple[int, ...]
    sentences: tuple[tuple[int, str], ...]


def read_references(path: Path) -> Iterator[Reference]:
    """Yield the references of a file of either format, in its order. Raises DataError naming the file and the record."""
    records: Iterator[Any] = (
        (record for _, record in stream_arrays(path)) if path.suffix == ".json" else _read_pickled_list(path)
    )
    for number, record in enumerate(records):
        try:
            yield _read_reference(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}, reference {number}: not a reference, {type(error).__name__}: {error}") from error


def _read_pickled_list(path: Path) -> Iterator[Any]:
    records = load_plain_pickle(path)
    if not isinstance(records, list):
        raise DataError(f"{path} holds a {type(records).__name__}, expected a list of references")
    yield from records


def _read_reference(record: Mapping[str, Any]) -> Reference:
    annotated = record["ann_id"]
    ids = tuple(annotated) if isinstance(annotated, list | tuple) else (annotated,)
    if not all(isinstance(number, int) for number in (record["ref_id"], record["image_id"], *ids)):
        raise ValueError(f"ids are not integers: {record!r:.100}")
    sentences = tuple((int(sent["sent_id"]), normalize_expression(sent["sent"])) for sent in record["sentences"])
    targets = tuple(number for number in dict.fromkeys(ids) if number != _NO_TARGET)
    return Reference(record["ref_id"], record["image_id"], str(record["split"]), targets, sentences)


class _ForbiddenNameError(Exception):
    """The pickle names a class or function that is no plain value."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _PLAIN:
            return _PLAIN[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise _ForbiddenNameError(f"{module}.{name}")


def load_plain_pickle(path: Path) -> Any:
    """Unpickle a file of builtin containers, numbers and strings.

    Raises:
        DataError: The file is missing, truncated or damaged, or names any other class or function, which is neither imported
            nor called.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except _ForbiddenNameError as error:
        raise DataError(f"{path} names {error}, but only plain values are read; don't unpickle it by other means") from error
    except _UNPICKLING_ERRORS as error:
        raise DataError(f"{path} is damaged or no pickle, download it again ({type(error).__name__}: {error})") from error
