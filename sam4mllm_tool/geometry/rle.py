"""COCO's run-length encoding of a mask, byte for byte as pycocotools writes it.

Runs go down the columns and start with zeros. In the compressed form each count from the fourth on is written as its difference
to the count two before it, in groups of five bits, lowest first, each group one printable character.
Source: `rleToString` and `rleFrString` in cocoapi's common/maskApi.c.

The code is our own because artifacts and datasets come from strangers: pycocotools trusts the counts, while this checks size
and counts against each other before any memory is allocated for the mask.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

__all__ = ["RLE", "check", "decode", "encode"]

_Counts = npt.NDArray[np.int64]

_FIRST_CHARACTER = ord("0")
_MAX_GROUPS = 7  # pycocotools holds a count in 32 bits; a difference takes 33
_MAX_PIXELS = 2**32 - 1


class RLE(TypedDict):
    """A mask as COCO writes it: `size` is [height, width] in pixels, `counts` the compressed runs."""

    size: list[int]
    counts: str


def encode(mask: npt.NDArray[np.bool_]) -> RLE:
    """Return the RLE of a (H, W) bool mask. Raises ValueError for another shape or dtype."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"expected a (H, W) bool mask, got shape {mask.shape} of {mask.dtype}")
    height, width = mask.shape
    return {"size": [height, width], "counts": _compress(_runs(mask))}


def decode(rle: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return the mask of an RLE.

    Args:
        rle: `size` [H, W], and `counts` compressed (str or bytes) or as a list of run lengths.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: The size or the counts are malformed, or do not fit each other.
    """
    height, width, runs = _read_runs(rle)
    down_the_columns = np.repeat(np.arange(runs.size) % 2 == 1, runs)
    return np.ascontiguousarray(down_the_columns.reshape(width, height).T)


def check(rle: Mapping[str, Any]) -> None:
    """Raise the ValueError that `decode` would raise, without making the mask."""
    _read_runs(rle)


def _read_runs(rle: Mapping[str, Any]) -> tuple[int, int, _Counts]:
    """Return height, width and run lengths. Raises ValueError where they don't fit each other."""
    height, width = _check_size(rle)
    runs, pixels = _read_counts(rle.get("counts")), height * width
    if runs.size and (runs.min() < 0 or runs.max() > pixels):
        raise ValueError(f"RLE counts hold a run of {runs.min() if runs.min() < 0 else runs.max()} in {pixels} pixels")
    if (covered := int(runs.sum())) != pixels:
        raise ValueError(f"RLE counts cover {covered} pixels, size {[height, width]} has {pixels}")
    return height, width, runs


def _read_counts(counts: Any) -> _Counts:
    if isinstance(counts, str | bytes):
        return _decompress(counts)
    if isinstance(counts, Sequence | np.ndarray):
        return _check_run_lengths(counts)
    raise ValueError(f"expected RLE counts as a string or a list of run lengths, got {type(counts).__name__}")


def _check_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if not isinstance(size, Sequence | np.ndarray) or isinstance(size, str | bytes) or len(size) != 2:
        raise ValueError(f"expected RLE size [height, width], got {size!r}")
    if not all(isinstance(side, int | np.integer) and side >= 0 for side in size):
        raise ValueError(f"expected RLE size as two whole numbers from 0, got {size!r}")
    height, width = int(size[0]), int(size[1])
    if height * width > _MAX_PIXELS:
        raise ValueError(f"RLE size {[height, width]} is more than the {_MAX_PIXELS} pixels that the format can count")
    return height, width


def _runs(mask: npt.NDArray[np.bool_]) -> _Counts:
    """Return the run lengths down the columns, zeros first."""
    flat = np.ravel(mask, order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ones_first = [0] if flat.size and flat[0] else []
    edges = np.concatenate(([0], ones_first, changes, [flat.size])).astype(np.int64)
    return edges[1:] - edges[:-1]


def _compress(runs: _Counts) -> str:
    rest = runs.copy()
    rest[3:] -= runs[1:-2]
    groups = np.empty((runs.size, _MAX_GROUPS), np.uint8)
    lengths = np.zeros(runs.size, np.int64)
    unfinished = np.ones(runs.size, np.bool_)
    for index in range(_MAX_GROUPS):
        low = rest & 31
        rest >>= 5
        lengths += unfinished
        unfinished = unfinished & (rest != np.where(low & 16, -1, 0))
        groups[:, index] = low + 32 * unfinished + _FIRST_CHARACTER
        if not unfinished.any():
            break
    return groups[np.arange(_MAX_GROUPS) < lengths[:, None]].tobytes().decode("ascii")


def _decompress(counts: str | bytes) -> _Counts:
    groups = _read_groups(counts)
    ends = np.flatnonzero(groups < 32)
    if groups.size and (not ends.size or ends[-1] != groups.size - 1):
        raise ValueError("RLE counts end in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    lengths = ends - starts + 1
    if lengths.size and lengths.max() > _MAX_GROUPS:
        raise ValueError(f"RLE counts hold a number of {lengths.max()} characters, at most {_MAX_GROUPS} fit 32 bits")
    shifts = 5 * (np.arange(groups.size) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((groups & 31) << shifts, starts) if starts.size else groups
    numbers -= np.where(groups[ends] & 16, np.left_shift(1, 5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _read_groups(counts: str | bytes) -> _Counts:
    """Return each character's six bits: five of a number, and 32 where the number continues."""
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise ValueError(f"RLE counts hold {counts[error.start]!r}, which is not a character of the code") from error
    groups = np.frombuffer(text, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    invalid = np.flatnonzero((groups < 0) | (groups > 63))
    if invalid.size:
        index = int(invalid[0])
        raise ValueError(f"RLE counts hold {text[index : index + 1]!r} at {index}, which is not a character of the code")
    return groups


def _check_run_lengths(counts: Sequence[Any] | npt.NDArray[Any]) -> _Counts:
    if not all(isinstance(count, int | np.integer) and 0 <= count <= _MAX_PIXELS for count in counts):
        raise ValueError("expected RLE counts as run lengths, whole numbers from 0")
    return np.array(counts, np.int64)
