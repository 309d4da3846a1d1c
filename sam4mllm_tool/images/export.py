"""Write a segmentation for use outside Python: mask, overlay and cut-out images, a JSON file, a readable summary."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.atomic_io import atomic_path, write_bytes
from sam4mllm_tool.errors import Sam4MllmError, count_noun, quote_text
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.geometry.polygons import mask_to_polygons
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.types import Image, Segmentation, SegmentedObject

__all__ = [
    "OUTPUT_NAMES",
    "cutout_image",
    "format_confidence",
    "make_folder",
    "mask_image",
    "mask_to_polygons",
    "overlay",
    "summary",
    "write_cutout",
    "write_outputs",
]

OUTPUT_NAMES = ("mask.png", "overlay.png", "result.json")
"""What `write_outputs` writes."""
_MIN_OVERLAY_SIDE = 512
"""Length of the shorter side, in pixels, from which on an overlay file is not enlarged."""


def mask_image(segmentation: Segmentation) -> Image:
    """Return the union of the masks as an 8-bit grey image of the same size: 255 on the objects, 0 elsewhere."""
    return PILImage.fromarray(segmentation.mask.astype(np.uint8) * np.uint8(255))


def cutout_image(image: Image, segmentation: Segmentation) -> Image:
    """Return the objects on a transparent ground, RGBA, of the same size: nothing of the image is left around them.

    Raises:
        ValueError: Image and segmentation differ in size.
    """
    if image.size != segmentation.size:
        raise ValueError(f"the image is {image.size}, the segmentation is for an image of {tuple(segmentation.size)}")
    mask = mask_image(segmentation)
    cutout = PILImage.new("RGBA", image.size)
    cutout.paste(image.convert("RGB"), (0, 0), mask)
    cutout.putalpha(mask)
    return cutout


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Create a folder for `write_outputs` if needed, and check that it can be written to before any work is done.

    Raises:
        Sam4MllmError: Nothing can be written there.
    """
    folder = Path(folder)
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        above = [path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()]
        reason = f"{quote_text(str(above[0]))} is a file" if above else error.strerror or error
        raise Sam4MllmError(f"the results cannot be written to the folder {quote_text(str(folder))}: {reason}") from error


def write_outputs(
    folder: str | os.PathLike[str],
    image: Image,
    segmentation: Segmentation,
    *,
    points: bool = True,
    expressions: Sequence[str] | None = None,
) -> list[Path]:
    """Write mask.png, overlay.png and result.json (`Segmentation.to_dict`) into a folder, each of them atomically.

    Args:
        folder: Created if needed. Earlier files of these names are replaced.
        image: RGB, of the segmentation's size. The overlay of a small one is enlarged, the mask never.
        segmentation: What to write.
        points: Whether the overlay shows the points.
        expressions: The expression that labels each object in the overlay; by default the segmentation's.

    Returns:
        The paths of the three files.

    Raises:
        Sam4MllmError: A file can't be written.
        ValueError: Image and segmentation differ in size, or there are not as many expressions as objects.
    """
    drawn = overlay(image, segmentation, points=points, min_side=_MIN_OVERLAY_SIDE, expressions=expressions)
    # An expression from the command line may hold bytes that are not text; they become escapes, which JSON reads back.
    result = json.dumps(segmentation.to_dict(), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    folder = Path(folder)
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, output in (("mask.png", mask_image(segmentation)), ("overlay.png", drawn)):
            _write_png(folder / name, output)
        write_bytes(folder / "result.json", result)
    return [folder / name for name in OUTPUT_NAMES]


def write_cutout(folder: str | os.PathLike[str], image: Image, segmentation: Segmentation) -> Path:
    """Write `cutout_image` as cutout.png into a folder, which is created if needed, and return its path.

    Raises:
        Sam4MllmError: The file can't be written.
        ValueError: Image and segmentation differ in size.
    """
    path = Path(folder) / "cutout.png"
    cutout = cutout_image(image, segmentation)
    with _writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_png(path, cutout)
    return path


def _write_png(path: Path, image: Image) -> None:
    with atomic_path(path) as part:
        image.save(part, format="PNG")


def summary(segmentation: Segmentation, *, none: str = "there is no such object", with_warnings: bool = True) -> str:
    """Describe a result in a few lines: one line per object with its box, area, points, confidence, agreement and SAM's score.

    Args:
        segmentation: The result.
        none: What to write where there is no object.
        with_warnings: Whether to end with the warnings; without, they are to be given elsewhere.
    """
    size, count = segmentation.size, len(segmentation.objects)
    place = f"the image of {size.width} x {size.height} pixels"
    expression = f'"{_printable(segmentation.expression)}"'
    if count:
        lines = [f"{expression}: {count_noun(count, 'object')} in {place}"]
        lines += [
            f"  {number}: {_name_part(each, segmentation)}{_describe_object(each)}"
            for number, each in enumerate(segmentation.objects, start=1)
        ]
    elif segmentation.abstained:
        lines = [f"{expression}: not sure enough to answer, nothing is segmented in {place}"]
    else:
        lines = [f"{expression}: {none} in {place}, {format_confidence(segmentation.confidence)}"]
    warnings = [f"  warning: {_printable(warning, 1000)}" for warning in segmentation.warnings if with_warnings]
    return "\n".join([*lines, *warnings, *(f"  note: {_printable(note)}" for note in segmentation.notes)])


def format_confidence(confidence: float | None) -> str:
    """Put a confidence in words, such as "confidence 93%"; None is unknown."""
    return "confidence unknown" if confidence is None else f"confidence {confidence:.0%}"


def _name_part(segmented: SegmentedObject, segmentation: Segmentation) -> str:
    """Return what an object was found by, where that is a part of the expression; nothing for a click's object."""
    is_part = segmented.expression not in (None, "", segmentation.expression)
    return f'"{_printable(str(segmented.expression))}", ' if is_part else ""


def _describe_object(segmented: SegmentedObject) -> str:
    positive = sum(point.label for point in segmented.prompt.points)
    facts = [
        f"box {format_box(segmented.prompt.box)}",
        f"{int(segmented.mask.sum()):,} pixels ({segmented.mask.mean():.1%})",
        f"points {positive} on it, {len(segmented.prompt.points) - positive} off it",
        format_confidence(segmented.confidence),
        *([] if segmented.agreement is None else [f"agreement {segmented.agreement:.0%}"]),
        f"score {segmented.score:.2f}",
    ]
    return ", ".join(facts)


def _printable(text: str, longest: int = 200) -> str:
    """Put text on one short line, without control characters that would steer a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[:longest]}..."
