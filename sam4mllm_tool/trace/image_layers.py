"""A run's pictures as SVG: the picture once, and over it masks, boxes and points that stay sharp at any size.

A point on the object is a disc, one off it a cross, the fainter the less sure the model was; one whose answer was dropped is a
ring. Lengths are in pixels of the picture, which is the SVG's own frame.
"""

import base64
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.geometry.polygons import polygons
from sam4mllm_tool.images.draw import OBJECT_COLOURS, OFF_COLOUR, ON_COLOUR, Colour, choose_colours
from sam4mllm_tool.trace.files import picture_png
from sam4mllm_tool.trace.html import Html, tag
from sam4mllm_tool.trace.schema import Picture
from sam4mllm_tool.trace.verdicts import AnsweredObject
from sam4mllm_tool.types import Box, Mask, ObjectPrompt, PointPrompt, SegmentedObject, Size

__all__ = ["Asking", "colours", "css", "overlay_svg", "photo", "thumbnail"]

_LARGEST = 1400
"""Pixels of the longer side, above which the shown picture is scaled down."""


@dataclass(frozen=True)
class Asking:
    """A point that was asked about, its answer, and whether it came to the segmenter."""

    box: Box
    point: PointPrompt
    kept: bool


def css(colour: Colour) -> str:
    """The colour as CSS writes it."""
    return f"rgb({colour[0]} {colour[1]} {colour[2]})"


def colours(picture: Picture, objects: Sequence[AnsweredObject]) -> list[Colour]:
    """One an object, as the overlay of `sam4mllm segment` chooses them."""
    if picture.image is None:
        return [OBJECT_COLOURS[number % len(OBJECT_COLOURS)] for number in range(len(objects))]
    things = (SegmentedObject(thing.mask.mask(), ObjectPrompt(thing.box), thing.score) for thing in objects)
    return [colour for _, colour in choose_colours(np.array(picture.image), things)]


def photo(picture: Picture) -> Html:
    """The picture, once for the whole page, for `use`; a grey plane where it was not kept."""
    width, height = picture.size
    if picture.image is None:
        shown = tag("rect", width=width, height=height, class_="unkept")
    else:
        scale = min(1.0, _LARGEST / max(width, height))
        small = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = picture.image if scale == 1 else picture.image.resize(small, PILImage.Resampling.LANCZOS)
        code = f"data:image/png;base64,{base64.b64encode(picture_png(image)).decode('ascii')}"
        shown = tag("image", href=code, width=width, height=height, preserveAspectRatio="none")
    defs = tag("defs", tag("g", shown, id="photo"))
    return tag("svg", defs, width=0, height=0, class_="defs", aria_hidden="true")


def overlay_svg(size: Size, objects: Sequence[AnsweredObject], inks: Sequence[Colour], asked: Sequence[Asking]) -> Html:
    """The whole picture with the answer on it, in layers that the page can hide."""
    unit = math.sqrt(size.width * size.height)
    numbered = list(enumerate(zip(objects, inks, strict=True), start=1))
    masks = [_mask(thing.mask.mask(), ink, f"object {number}") for number, (thing, ink) in numbered]
    boxes = [_box(thing.box, ink, f"object {number}: box") for number, (thing, ink) in numbered]
    labels = [_label(str(number), thing.box, ink, size) for number, (thing, ink) in numbered if len(numbered) > 1]
    spacing = _spacing([one.point for one in asked])
    radius = max(unit / 400, min(unit / 80, spacing * 0.27))
    points = [_point(one, radius) for one in asked]
    layers = (
        tag("use", href="#photo"),
        tag("g", *masks, class_="masks"),
        tag("g", *boxes, *labels, class_="boxes"),
        tag("g", *points, class_="points"),
    )
    told = f"the picture with {len(objects)} objects and {len(asked)} points"
    return tag("svg", *layers, viewBox=f"0 0 {size.width} {size.height}", class_="stage", role="img", aria_label=told)


def thumbnail(shown: Crop | Size, mask: Mask, prompt: ObjectPrompt, ink: Colour, told: str) -> Html:
    """What lies around the prompt's box, with one mask on it. shown: the part of the picture that both are of, or its size."""
    x1, y1, x2, y2 = _around(prompt.box, shown.shown if isinstance(shown, Crop) else shown)
    asked = [Asking(prompt.box, point, True) for point in prompt.points]
    radius = max(x2 - x1, y2 - y1) / 45
    parts = (
        tag("use", href="#photo", **_moved(shown)),
        tag("g", _mask(mask, ink, ""), class_="masks"),
        tag("g", _box(prompt.box, ink, ""), class_="boxes"),
        tag("g", *(_point(one, radius) for one in asked), class_="points"),
    )
    frame = f"{x1:g} {y1:g} {x2 - x1:g} {y2 - y1:g}"
    return tag("svg", *parts, viewBox=frame, class_="thumb", role="img", aria_label=told)


