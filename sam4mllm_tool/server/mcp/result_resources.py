"""A result's masks and images of full size, as resources that a client reads by their URIs."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import NamedTuple

from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.images.export import cutout_image, mask_image
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["RESULT_FILES", "ResultFile", "result_uri"]


class ResultFile(NamedTuple):
    """A file of a result.

    Attributes:
        description: What is in it.
        mime_type: Its MIME type.
        write: Writes it from the image and the result.
    """

    description: str
    mime_type: str
    write: Callable[[Image, Segmentation], bytes | str]


def result_uri(handle: str, name: str) -> str:
    """Return the URI of a result's file; a handle in braces gives the template of all results."""
    return f"sam4mllm://results/{handle}/{name}"


def _encode_png(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _encode_json(segmentation: Segmentation) -> str:
    return json.dumps(segmentation.to_dict())


_PNG = "image/png"
RESULT_FILES = {
    "mask.png": ResultFile(
        "The union of the masks, 255 on the objects.", _PNG, lambda _, result: _encode_png(mask_image(result))
    ),
    "overlay.png": ResultFile("The masks over the image.", _PNG, lambda image, result: _encode_png(overlay(image, result))),
    "cutout.png": ResultFile(
        "The objects on a transparent ground.", _PNG, lambda image, result: _encode_png(cutout_image(image, result))
    ),
    "image.png": ResultFile("The image itself.", _PNG, lambda image, _: _encode_png(image)),
    "result.json": ResultFile(
        "The whole result with each object's mask and the dialogue.", "application/json", lambda _, result: _encode_json(result)
    ),
}
"""The files of every result by name."""
