"""Small images, masks and outlines for the tests of datasets, and the command without its main program."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.cli.main import run_command
from tests.data.layouts import write_image, write_json

__all__ = ["annotation", "filled", "full_disk", "outline", "run_data", "write_image", "write_json"]

Bools = npt.NDArray[np.bool_]


def filled(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Bools:
    """Return the (H, W) mask of the boxes x1, y1, x2, y2, where x2 and y2 are one past the last pixel."""
    mask = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def outline(x1: int, y1: int, x2: int, y2: int) -> list[float]:
    """Return the rectangle as a COCO polygon."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def annotation(number: int, image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    """Return a COCO annotation of the rectangle x1, y1, x2, y2."""
    x1, y1, x2, y2 = box
    area = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [outline(*box)], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, **area, **more}


def run_data(*words: str | Path) -> int:
    """Run `sam4mllm data WORDS` and return its exit code; errors are raised."""
    return run_command(["data", *map(str, words)])


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow, so that every write fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
