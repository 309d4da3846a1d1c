"""Images as the command line names them: paths, data URIs, and URLs where `--allow-url` is given."""

from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from sam4mllm_tool.cli.usage_errors import IMAGE_SUFFIXES
from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, load_image
from sam4mllm_tool.types import Image

__all__ = ["AllowUrlOption", "choose_policy", "image_name", "is_image", "is_path", "open_image"]

AllowUrlOption = Annotated[
    bool,
    typer.Option("--allow-url", help="Download images that are given as http or https URLs, from public addresses only."),
]


def choose_policy(allow_url: bool) -> ImagePolicy:
    """Return what the command may open: any path, and URLs at public addresses if the user allows them."""
    return replace(CALLER_POLICY, allow_urls=True) if allow_url else CALLER_POLICY


def open_image(source: str, policy: ImagePolicy) -> Image:
    """Load the image that an argument names.

    Args:
        source: A path, a data URI or a URL.
        policy: From `choose_policy`.

    Raises:
        ImageError: The image can't be read, or is a URL and the policy allows none.
    """
    if _is_url(source) and not policy.allow_urls:
        raise ImageError(f"the image {quote_text(source)} is a URL: add --allow-url to download it")
    return load_image(source, policy=policy)


def image_name(source: str) -> str:
    """Return the name of an image's file; "" for a data URI."""
    if _is_data_uri(source):
        return ""
    return PurePath(unquote(urlsplit(source.strip()).path) if _is_url(source) else source).name


def is_image(word: str) -> bool:
    """Return whether a word that might be an expression is clearly an image: a URL, a data URI, or an image's file."""
    if not is_path(word):
        return True
    try:
        return word.lower().endswith(IMAGE_SUFFIXES) and Path(word).is_file()
    except (OSError, ValueError):
        return False


def _is_url(source: str) -> bool:
    return source.strip().lower().startswith(("http://", "https://"))


def _is_data_uri(source: str) -> bool:
    return source.strip().lower().startswith("data:")


def is_path(source: str) -> bool:
    """Return whether an image is named by its path."""
    return not _is_url(source) and not _is_data_uri(source)
