"""Read the arrays of a large JSON file record by record: those of an object (COCO, VQAv2), or one array alone (LLaVA).

ijson parses the file in chunks, so that memory holds one chunk and its records, however large the file is.
"""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError, MissingExtraError

__all__ = ["stream_arrays"]

_CHUNK_BYTES = 1 << 18


def stream_arrays(path: Path, *keys: str) -> Iterator[tuple[str, Any]]:
    """Yield every record of the top-level arrays called `keys`, or of the file's one array where no key is given.

    Other keys are skipped. Integers must fit into 64 bits.

    Yields:
        The array's key ("" for the file's one array) and the record. The order within an array is the file's; arrays that
        share a chunk come in the order of `keys`.

    Raises:
        DataError: The file is missing, unreadable, truncated or not JSON in UTF-8. The message names the file and the last
            record that could be read; the records before the damage have been yielded by then.
        MissingExtraError: ijson is not installed.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        yield from _parse(path, keys or ("",))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


def _parse(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    ijson = _import_ijson()
    records = {key: ijson.sendable_list() for key in keys}
    # One parser per key: ijson builds records in C for a fixed prefix only, several times faster than from events in Python.
    parsers = {key: ijson.items_coro(records[key], f"{key}.item" if key else "item", use_float=True) for key in keys}
    counts = dict.fromkeys(keys, 0)
    position = "at the start"
    with path.open("rb") as file:
        chunk = file.read(_CHUNK_BYTES).removeprefix(BOM_UTF8)
        while True:
            error = _feed(parsers.values(), chunk, ijson.JSONError)
            active = [key for key in parsers if records[key]]
            for key in active:
                for record in records[key]:
                    yield key, record
                counts[key] += len(records[key])
                records[key].clear()
                position = f"after record {counts[key] - 1} of {repr(key) if key else 'the array'}"
            if error is not None:
                reason = str(error).partition("\n")[0].strip().removeprefix("b'").removesuffix("\\n")
                raise DataError(f"{path} is damaged or not JSON in UTF-8, {position}: {reason}") from error
            if not chunk:
                return
            if active:  # an array that had records before and has none now has ended: its parser would only cost time
                parsers = {key: parser for key, parser in parsers.items() if key in active or not counts[key]}
            chunk = file.read(_CHUNK_BYTES)


def _feed(parsers: Iterable[Any], chunk: bytes, json_error: type[Exception]) -> Exception | None:
    """Send a chunk to every parser, or close them at the end of the file; return the error of the first one that fails."""
    failure: Exception | None = None
    for parser in parsers:
        try:
            if chunk:
                parser.send(chunk)
            else:
                parser.close()
        except (json_error, UnicodeDecodeError) as error:  # ijson's Python backend raises the latter
            failure = failure or error
    return failure


def _import_ijson() -> Any:
    try:
        return import_module("ijson")
    except ImportError as error:
        raise MissingExtraError("ijson", "train") from error
