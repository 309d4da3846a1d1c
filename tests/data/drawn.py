"""Small pictures, masks and outlines that the tests of data sets are made of, and a stand-in for the command."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sam4mllm_tool.cli.data import add_commands

Bools = npt.NDArray[np.bool_]


def picture(path: Path, width: int = 40, height: int = 30) -> Path:
    """A grey picture of that size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), "grey").save(path)
    return path


def filled(width: int, height: int, *boxes: tuple[int, int, int, int]) -> Bools:
    """(H, W): what the boxes x1, y1, x2, y2 cover; x2, y2 one past the last."""
    mask = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


def outline(x1: int, y1: int, x2: int, y2: int) -> list[float]:
    """The rectangle as a COCO polygon."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def annotation(number: int, image: int, category: int, box: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    """A COCO annotation of a rectangle, x1, y1, x2, y2."""
    x1, y1, x2, y2 = box
    area = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "segmentation": [outline(*box)], "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": category, **area, **more}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def run_data(*words: str | Path) -> int:
    """`sam4mllm data WORDS`, its exit code; what it refuses is raised."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return int(arguments.run(arguments))
