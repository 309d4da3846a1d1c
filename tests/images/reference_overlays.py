"""Overlays that are kept as images, to be compared with: `python -m tests.images.reference_overlays` draws them anew.

Look at them before they are committed. Each test of the overlay is about one thing that it has to show; these are about all
lengths, opacities and places at once, which are chosen by eye.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size
from sam4mllm_tool.types import Image as AnyImage

FOLDER = Path(__file__).parent / "references"


def _mask(size: Size, *shapes: tuple[str, tuple[int, int, int, int], int]) -> Mask:
    """Fill or clear shapes, one after another: kind, corners, and 1 or 0."""
    canvas = Image.new("1", size)
    pen = ImageDraw.Draw(canvas)
    for kind, corners, value in shapes:
        (pen.ellipse if kind == "ellipse" else pen.rectangle)(corners, fill=value)
    return np.array(canvas)


def _object(
    mask: Mask, points: tuple[tuple[float, float, int], ...] = (), *, confidence: float | None = None, box: Box | None = None
) -> SegmentedObject:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    around = box or Box(columns[0] - 0.4, rows[0] + 0.3, columns[-1] + 1.2, rows[-1] + 0.6)
    prompts = tuple(PointPrompt(x, y, 1 if label else 0, 0.9) for x, y, label in points)
    return SegmentedObject(mask, ObjectPrompt(around, prompts), 0.9, confidence)


def _blocks(size: Size, *colours: tuple[int, int, int]) -> AnyImage:
    """Fill columns of equal width."""
    image = Image.new("RGB", size)
    for index, colour in enumerate(colours):
        image.paste(colour, (size.width * index // len(colours), 0, size.width * (index + 1) // len(colours), size.height))
    return image


def draw_many() -> AnyImage:
    """Draw objects of every kind of size and shape on light, dark and coloured ground, more than there are colours."""
    size = Size(720, 520)
    shapes = {
        "the ring": _mask(size, ("ellipse", (20, 60, 180, 220), 1), ("ellipse", (60, 100, 140, 180), 0)),
        "a disc": _mask(size, ("ellipse", (220, 40, 330, 150), 1)),
        "the thin bar behind everything that is on the table in front of the window": _mask(
            size, ("rectangle", (360, 60, 700, 67), 1)
        ),
        "a dot": _mask(size, ("ellipse", (420, 120, 429, 129), 1)),
        "two parts": _mask(size, ("rectangle", (470, 110, 540, 200), 1), ("rectangle", (600, 130, 690, 190), 1)),
        "the corner": _mask(size, ("rectangle", (620, 420, 719, 519), 1)),
        "over the corner": _mask(size, ("rectangle", (560, 380, 660, 480), 1)),
        "left": _mask(size, ("rectangle", (0, 300, 50, 519), 1)),
        "it": _mask(size, ("ellipse", (260, 260, 470, 470), 1)),
    }
    points: dict[str, tuple[tuple[float, float, int], ...]] = {
        "the ring": ((40.5, 140.2, 1), (100, 80, 1), (100, 140, 0), (22, 62, 0)),
        "a disc": tuple((230 + 22.0 * i, 50 + 22.0 * j, int(0 < i < 4 and 0 < j < 4)) for j in range(5) for i in range(5)),
        "a dot": ((424, 124, 1), (428, 121, 0)),
        "two parts": ((505, 150, 1), (645, 160, 1), (570, 150, 0)),
        "it": ((365, 365, 1), (366, 369, 1), (270, 268, 0), (440, 300, 0)),
        "over the corner": ((610, 430, 1), (610, 700, 0)),
    }
    confidences = (0.93, None, 0.5, 1.0, 0.07, 0.88, 0.62, 0.71, 0.35)
    objects = tuple(
        _object(mask, points.get(name, ()), confidence=confidence)
        for (name, mask), confidence in zip(shapes.items(), confidences, strict=True)
    )
    image = _blocks(size, (250, 250, 250), (12, 12, 12), (128, 128, 128), (86, 180, 233), (200, 90, 20))
    return overlay(image, Segmentation("all", size, objects), expressions=list(shapes))


def draw_enlarged() -> AnyImage:
    """Draw one object on a small image, which is enlarged."""
    size = Size(100, 60)
    mask = _mask(size, ("ellipse", (30, 12, 70, 50), 1), ("ellipse", (45, 26, 56, 37), 0))
    drawn = _object(mask, ((35.5, 30.5, 1), (50.5, 31, 0), (66, 33.3, 1)), confidence=0.815)
    return overlay(_blocks(size, (60, 90, 60), (70, 60, 140)), Segmentation("the green ring", size, (drawn,)), min_side=200)


def draw_edges() -> AnyImage:
    """Draw an object that fills the image, a box beyond it, and an empty mask, without points."""
    size = Size(240, 160)
    objects = (
        _object(np.ones((160, 240), bool), ((120, 80, 1), (0, 0, 0)), confidence=0.9),
        _object(_mask(size, ("rectangle", (100, 60, 150, 100), 1)), box=Box(-30, 50, 300, 110)),
        SegmentedObject(np.zeros((160, 240), bool), ObjectPrompt(Box(180, 120, 192, 129)), 0.5),
    )
    return overlay(_blocks(size, (240, 228, 66)), Segmentation("it", size, objects), points=False)


def draw_nothing(*, abstained: bool) -> AnyImage:
    """Draw the result that there is no such object, or that the model isn't sure."""
    size = Size(260, 120)
    result = replace(Segmentation("it", size, ()), abstained=abstained)
    return overlay(_blocks(size, (90, 120, 200)), result)


REFERENCES: dict[str, Callable[[], AnyImage]] = {
    "many": draw_many,
    "enlarged": draw_enlarged,
    "edges": draw_edges,
    "no-object": lambda: draw_nothing(abstained=False),
    "not-sure": lambda: draw_nothing(abstained=True),
}

if __name__ == "__main__":
    for name, draw in REFERENCES.items():
        draw().save(FOLDER / f"overlay-{name}.png", optimize=True)
