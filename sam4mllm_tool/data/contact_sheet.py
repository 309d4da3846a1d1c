"""A data set at a glance: some of its samples, drawn with their masks into one picture.

Under each picture stands its expression, then what it means (how many objects, or none) and the sample's id. Objects are
tinted and boxed as in the overlay of a segmentation, numbered in the order in which they are to be named; pixels that count
neither way in evaluation are hatched. Lengths are in pixels of the sheet.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError, ImageError
from sam4mllm_tool.images.draw import Colour, choose_colours, dilate_rounded, draw_box, draw_label, tint_mask
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, SegmentedObject, Size

__all__ = ["Sheet", "contact_sheet", "pick", "save_sheet"]

_PICTURE = Size(384, 288)
_GAP = 20
_TITLE, _CAPTION, _NOTE = 22, 17, 13  # letters
_LINES = 3  # of a caption
_PAPER, _INK, _FAINT, _FAULT, _EMPTY = (250, 250, 248), (24, 24, 28), (104, 104, 112), (176, 32, 32), (226, 226, 224)
_STRIPE = 5
_SEEN = 0.6  # share of the picture's own colour within a tint
_WHITE: Colour = (255, 255, 255)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class Sheet:
    """The picture, RGB, and what could not be drawn on it, a line each."""

    image: Image
    faults: tuple[str, ...]


def pick(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """Up to `count` samples, each as likely as any other, in the order of the data set; read once, in constant memory."""
    random, kept = Random(seed), list[tuple[int, Sample]]()
    for number, sample in enumerate(samples):
        if number < count:
            kept.append((number, sample))
        elif (place := random.randrange(number + 1)) < count:
            kept[place] = (number, sample)
    return [sample for _, sample in sorted(kept, key=lambda pair: pair[0])]


def contact_sheet(samples: Sequence[Sample], title: str) -> Sheet:
    """The samples side by side under a title. One that can't be drawn says why in its place, and in the faults."""
    if not samples:
        raise DataError(f"{title}: there is no sample to show")
    columns = min(len(samples), max(2, math.ceil(math.sqrt(len(samples)))))
    cells, faults = [], list[str]()
    for sample in samples:
        try:
            cells.append(_cell(_picture(sample), _caption(sample), _note(sample)))
        except (DataError, ImageError) as error:
            faults.append(f"{sample.id}: {error}")
            cells.append(_cell(PILImage.new("RGB", _PICTURE, _EMPTY), _caption(sample), str(error), _FAULT))
    hatched = " (hatched: counts neither way)" if any(sample.ignored for sample in samples) else ""
    return Sheet(_arranged(cells, columns, title + hatched), tuple(faults))


def save_sheet(image: Image, path: Path) -> None:
    """Writes it beside its place and moves it there. Raises DataError where that fails, or for a name of no format."""
    beside = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(beside)
        beside.replace(path)
    except ValueError as error:  # Pillow's, of the suffix
        raise DataError(f"{path} can't be written: name it .png or .jpg") from error
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)


def _arranged(cells: Sequence[Image], columns: int, title: str) -> Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * (_PICTURE.width + _GAP) + _GAP
    font = ImageFont.load_default(_TITLE)
    heading = _wrapped(title, font, width - 2 * _GAP, 2)
    top = _GAP + len(heading) * round(_TITLE * 1.3) + _GAP // 2
    sheet = PILImage.new("RGB", (width, top + sum(heights) + _GAP * len(rows)), _PAPER)
    _write(sheet, (_GAP, _GAP), heading, font, _TITLE, _INK)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (_PICTURE.width + _GAP), top))
        top += height + _GAP
    return sheet


