"""The formats in which a result can be had, in one list that every surface offers: command, chat, tools, server, web page.

`export_outputs` makes the content of the files, and writes none: who writes or sends them does so when all of them are made.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.images.cutouts import blurred_image, cutout_image, erased_image, instance_image, mask_image
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.text import suggest_name
from sam4mllm_tool.types import Image, Segmentation

__all__ = [
    "DEFAULT_OUTPUTS",
    "OUTPUT_FORMATS",
    "OutputFormat",
    "OutputFormatError",
    "check_output_names",
    "clean_file_stem",
    "export_file",
    "export_outputs",
    "get_media_type",
    "list_file_names",
    "list_output_files",
]

DEFAULT_OUTPUTS = ("mask", "overlay", "json")
"""What is written where nothing is asked for."""
_MIN_OVERLAY_SIDE = 512
"""Length of the shorter side, in pixels, from which on an overlay file is not enlarged."""
_MAX_STEM = 100
_MEDIA_TYPES = {
    ".png": "image/png",
    ".json": "application/json",
    ".geojson": "application/geo+json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".yaml": "application/yaml",
    ".npz": "application/octet-stream",
}


class OutputFormatError(Sam4MllmError, ValueError):
    """A format that does not exist. The message lists those that do."""


@dataclass(frozen=True)
class _Source:
    """What the outputs are made of."""

    image: Image
    segmentation: Segmentation
    image_name: str
    points: bool
    expressions: Sequence[str] | None


@dataclass(frozen=True)
class OutputFormat:
    """A format that results can be written in.

    Args:
        description: What it holds, in a few words.
        files: Names of its files; {stem} stands for the name of the image's file without its suffix.
        encode: Makes the content of the files, in their order.
    """

    description: str
    files: tuple[str, ...]
    encode: Callable[[_Source], tuple[bytes, ...]]


def _encode_png(image: Image) -> tuple[bytes, ...]:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return (buffer.getvalue(),)


def _encode_json(value: Any, indent: int | None = None) -> tuple[bytes, ...]:
    # An expression from the command line may hold bytes that are not text; they become escapes, which JSON reads back.
    return (json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n",)


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8")


def _encode_npz(segmentation: Segmentation) -> tuple[bytes, ...]:
    buffer = BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **segmentation.to_numpy())
    return (buffer.getvalue(),)


def _draw_overlay(source: _Source) -> Image:
    names, side = source.expressions, _MIN_OVERLAY_SIDE
    return overlay(source.image, source.segmentation, points=source.points, min_side=side, expressions=names)


OUTPUT_FORMATS: Mapping[str, OutputFormat] = {
    "mask": OutputFormat(
        "Mask: white on the objects, black elsewhere", ("mask.png",), lambda it: _encode_png(mask_image(it.segmentation))
    ),
    "instances": OutputFormat(
        "Object numbers as pixel values", ("instances.png",), lambda it: _encode_png(instance_image(it.segmentation))
    ),
    "overlay": OutputFormat(
        "Image with masks, boxes and points drawn over it", ("overlay.png",), lambda it: _encode_png(_draw_overlay(it))
    ),
    "cutout": OutputFormat(
        "Objects on a transparent ground, of the image's size",
        ("cutout.png",),
        lambda it: _encode_png(cutout_image(it.image, it.segmentation)),
    ),
    "cutout-cropped": OutputFormat(
        "Objects on a transparent ground, cropped to them",
        ("cutout-cropped.png",),
        lambda it: _encode_png(cutout_image(it.image, it.segmentation, cropped=True)),
    ),
    "erased": OutputFormat(
        "Image with the objects erased, transparent there",
        ("erased.png",),
        lambda it: _encode_png(erased_image(it.image, it.segmentation)),
    ),
    "blurred": OutputFormat(
        "Image with everything but the objects blurred",
        ("blurred.png",),
        lambda it: _encode_png(blurred_image(it.image, it.segmentation)),
    ),
    "json": OutputFormat(
        "Whole result: masks, boxes, points, confidences, transcript",
        ("result.json",),
        lambda it: _encode_json(it.segmentation.to_dict(), indent=2),
    ),
    "coco": OutputFormat(
        "COCO dataset, masks as run lengths",
        ("coco.json",),
        lambda it: _encode_json(it.segmentation.to_coco(image_name=it.image_name)),
    ),
    "coco-polygons": OutputFormat(
        "COCO dataset, masks as polygons without holes",
        ("coco-polygons.json",),
        lambda it: _encode_json(it.segmentation.to_coco(image_name=it.image_name, polygons=True)),
    ),
    "labelme": OutputFormat(
        "LabelMe annotation with the image in it",
        ("{stem}.json",),
        lambda it: _encode_json(it.segmentation.to_labelme(it.image, image_name=it.image_name)),
    ),
    "yolo": OutputFormat(
        "YOLO segmentation labels and class names",
        ("{stem}.txt", "yolo.yaml"),
        lambda it: tuple(_encode_text(text) for text in it.segmentation.to_yolo()),
    ),
    "label-studio": OutputFormat(
        "Label Studio task with the image and brush masks in it",
        ("label-studio.json",),
        lambda it: _encode_json(it.segmentation.to_label_studio(it.image)),
    ),
    "cvat": OutputFormat(
        "CVAT import, Datumaro 1.0, with masks",
        ("cvat.json",),
        lambda it: _encode_json(it.segmentation.to_cvat(image_name=it.image_name)),
    ),
    "geojson": OutputFormat(
        "GeoJSON polygons with holes, in pixels", ("objects.geojson",), lambda it: _encode_json(it.segmentation.to_geojson())
    ),
    "svg": OutputFormat("SVG paths", ("objects.svg",), lambda it: (_encode_text(it.segmentation.to_svg()),)),
    "numpy": OutputFormat(
        "NumPy arrays: masks, boxes, scores, labels", ("result.npz",), lambda it: _encode_npz(it.segmentation)
    ),
}
"""Name -> format, in the order in which they are offered."""
_FIXED_STEMS = {file.partition(".")[0] for each in OUTPUT_FORMATS.values() for file in each.files if "{" not in file}
"""What no file that is named after the image may be called."""


def check_output_names(names: Iterable[str]) -> list[str]:
    """Return the names without repetitions, in their order.

    Raises:
        OutputFormatError: A name is none of `OUTPUT_FORMATS`.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        if name not in OUTPUT_FORMATS:
            formats = ", ".join(OUTPUT_FORMATS)
            raise OutputFormatError(
                f"there is no output format {quote_text(name)}: expected {formats}{suggest_name(name, OUTPUT_FORMATS)}"
            )
    return unique


