"""What a trace's page draws on the image: the values that templates/svg.html writes as SVG, which stays sharp at any size.

A point on the object is a disc, one off it a cross, the fainter the less certain the model was; one whose answer was dropped is
a mug. Lengths are in pixels of the image, which is the SVG's own frame.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.geometry.polygons import mask_to_polygons
from sam4mllm_tool.images.draw import OBJECT_COLOURS, OFF_COLOUR, ON_COLOUR, choose_colours
from sam4mllm_tool.images.object_labels import Colour
from sam4mllm_tool.trace.files import encode_png
from sam4mllm_tool.trace.schema import RecordedImage, ResultObject
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointAnswer, PointPrompt, SegmentedObject, Size

__all__ = ["ImageLayers", "choose_object_colors", "draw_layers", "draw_thumbnail", "embed_image", "format_css"]

_MAX_SIDE = 1400
"""Longer side, in pixels, above which the image is scaled down for the page."""


@dataclass(frozen=True)
class MaskShape:
    """A mask as SVG path data."""

    path: str
    color: str
    title: str = ""


@dataclass(frozen=True)
class BoxShape:
    """A box outline."""

    box: Box
    color: str
    title: str = ""


@dataclass(frozen=True)
class BoxLabel:
    """The number of an object, on a colored ground at its box."""

    text: str
    x: float
    y: float
    width: float
    height: float
    color: str


@dataclass(frozen=True)
class PointMark:
    """A point with its label."""

    point: PointPrompt
    radius: float
    is_kept: bool

    @property
    def color(self) -> str:
        """The color of its label."""
        return format_css(ON_COLOUR if self.point.label else OFF_COLOUR)

    @property
    def opacity(self) -> float:
        """From 0.45 for a probability of one half to 1."""
        if not self.is_kept:
            return 0.9
        certainty = 1.0 if self.point.confidence is None else max(0.0, min(1.0, (self.point.confidence - 0.5) * 2))
        return 0.45 + 0.55 * certainty

    @property
    def title(self) -> str:
        """The answer in words."""
        point = self.point
        confidence = "" if point.confidence is None else f", {point.confidence:.1%}"
        label = f"{'on' if point.label else 'off'} the object"
        return f"({point.x:.0f}, {point.y:.0f}): {label}{confidence}{'' if self.is_kept else ', dropped'}"

    @property
    def cross(self) -> str:
        """SVG path data of a cross."""
        arm = self.radius * 0.8
        left, right, top = self.point.x - arm, self.point.x + arm, self.point.y - arm
        return f"M{left:g} {top:g}l{2 * arm:g} {2 * arm:g}M{right:g} {top:g}l{-2 * arm:g} {2 * arm:g}"


@dataclass(frozen=True)
class ImageLayers:
    """An SVG: the image, moved by `transform`, under masks, boxes and points."""

    view: Box
    description: str
    masks: Sequence[MaskShape]
    boxes: Sequence[BoxShape]
    points: Sequence[PointMark]
    labels: Sequence[BoxLabel] = ()
    transform: str | None = None


def format_css(color: Colour) -> str:
    """Return the color as CSS writes it."""
    return f"rgb({color[0]} {color[1]} {color[2]})"


def choose_object_colors(image: RecordedImage, objects: Sequence[ResultObject]) -> list[Colour]:
    """Choose a color per object, as the overlay of `sam4mllm segment` does."""
    if image.pixels is None:
        return [OBJECT_COLOURS[index % len(OBJECT_COLOURS)] for index in range(len(objects))]
    decoded = (SegmentedObject(segmented.mask.mask(), ObjectPrompt(segmented.box), segmented.score) for segmented in objects)
    return [color for _, color in choose_colours(np.array(image.pixels), decoded)]


def embed_image(image: RecordedImage) -> str | None:
    """Return the image as a data URI of a PNG, scaled down where it is large; None where its pixels were not saved."""
    pixels = image.pixels
    if pixels is None:
        return None
    scale = min(1.0, _MAX_SIDE / max(image.size))
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        pixels = pixels.resize((width, height), PILImage.Resampling.LANCZOS)
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode('ascii')}"


def draw_layers(
    size: Size, objects: Sequence[ResultObject], colors: Sequence[Colour], answers: Sequence[PointAnswer]
) -> ImageLayers:
    """Draw a result on the whole image."""
    numbered = [(number, *pair) for number, pair in enumerate(zip(objects, map(format_css, colors), strict=True), start=1)]
    unit = math.sqrt(size.width * size.height)
    spacing = _min_distance(answer.point for answer in answers)
    radius = max(unit / 400, min(unit / 80, spacing * 0.27))
    return ImageLayers(
        view=Box(0, 0, *size),
        description=f"the image with {len(objects)} objects and {len(answers)} points",
        masks=[_mask_shape(segmented.mask.mask(), color, f"object {number}") for number, segmented, color in numbered],
        boxes=[BoxShape(segmented.box, color, f"object {number}: box") for number, segmented, color in numbered],
        points=[PointMark(answer.point, radius, answer.kept) for answer in answers],
        labels=[
            _place_label(str(number), segmented.box, color, size) for number, segmented, color in numbered if len(objects) > 1
        ],
    )


def draw_thumbnail(shown: Crop | Size, mask: Mask, prompt: ObjectPrompt, color: Colour, description: str) -> ImageLayers:
    """Draw one mask on the surroundings of the prompt's box.

    Args:
        shown: The crop that mask and prompt are of, or the size of the whole image.
        mask: (H, W) bool.
        prompt: What the segmenter was prompted with.
        color: Of mask and box.
        description: For people who can't see it.
    """
    view = _surroundings(prompt.box, shown.output_size if isinstance(shown, Crop) else shown)
    css = format_css(color)
    radius = max(view.width, view.height) / 45
    return ImageLayers(
        view=view,
        description=description,
        masks=[_mask_shape(mask, css)],
        boxes=[BoxShape(prompt.box, css)],
        points=[PointMark(point, radius, True) for point in prompt.points],
        transform=_crop_transform(shown) if isinstance(shown, Crop) else None,
    )


def _crop_transform(crop: Crop) -> str:
    """Move the part of the image that the crop shows to where the crop shows it."""
    across, down = crop.output_size.width / crop.width, crop.output_size.height / crop.height
    return f"scale({across:g} {down:g}) translate({-crop.left} {-crop.top})"


def _surroundings(box: Box, size: Size) -> Box:
    """A square with a margin, inside the image where that is large enough."""
    side = max(box.width, box.height) * 1.3
    x, y = (max(0.0, min(middle - side / 2, length - side)) for middle, length in zip(box.center, size, strict=True))
    return Box(x, y, x + side, y + side)


def _mask_shape(mask: Mask, color: str, title: str = "") -> MaskShape:
    return MaskShape("".join(map(_ring_path, mask_to_polygons(mask))), color, title)


def _ring_path(corners: Sequence[float]) -> str:
    """SVG path data of an outline whose lines are horizontal or vertical."""
    points = list(zip(corners[::2], corners[1::2], strict=True))
    steps = (f"V{y:g}" if x == before[0] else f"H{x:g}" for before, (x, y) in pairwise(points))
    return f"M{points[0][0]:g} {points[0][1]:g}{''.join(steps)}Z"


def _place_label(text: str, box: Box, color: str, size: Size) -> BoxLabel:
    height = math.sqrt(size.width * size.height) / 26
    width = height * (0.55 + 0.6 * len(text))
    return BoxLabel(text, max(0.0, min(box.x1, size.width - width)), max(0.0, box.y1 - height), width, height, color)


def _min_distance(points: Iterable[PointPrompt]) -> float:
    places = sorted({(point.x, point.y) for point in points})
    if len(places) > 400:
        return 0.0
    return min((math.dist(place, other) for index, place in enumerate(places) for other in places[:index]), default=math.inf)
