"""A result's files, in every format that results can be written in, as resources that a client reads by their URIs."""

from typing import NamedTuple

from sam4mllm_tool.images.output_formats import OUTPUT_FORMATS, export_file, get_media_type, list_output_files
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["RESULT_FILES", "ResultFile", "encode_file", "result_uri"]

_TEXTS = ("text/", "application/json", "application/geo+json", "application/yaml", "image/svg+xml")


class ResultFile(NamedTuple):
    """A file of a result.

    Attributes:
        name: The file's name.
        description: What is in it.
        mime_type: Its MIME type.
    """

    name: str
    description: str
    mime_type: str


RESULT_FILES = {
    file: ResultFile(file, OUTPUT_FORMATS[name].description, get_media_type(file))
    for name, names in list_output_files(OUTPUT_FORMATS).items()
    for file in names
}
"""The files of every result by name."""


def result_uri(handle: str, name: str) -> str:
    """Return the URI of a result's file; a handle in braces gives the template of all results."""
    return f"sam4mllm://results/{handle}/{name}"


def encode_file(file: ResultFile, image: Image, segmentation: Segmentation, image_name: str) -> bytes | str:
    """Return a file's content, as text where it is text."""
    _, content = export_file(image, segmentation, file.name, image_name=image_name)
    return content.decode("utf-8") if file.mime_type.startswith(_TEXTS) else content
