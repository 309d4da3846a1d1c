"""Write a segmentation for use outside Python: mask, overlay and cut-out images, a JSON file, a readable summary."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from sam4mllm_tool.atomic_io import write_files
from sam4mllm_tool.errors import Sam4MllmError, count_noun, quote_text
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.geometry.polygons import mask_to_polygons
from sam4mllm_tool.images.cutouts import cutout_image, mask_image
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.images.output_formats import DEFAULT_OUTPUTS, export_outputs, list_file_names
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

OUTPUT_NAMES = tuple(list_file_names(DEFAULT_OUTPUTS))
"""What `write_outputs` writes where no formats are given."""


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
    formats: Iterable[str] = DEFAULT_OUTPUTS,
    image_name: str = "image.png",
) -> list[Path]:
    """Write a result's files into a folder: all of them, or on an error none, each atomically.

    Several writers of one folder follow one another, so that it holds one result. Who reads while others write takes a shared
    lock on the folder (`fcntl.flock`), so as not to look between two renames.

    Args:
        folder: Created if needed. Earlier files of these names are replaced.
        image: RGB, of the segmentation's size. The overlay of a small one is enlarged, the mask never.
        segmentation: What to write.
        points: Whether the overlay shows the points.
        expressions: The expression that labels each object in the overlay; by default the segmentation's.
        formats: Keys of `OUTPUT_FORMATS`; by default mask.png, overlay.png and result.json (`Segmentation.to_dict`).
        image_name: Name of the image's file, which annotations refer to and some files are named after.

    Returns:
        The paths of the files.

    Raises:
        OutputFormatError: A format does not exist.
        Sam4MllmError: A file can't be written.
        ValueError: Image and segmentation differ in size, or there are not as many expressions as objects.
    """
    outputs = export_outputs(image, segmentation, formats, image_name=image_name, points=points, expressions=expressions)
    return _write_files(Path(folder), outputs)


def _write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_files(folder, files)
    return [folder / name for name in files]


def write_cutout(folder: str | os.PathLike[str], image: Image, segmentation: Segmentation) -> Path:
    """Write `cutout_image` as cutout.png into a folder, which is created if needed, and return its path.

    Raises:
        Sam4MllmError: The file can't be written.
        ValueError: Image and segmentation differ in size.
    """
    return _write_files(Path(folder), export_outputs(image, segmentation, ["cutout"]))[0]


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