def _moved(shown: Crop | Size) -> dict[str, str]:
    """What brings the part of the photo that a view shows to where the view shows it."""
    if not isinstance(shown, Crop):
        return {}
    across, down = shown.shown.width / shown.width, shown.shown.height / shown.height
    return {"transform": f"scale({across:g} {down:g}) translate({-shown.left} {-shown.top})"}


def _around(box: Box, size: Size) -> tuple[float, float, float, float]:
    """A square with some room, inside the picture where that is large enough."""
    side = max(box.x2 - box.x1, box.y2 - box.y1) * 1.3
    x, y = (box.x1 + box.x2 - side) / 2, (box.y1 + box.y2 - side) / 2
    x, y = (max(0.0, min(low, whole - side)) for low, whole in ((x, size.width), (y, size.height)))
    return x, y, x + side, y + side


def _mask(mask: Mask, ink: Colour, told: str) -> Html:
    path = tag("path", d="".join(map(_ring, polygons(mask))), fill_rule="evenodd", fill=css(ink), stroke=css(ink))
    return tag("g", path, tag("title", told)) if told else path


def _ring(corners: Sequence[float]) -> str:
    """An outline whose lines go across or down, in SVG's words."""
    points = list(zip(corners[::2], corners[1::2], strict=True))
    steps = (f"V{y:g}" if x == before[0] else f"H{x:g}" for before, (x, y) in pairwise(points))
    return f"M{points[0][0]:g} {points[0][1]:g}{''.join(steps)}Z"


def _box(box: Box, ink: Colour, told: str) -> Html:
    place = {"x": f"{box.x1:g}", "y": f"{box.y1:g}", "width": f"{box.x2 - box.x1:g}", "height": f"{box.y2 - box.y1:g}"}
    under, over = tag("rect", class_="edge under", **place), tag("rect", class_="edge", stroke=css(ink), **place)
    return tag("g", under, over, *([tag("title", told)] if told else []))


def _label(text: str, box: Box, ink: Colour, size: Size) -> Html:
    high = math.sqrt(size.width * size.height) / 26
    wide = high * (0.55 + 0.6 * len(text))
    x, y = max(0.0, min(box.x1, size.width - wide)), max(0.0, box.y1 - high)
    ground = tag("rect", x=f"{x:g}", y=f"{y:g}", width=f"{wide:g}", height=f"{high:g}", rx=f"{high / 6:g}", fill=css(ink))
    letters = {"x": f"{x + wide / 2:g}", "y": f"{y + high * 0.77:g}", "font_size": f"{high * 0.8:g}"}
    return tag("g", ground, tag("text", text, **letters), class_="label")


def _spacing(points: Iterable[PointPrompt]) -> float:
    places = sorted({(point.x, point.y) for point in points})
    if len(places) > 400:
        return 0.0
    return min((math.dist(one, other) for n, one in enumerate(places) for other in places[:n]), default=math.inf)


def _point(one: Asking, radius: float) -> Html:
    point = one.point
    sure = 1.0 if point.confidence is None else max(0.0, min(1.0, (point.confidence - 0.5) * 2))
    ink = css(ON_COLOUR if point.label else OFF_COLOUR)
    said = f"{'on' if point.label else 'off'} the object"
    how = "" if point.confidence is None else f", {point.confidence:.1%}"
    told = tag("title", f"({point.x:.0f}, {point.y:.0f}): {said}{how}{'' if one.kept else ', dropped'}")
    marks = _marks(point, radius, ink, kept=one.kept)
    return tag(
        "g", told, *marks, opacity=f"{0.45 + 0.55 * sure if one.kept else 0.9:.2f}", class_="kept" if one.kept else "dropped"
    )


def _marks(point: PointPrompt, radius: float, ink: str, *, kept: bool) -> tuple[Html, ...]:
    x, y = f"{point.x:g}", f"{point.y:g}"
    if not kept:
        ring = {"cx": x, "cy": y, "r": f"{radius * 0.75:g}", "fill": "none"}
        return (
            tag("circle", stroke="#111", stroke_width=f"{radius * 0.7:g}", **ring),
            tag("circle", stroke=ink, stroke_width=f"{radius * 0.36:g}", **ring),
        )
    if point.label:
        return (
            tag("circle", cx=x, cy=y, r=f"{radius * 1.3:g}", fill="#111"),
            tag("circle", cx=x, cy=y, r=f"{radius * 1.12:g}", fill="#fff"),
            tag("circle", cx=x, cy=y, r=f"{radius * 0.85:g}", fill=ink),
        )
    arm = radius * 0.8
    left, right, top = point.x - arm, point.x + arm, point.y - arm
    cross = f"M{left:g} {top:g}l{2 * arm:g} {2 * arm:g}M{right:g} {top:g}l{-2 * arm:g} {2 * arm:g}"
    widths = ((1.5, "#111"), (1.1, "#fff"), (0.65, ink))
    return tuple(
        tag("path", d=cross, fill="none", stroke=colour, stroke_width=f"{radius * wide:g}", stroke_linecap="round")
        for wide, colour in widths
    )