def _cell(picture: Image, caption: str, note: str, ink: Colour = _FAINT) -> Image:
    """The picture in the middle of its place, over the caption, over a note in small letters."""
    letters, small = ImageFont.load_default(_CAPTION), ImageFont.load_default(_NOTE)
    lines, notes = _wrapped(caption, letters, _PICTURE.width, _LINES), _wrapped(note, small, _PICTURE.width, 3)
    high, low = round(_CAPTION * 1.3), round(_NOTE * 1.35)
    cell = PILImage.new("RGB", (_PICTURE.width, _PICTURE.height + 8 + high * len(lines) + 3 + low * len(notes)), _PAPER)
    cell.paste(_EMPTY, (0, 0, _PICTURE.width, _PICTURE.height))
    cell.paste(picture, ((_PICTURE.width - picture.width) // 2, (_PICTURE.height - picture.height) // 2))
    _write(cell, (0, _PICTURE.height + 8), lines, letters, _CAPTION, _INK)
    _write(cell, (0, _PICTURE.height + 8 + high * len(lines) + 3), notes, small, _NOTE, ink)
    return cell


def _picture(sample: Sample) -> Image:
    """The sample's picture with what is marked on it, as large as its place allows. Raises DataError and ImageError."""
    image = load_image(sample.image_path)
    if image.size != sample.size:
        told = f"{sample.size.width} x {sample.size.height}"
        raise DataError(f"{sample.image_path} is {image.width} x {image.height} pixels, the data set says {told}")
    scale = min(_PICTURE.width / image.width, _PICTURE.height / image.height)
    size = Size(max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.resize(size, PILImage.Resampling.LANCZOS))
    _hatch(pixels, _scaled(sample.ignore(), size))
    objects = [
        SegmentedObject(_scaled(mask, size), ObjectPrompt(Box(*(value * scale for value in box))), 1.0)
        for mask, box in zip(sample.masks(), sample.boxes, strict=True)
    ]
    coloured = choose_colours(pixels, objects)
    seen = pixels.copy()
    for found, colour in coloured:
        tint_mask(pixels, found.mask, colour, 1)
        within = found.mask & ~dilate_rounded(~found.mask, 3)  # an expression may name its colour
        pixels[within] = np.rint(seen[within] * _SEEN + pixels[within] * (1 - _SEEN)).astype(np.uint8)
    canvas = PILImage.fromarray(pixels)
    for found, colour in coloured:
        draw_box(canvas, found.prompt.box, colour, 1)
    font = ImageFont.load_default(_NOTE)
    if len(coloured) > 1:
        for number, (found, colour) in enumerate(coloured, start=1):
            _stick(canvas, draw_label(str(number), colour, font), found.prompt.box.x1, found.prompt.box.y1)
    if not objects and not sample.turns:
        _stick(canvas, draw_label("no such object", _WHITE, font), 0, canvas.height)
    return canvas


def _stick(canvas: Image, label: Image, x: float, y: float) -> None:
    """Pastes the label with its corner at a place, moved to where the picture has room for it."""
    left = max(0, min(math.floor(x), canvas.width - label.width))
    canvas.paste(label, (left, max(0, min(math.floor(y), canvas.height - label.height))))


def _scaled(mask: Mask, size: Size) -> Mask:
    """The mask on a grid of another size; what is too thin for it is thickened, not lost."""
    cover = np.asarray(PILImage.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize(size, PILImage.Resampling.BOX))
    solid: Mask = cover > 127
    return solid if solid.any() else cover > 0


def _hatch(pixels: npt.NDArray[np.uint8], mask: Mask) -> None:
    """Grey slanted stripes over the mask, so that they differ from any tint. pixels: (H, W, 3), changed in place."""
    rows, columns = np.nonzero(mask)
    stripe = ((rows + columns) // _STRIPE % 2).astype(np.float64)[:, None]
    grey = 90 + 110 * stripe
    pixels[rows, columns] = np.rint(pixels[rows, columns] * 0.35 + grey * 0.65).astype(np.uint8)


def _caption(sample: Sample) -> str:
    if sample.turns:
        return "  ".join(f"{turn.role[0].upper()}: {turn.text}" for turn in sample.turns)
    return sample.expression


def _note(sample: Sample) -> str:
    count = len(sample.boxes)
    what = "a conversation" if sample.turns else {0: "no such object", 1: "1 object"}.get(count, f"{count} objects")
    return ", ".join(part for part in (what, sample.kind, sample.id) if part)


def _wrapped(text: str, font: _Font, width: int, lines: int) -> list[str]:
    """The text in up to so many lines of that width, broken between words, within one that is too long; cut with dots."""
    broken, rest = list[str](), " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    while rest and len(broken) < lines:
        fit = _fitting(rest, font, width)
        space = rest.rfind(" ", 0, fit + 1)
        end = fit if fit == len(rest) or space <= 0 else space
        broken.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        broken[-1] = broken[-1][: _fitting(broken[-1], font, width - math.ceil(font.getlength(" ...")))] + " ..."
    return broken or [""]


def _fitting(text: str, font: _Font, width: int) -> int:
    """How many of its first characters fit into the width, at least one."""
    least, most = 1, len(text)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if font.getlength(text[:middle]) <= width else (least, middle - 1)
    return least


def _write(canvas: Image, place: tuple[int, int], lines: Sequence[str], font: _Font, letters: int, ink: Colour) -> None:
    draw = ImageDraw.Draw(canvas)
    step = round(letters * (1.35 if letters == _NOTE else 1.3))
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * step), line, fill=ink, font=font)
