"""Read the masks that another system predicted from lines of JSON: `{"id": ..., "mask": COCO RLE or null, "no_target": bool}`.

no_target, whether the system states that there is no such object, counts only under the protocols rela and gsva; without it,
a mask of null or without a pixel states that. Lines may have any order; a sample without a line is a miss. In place of the file
there may be a folder with the results of `sam4mllm batch`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sam4mllm_tool.data.batch_output import iter_batch_results
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Mask, Size

__all__ = ["Prediction", "read_predictions"]


@dataclass(frozen=True)
class Prediction:
    """A line, its mask still encoded.

    Attributes:
        location: The file and the line's number, for error messages.
        code: COCO RLE; None for null.
        no_target: Whether there is stated to be no such object; None where the line doesn't say.
    """

    location: str
    code: Mapping[str, Any] | None
    no_target: bool | None = None

    def mask(self, size: Size) -> Mask:
        """Return the mask, (H, W) bool, empty for null.

        Raises:
            DataError: The mask has another size or can't be decoded. The message names the line.
        """
        if self.code is None:
            return np.zeros((size.height, size.width), np.bool_)
        actual, expected = self.code.get("size"), [size.height, size.width]
        if isinstance(actual, list) and actual != expected:
            raise DataError(f"{self.location}: the mask's size is {actual}, the image's {expected} (height, width)")
        try:
            return rle.decode(self.code)
        except ValueError as error:
            raise DataError(f"{self.location}: the mask is no COCO RLE: {error}") from error

    def states_none(self, mask: Mask) -> bool:
        """Return whether the system states that there is no such object; `mask` is this prediction's, decoded."""
        return not mask.any() if self.no_target is None else self.no_target


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Read a file of predictions, or the folder of a batch job's results, by sample id.

    Raises:
        DataError: The file can't be read or is empty, a line is no prediction, or an id repeats. The message names the line.
    """
    predictions: dict[str, Prediction] = {}
    try:
        for name, prediction in _iter_batch(path) if path.is_dir() else _iter_lines(path):
            if name in predictions:
                first = predictions[name].location.rpartition(", ")[2]
                raise DataError(f"{prediction.location}: {name!r} has a prediction already, in {first}")
            predictions[name] = prediction
    except OSError as error:
        raise DataError(f"the predictions can't be read from {path}: {error.strerror or error}") from error
    if not predictions:
        raise DataError(f"{path} holds no prediction")
    return predictions


def _iter_batch(folder: Path) -> Iterator[tuple[str, Prediction]]:
    for location, name, code in iter_batch_results(folder):
        yield name, Prediction(location, code)


def _iter_lines(path: Path) -> Iterator[tuple[str, Prediction]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _parse_line(line, f"{path}, line {number}")


def _parse_line(line: bytes, location: str) -> tuple[str, Prediction]:
    try:
        fields = parse_json(line)
    except ValueError as error:
        raise DataError(f"{location}: not JSON: {error}") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("id"), str | int) or "mask" not in fields:
        raise DataError(f'{location}: expected {{"id": ..., "mask": RLE or null}}, got {line[:80]!r}')
    mask, no_target = fields["mask"], fields.get("no_target")
    if not isinstance(mask, dict | None):
        raise DataError(f"{location}: expected the mask as a COCO RLE or null, got {str(mask)[:80]!r}")
    if not isinstance(no_target, bool | None):
        raise DataError(f"{location}: expected no_target as true or false, got {no_target!r}")
    return str(fields["id"]), Prediction(location, mask, no_target)
