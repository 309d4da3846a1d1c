"""Large JSON files one record at a time: the arrays of an object (COCO, VQAv2), or an array alone (LLaVA).

The file is read in pieces, and as much of it is held as its largest record takes, however long its arrays are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from sam4mllm_tool.errors import DataError

__all__ = ["stream_arrays"]

_PIECE = 1 << 18  # characters read at a time
_LONGEST = 1 << 26  # characters of one record; what is longer is damage: an array or a quote that never closes
_DECODE = json.JSONDecoder().raw_decode


def stream_arrays(path: Path) -> Iterator[tuple[str, Any]]:
    """Each record of each array, in the file's order, with the array's key; "" where the file is one array.

    Keys whose value is no array are passed over. Raises DataError naming the file and the record where it is not there, not
    UTF-8, not JSON, or cut off; what came before has been given by then.
    """
    if not path.is_file():
        raise DataError(f"{path} is not there")
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Scanner(path, file).arrays()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error


class _Scanner:
    """Where we are in the file: `_at` in `_held`, which begins `_passed` characters into it."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._held = ""
        self._at = 0
        self._passed = 0
        self._where = "at its start"

    def arrays(self) -> Iterator[tuple[str, Any]]:
        if self._peek() == "[":
            yield from (("", record) for record in self._array("the array"))
        else:
            yield from self._object()
        if self._peek():
            raise self._damaged("something follows its end")

    def _object(self) -> Iterator[tuple[str, Any]]:
        self._take("{")
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise self._damaged("expected a key in quotes")
            self._take(":")
            if self._peek() == "[":
                for record in self._array(f"'{key}'"):
                    yield key, record
            else:
                self._where = f"in '{key}'"
                self._value()
            if self._peek() != "}":
                self._take(",")
        self._take("}")

    def _array(self, name: str) -> Iterator[Any]:
        self._take("[")
        number = 0
        while self._peek() != "]":
            self._where = f"in record {number} of {name}"
            yield self._value()
            number += 1
            if self._peek() != "]":
                self._take(",")
                if self._peek() == "]":
                    raise self._damaged("a comma with nothing after it")
        self._take("]")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODE(self._held, self._at)
            except RecursionError as error:
                raise self._damaged("it is nested too deeply") from error
            except json.JSONDecodeError as error:
                if len(self._held) - self._at > _LONGEST or not self._more():
                    raise self._damaged(error.msg) from error
                continue
            goes_on = (
                end == len(self._held) or self._held[end] in ".eE"
            )  # a number that the end of the piece cuts: "1", "1.", "1e"
            if not goes_on or not self._more():
                self._at = end
                return value

    def _peek(self) -> str:
        """The next character that is not blank, "" at the end of the file."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def _take(self, expected: str) -> None:
        found = self._peek()
        if found != expected:
            raise self._damaged(f"expected {expected!r}, found {found!r}" if found else "the file ends")
        self._at += 1

    def _more(self) -> bool:
        """Holds on from `_at`, at least twice as much as before, so that a long record is not decoded once a piece."""
        piece = self._file.read(max(_PIECE, len(self._held) - self._at))
        self._passed += self._at
        self._held = self._held[self._at :] + piece
        self._at = 0
        return bool(piece)

    def _damaged(self, what: str) -> DataError:
        return DataError(f"{self._path} is not whole JSON, {self._where}, at character {self._passed + self._at:,}: {what}")