def list_output_files(names: Iterable[str], image_name: str = "image.png") -> dict[str, tuple[str, ...]]:
    """Return the names of the files of each format, without making them.

    Args:
        names: Keys of `OUTPUT_FORMATS`.
        image_name: Name of the image's file, as given to `export_outputs`.

    Raises:
        OutputFormatError: A format does not exist.
    """
    stem = clean_file_stem(image_name)
    if stem in _FIXED_STEMS:
        stem += "-image"
    return {name: tuple(file.format(stem=stem) for file in OUTPUT_FORMATS[name].files) for name in check_output_names(names)}


def list_file_names(names: Iterable[str], image_name: str = "image.png") -> list[str]:
    """Return the names of the files of all these formats, as `list_output_files` does by format."""
    return [file for files in list_output_files(names, image_name).values() for file in files]


def export_outputs(
    image: Image,
    segmentation: Segmentation,
    names: Iterable[str],
    *,
    image_name: str = "image.png",
    points: bool = True,
    expressions: Sequence[str] | None = None,
) -> dict[str, bytes]:
    """Make the files of a result in the formats asked for.

    Args:
        image: RGB, of the segmentation's size.
        segmentation: The result.
        names: Keys of `OUTPUT_FORMATS`.
        image_name: Name of the image's file, which annotations refer to and some files are named after. Folders in it are
            left out.
        points: Whether an overlay shows the points.
        expressions: The expression that labels each object in an overlay; by default the segmentation's.

    Returns:
        File name -> content. File names are free of folders and of characters that some file system refuses.

    Raises:
        OutputFormatError: A format does not exist.
        ValueError: Image and segmentation differ in size, or there are not as many expressions as objects.
    """
    files = list_output_files(names, image_name)
    if image.size != segmentation.size:
        raise ValueError(f"the image is {image.size}, the segmentation is for an image of {tuple(segmentation.size)}")
    source = _Source(image, segmentation, clean_file_stem(image_name) + _suffix(image_name), points, expressions)
    outputs: dict[str, bytes] = {}
    for name, file_names in files.items():
        outputs |= zip(file_names, OUTPUT_FORMATS[name].encode(source), strict=True)
    return outputs


def export_file(image: Image, segmentation: Segmentation, file: str, *, image_name: str = "image.png") -> tuple[str, bytes]:
    """Make one file of a result.

    Args:
        image: RGB, of the segmentation's size.
        segmentation: The result.
        file: The file's name where the image's file has none, one of `list_file_names(OUTPUT_FORMATS)`.
        image_name: As in `export_outputs`.

    Returns:
        The file's name after the image's, and its content.

    Raises:
        OutputFormatError: There is no such file.
    """
    for name, files in list_output_files(OUTPUT_FORMATS).items():
        if file in files:
            return list(export_outputs(image, segmentation, [name], image_name=image_name).items())[files.index(file)]
    raise OutputFormatError(f"a result has no file {quote_text(file)}: there are {', '.join(list_file_names(OUTPUT_FORMATS))}")


def clean_file_stem(name: str) -> str:
    """Return the stem of a file's name without folders and without characters that some file system or format refuses."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    cleaned = "".join(c if c.isalnum() or c in " -_.()+,@" else "_" for c in stem)[:_MAX_STEM].strip(" .")
    return cleaned or "image"


def get_media_type(file_name: str) -> str:
    """Return the media type of one of the files of `export_outputs`."""
    return _MEDIA_TYPES[PurePosixPath(file_name).suffix]


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name.replace("\\", "/")).suffix
    return suffix if suffix[1:].isalnum() and len(suffix) <= 8 else ".png"
