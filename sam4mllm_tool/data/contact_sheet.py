"""A dataset at a glance: some of its samples, drawn with their masks into one image.

Below each image stand its expression, then the number of objects and the sample's id. Objects are tinted and boxed as in the
overlay of a segmentation, and numbered in the order in which a reply should list them; ignored pixels are hatched. Lengths are
in pixels of the sheet.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from sam4mllm_tool.atomic_io import atomic_path
from sam4mllm_tool.data.reader import load_sample_image
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError, ImageError
from sam4mllm_tool.images.draw import choose_colours, draw_box, tint_mask
from sam4mllm_tool.images.object_labels import Colour, draw_label
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, SegmentedObject, Size

__all__ = ["ContactSheet", "draw_contact_sheet", "draw_sample", "pick_samples", "save_sheet"]

_CELL_IMAGE = Size(384, 288)
_GAP = 20
_TITLE, _CAPTION, _NOTE = 22, 17, 13  # font sizes
_MAX_LINES = 3
_BACKGROUND, _TEXT, _GREY, _RED, _PLACEHOLDER = (250, 250, 248), (24, 24, 28), (104, 104, 112), (176, 32, 32), (226, 226, 224)
_STRIPE_WIDTH = 5
_WHITE: Colour = (255, 255, 255)

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """The sheet, RGB, and one line for each sample that could not be drawn."""

    image: Image
    faults: tuple[str, ...]


def pick_samples(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """Draw up to `count` samples, each with the same probability, by reservoir sampling; return them in their order."""
    random, kept = Random(seed), list[tuple[int, Sample]]()
    for number, sample in enumerate(samples):
        if number < count:
            kept.append((number, sample))
        elif (place := random.randrange(number + 1)) < count:
            kept[place] = (number, sample)
    return [sample for _, sample in sorted(kept, key=lambda pair: pair[0])]


def draw_contact_sheet(samples: Sequence[Sample], title: str) -> ContactSheet:
    """Draw the samples side by side under a title.

    A sample that can't be drawn is replaced by the reason, which is also in the sheet's faults.

    Raises:
        DataError: There is no sample.
    """
    if not samples:
        raise DataError(f"{title}: there is no sample to draw")
    columns = min(len(samples), max(2, math.ceil(math.sqrt(len(samples)))))
    cells, faults = [], list[str]()
    for sample in samples:
        try:
            cells.append(_draw_cell(draw_sample(sample), _caption(sample), _note(sample)))
        except (DataError, ImageError) as error:
            faults.append(f"{sample.id}: {error}")
            cells.append(_draw_cell(PILImage.new("RGB", _CELL_IMAGE, _PLACEHOLDER), _caption(sample), str(error), _RED))
    legend = " (hatched: ignored by evaluation)" if any(sample.ignored for sample in samples) else ""
    return ContactSheet(_arrange_cells(cells, columns, title + legend), tuple(faults))


def save_sheet(image: Image, path: Path) -> None:
    """Write the image atomically. Raises DataError where writing fails or the suffix names no image format."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as part:
            image.save(part)
    except ValueError as error:  # Pillow doesn't know the suffix
        raise DataError(f"{path} can't be written: expected a name that ends in .png or .jpg") from error
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror or error}") from error


def _arrange_cells(cells: Sequence[Image], columns: int, title: str) -> Image:
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * (_CELL_IMAGE.width + _GAP) + _GAP
    font = ImageFont.load_default(_TITLE)
    heading = _wrap_text(title, font, width - 2 * _GAP, 2)
    top = _GAP + len(heading) * round(_TITLE * 1.3) + _GAP // 2
    sheet = PILImage.new("RGB", (width, top + sum(heights) + _GAP * len(rows)), _BACKGROUND)
    _write_lines(sheet, (_GAP, _GAP), heading, font, _TITLE, _TEXT)
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP + column * (_CELL_IMAGE.width + _GAP), top))
        top += height + _GAP
    return sheet


