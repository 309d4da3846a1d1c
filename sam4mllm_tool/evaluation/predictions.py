"""Masks that another system made, a line of JSON each: `{"id": sample id, "mask": COCO RLE or null, "no_target": bool}`.

no_target, whether the system says that there is no such object, counts under rela and gsva alone; without it, that is what a
mask of null or without a pixel says. Lines may stand in any order; a sample without a line is a miss.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.types import Mask, Size

__all__ = ["Prediction", "read_predictions"]


@dataclass(frozen=True)
class Prediction:
    """A line, still encoded. where: the file and the number of the line."""

    where: str
    code: Mapping[str, Any] | None
    no_target: bool | None = None

    def mask(self, size: Size) -> Mask:
        """(H, W) bool, empty for null. Raises DataError naming the line where it is of another size or can't be decoded."""
        if self.code is None:
            return np.zeros((size.height, size.width), np.bool_)
        told = self.code.get("size")
        if isinstance(told, list) and told != [size.height, size.width]:
            raise DataError(
                f"{self.where}: the mask's size is {told}, the picture's {[size.height, size.width]} (height, width)"
            )
        try:
            return rle.decode(self.code)
        except ValueError as error:
            raise DataError(f"{self.where}: the mask is no COCO RLE: {error}") from error

    def states_none(self, mask: Mask) -> bool:
        return not mask.any() if self.no_target is None else self.no_target


def read_predictions(path: Path) -> dict[str, Prediction]:
    """By sample id. Raises DataError naming the line that is not one, or that tells of a sample a second time."""
    found: dict[str, Prediction] = {}
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                name, prediction = _read(line, where)
                if name in found:
                    raise DataError(f"{where}: {name!r} has a prediction already, in {found[name].where.rpartition(', ')[2]}")
                found[name] = prediction
    except OSError as error:
        raise DataError(f"the predictions can't be read from {path}: {error.strerror or error}") from error
    if not found:
        raise DataError(f"{path} holds no prediction")
    return found


def _read(line: bytes, where: str) -> tuple[str, Prediction]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(told, dict) or not isinstance(told.get("id"), str | int) or "mask" not in told:
        raise DataError(f'{where}: expected {{"id": ..., "mask": RLE or null}}, got {line[:80]!r}')
    mask, none = told["mask"], told.get("no_target")
    if not isinstance(mask, dict | None):
        raise DataError(f"{where}: expected the mask as a COCO RLE or null, got {str(mask)[:80]!r}")
    if not isinstance(none, bool | None):
        raise DataError(f"{where}: expected no_target as true or false, got {none!r}")
    return str(told["id"]), Prediction(where, mask, none)
