"""What a segmentation becomes outside Python: pictures, polygons, a folder of files, a few readable lines."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np
from PIL import Image as PILImage

from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.geometry.polygons import polygons
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.types import Image, Segmentation, SegmentedObject

__all__ = ["make_folder", "mask_image", "overlay", "polygons", "summary", "write_outputs"]


def mask_image(segmentation: Segmentation) -> Image:
    """The union of the masks as an 8-bit grey picture of the same size: 255 on the objects, 0 elsewhere."""
    return PILImage.fromarray(segmentation.mask.astype(np.uint8) * np.uint8(255))


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a folder for `write_outputs` if need be and tries it, before there is anything to lose.

    Raises Sam4MllmError where nothing can be written there.
    """
    folder = Path(folder)
    with _written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Sam4MllmError(f"the results cannot be written to {quote_text(str(folder))}: {error.strerror or error}") from error


def write_outputs(folder: str | os.PathLike[str], image: Image, segmentation: Segmentation) -> list[Path]:
    """Writes mask.png, overlay.png and result.json (`Segmentation.to_dict`) into the folder, which is made if need be.

    Each file is written beside its place and then moved there, so a reader never sees half of one. Returns their paths.
    Raises Sam4MllmError where that fails, ValueError where the picture is not of the segmentation's size.
    """
    pictures = {"mask.png": mask_image(segmentation), "overlay.png": overlay(image, segmentation)}
    # A name given to the command may hold bytes that are no text; they are kept as escapes, which JSON reads back.
    text = json.dumps(segmentation.to_dict(), indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
    folder = Path(folder)
    with _written_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            _write(folder / name, partial(picture.save, format="PNG"))
        _write(folder / "result.json", lambda file: file.write(text))
    return [folder / name for name in (*pictures, "result.json")]


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            write(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def summary(segmentation: Segmentation, *, none: str = "there is no such object") -> str:
    """The result in a few lines for a person: a line per object, with its box, its area, its confidence and Segment Anything's
    score. none: what is said of no object."""
    size, count = segmentation.size, len(segmentation.objects)
    picture = f"the picture of {size.width} x {size.height} pixels"
    what = f'"{_printable(segmentation.expression)}"'
    if not count:
        sure = "" if segmentation.confidence is None else f", confidence {segmentation.confidence:.0%}"
        lines = [f"{what}: {none} in {picture}{sure}"]
    else:
        lines = [f"{what}: {count} object{'s' if count > 1 else ''} in {picture}"]
        lines += [f"  {number}: {_line(found)}" for number, found in enumerate(segmentation.objects, start=1)]
    return "\n".join([*lines, *(f"  note: {_printable(note)}" for note in segmentation.notes)])


def _line(found: SegmentedObject) -> str:
    on = sum(point.label for point in found.prompt.points)
    facts = [
        f"box {format_box(found.prompt.box)}",
        f"{int(found.mask.sum()):,} pixels ({found.mask.mean():.1%})",
        f"points {on} on it, {len(found.prompt.points) - on} off it",
        "confidence unknown" if found.confidence is None else f"confidence {found.confidence:.0%}",
        f"score {found.score:.2f}",
    ]
    return ", ".join(facts)


def _printable(text: str) -> str:
    """On one line, short, and without what would steer a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 200 else f"{line[:200]}..."