def _draw_cell(image: Image, caption: str, note: str, ink: Colour = _GREY) -> Image:
    """Centre the image in its cell, above the caption and a note in small letters."""
    letters, small = ImageFont.load_default(_CAPTION), ImageFont.load_default(_NOTE)
    lines, notes = _wrap_text(caption, letters, _CELL_IMAGE.width, _MAX_LINES), _wrap_text(note, small, _CELL_IMAGE.width, 3)
    high, low = round(_CAPTION * 1.3), round(_NOTE * 1.35)
    cell = PILImage.new(
        "RGB", (_CELL_IMAGE.width, _CELL_IMAGE.height + 8 + high * len(lines) + 3 + low * len(notes)), _BACKGROUND
    )
    cell.paste(_PLACEHOLDER, (0, 0, _CELL_IMAGE.width, _CELL_IMAGE.height))
    cell.paste(image, ((_CELL_IMAGE.width - image.width) // 2, (_CELL_IMAGE.height - image.height) // 2))
    _write_lines(cell, (0, _CELL_IMAGE.height + 8), lines, letters, _CAPTION, _TEXT)
    _write_lines(cell, (0, _CELL_IMAGE.height + 8 + high * len(lines) + 3), notes, small, _NOTE, ink)
    return cell


def draw_sample(sample: Sample) -> Image:
    """Draw the sample's image with its objects, scaled to its cell. Raises DataError and ImageError."""
    image = load_sample_image(sample)
    scale = min(_CELL_IMAGE.width / image.width, _CELL_IMAGE.height / image.height)
    size = Size(max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.array(image.resize(size, PILImage.Resampling.LANCZOS))
    _hatch(pixels, _scale_mask(sample.ignore(), size))
    objects = [
        SegmentedObject(_scale_mask(mask, size), ObjectPrompt(Box(*(value * scale for value in box))), 1.0)
        for mask, box in zip(sample.masks(), sample.boxes, strict=True)
    ]
    coloured = choose_colours(pixels, objects)
    for obj, colour in coloured:
        tint_mask(pixels, obj.mask, colour, 1)
    return _draw_labels(PILImage.fromarray(pixels), sample, coloured)


def _draw_labels(canvas: Image, sample: Sample, coloured: Sequence[tuple[SegmentedObject, Colour]]) -> Image:
    """Draw the objects' boxes and numbers, or that there is no such object; return the canvas."""
    for obj, colour in coloured:
        draw_box(canvas, obj.prompt.box, colour, 1)
    font = ImageFont.load_default(_NOTE)
    if len(coloured) > 1:
        for number, (obj, colour) in enumerate(coloured, start=1):
            _paste_label(canvas, draw_label(str(number), colour, font), obj.prompt.box.x1, obj.prompt.box.y1)
    if not coloured and not sample.turns:
        _paste_label(canvas, draw_label("no such object", _WHITE, font), 0, canvas.height)
    return canvas


def _paste_label(canvas: Image, label: Image, x: float, y: float) -> None:
    """Paste the label with its corner at (x, y), shifted so that it lies inside the canvas."""
    left = max(0, min(math.floor(x), canvas.width - label.width))
    canvas.paste(label, (left, max(0, min(math.floor(y), canvas.height - label.height))))


def _scale_mask(mask: Mask, size: Size) -> Mask:
    """Resample a mask to another size; a mask too thin for it is thickened rather than lost."""
    coverage = np.asarray(PILImage.fromarray(mask.astype(np.uint8) * np.uint8(255)).resize(size, PILImage.Resampling.BOX))
    solid: Mask = coverage > 127
    return solid if solid.any() else coverage > 0


def _hatch(pixels: npt.NDArray[np.uint8], mask: Mask) -> None:
    """Draw grey slanted stripes, unlike any tint, over the mask. `pixels`, (H, W, 3) uint8, are changed in place."""
    rows, columns = np.nonzero(mask)
    stripe = ((rows + columns) // _STRIPE_WIDTH % 2).astype(np.float64)[:, None]
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


def _wrap_text(text: str, font: _Font, width: int, lines: int) -> list[str]:
    """Break the text between words, or within a word that is too long, into lines of that width; cut it with dots."""
    wrapped, rest = list[str](), " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    while rest and len(wrapped) < lines:
        fit = _count_fitting(rest, font, width)
        space = rest.rfind(" ", 0, fit + 1)
        end = fit if fit == len(rest) or space <= 0 else space
        wrapped.append(rest[:end])
        rest = rest[end:].lstrip()
    if rest:
        wrapped[-1] = wrapped[-1][: _count_fitting(wrapped[-1], font, width - math.ceil(font.getlength(" ...")))] + " ..."
    return wrapped or [""]


def _count_fitting(text: str, font: _Font, width: int) -> int:
    """Return how many of the first characters fit into the width, at least one."""
    least, most = 1, len(text)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if font.getlength(text[:middle]) <= width else (least, middle - 1)
    return least


def _write_lines(canvas: Image, place: tuple[int, int], lines: Sequence[str], font: _Font, letters: int, ink: Colour) -> None:
    draw = ImageDraw.Draw(canvas)
    step = round(letters * (1.35 if letters == _NOTE else 1.3))
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * step), line, fill=ink, font=font)
