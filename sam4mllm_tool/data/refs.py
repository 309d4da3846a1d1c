"""The reference files of the RefCOCO family: refs(unc).p and its like, pickled, and gRefCOCO's grefs(unc).json."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.pickles import load_plain_pickle
from sam4mllm_tool.data.reader import one_line
from sam4mllm_tool.errors import DataError

__all__ = ["Reference", "read_references"]

_NO_TARGET = -1


@dataclass(frozen=True, slots=True)
class Reference:
    """Objects of a picture and the sentences that mean them. annotation_ids: none where there is no such object."""

    id: int
    image_id: int
    split: str
    annotation_ids: tuple[int, ...]
    sentences: tuple[tuple[int, str], ...]


def read_references(path: Path) -> Iterator[Reference]:
    """The references of a file of either format, in its order. Raises DataError naming the file and the record."""
    records: Iterator[Any] = (record for _, record in stream_arrays(path)) if path.suffix == ".json" else _unpickled(path)
    for number, record in enumerate(records):
        try:
            yield _read(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}, reference {number}: not a reference, {type(error).__name__}: {error}") from error


def _unpickled(path: Path) -> Iterator[Any]:
    records = load_plain_pickle(path)
    if not isinstance(records, list):
        raise DataError(f"{path} holds a {type(records).__name__}, expected a list of references")
    yield from records


def _read(record: Mapping[str, Any]) -> Reference:
    named = record["ann_id"]
    ids = tuple(named) if isinstance(named, list | tuple) else (named,)
    if not all(isinstance(number, int) for number in (record["ref_id"], record["image_id"], *ids)):
        raise ValueError(f"ids are not whole numbers: {record!r:.100}")
    sentences = tuple((int(one["sent_id"]), one_line(one["sent"])) for one in record["sentences"])
    known = tuple(number for number in dict.fromkeys(ids) if number != _NO_TARGET)
    return Reference(record["ref_id"], record["image_id"], str(record["split"]), known, sentences)
