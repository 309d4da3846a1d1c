"""Convert a folder of images, masks and texts.

    cup.jpg          the image
    cup.png          its mask (or cup_mask.png, which is required where the image is a PNG itself)
    cup.txt          one line of text per expression, UTF-8; all of them refer to what the mask shows

A pixel of the mask is on the object where one of its colours is above 0 and it is not transparent; in a palette image, where
its index is above 0. An empty mask means that there is no such object.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.data.convert import ExpressionRecord, measure_image
from sam4mllm_tool.data.reader import find_image
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask

__all__ = ["read_folder"]

_MASK_SUFFIXES = ("_mask.png", ".png")


def read_folder(source: Path, problems: Problems, *, values: str = "any") -> Iterator[ExpressionRecord]:
    """Yield one record per line of text, for all texts in the folder and its subfolders, by name.

    Texts without an image or a mask, or with a mask of another size, are dropped and counted.

    Args:
        source: The folder.
        problems: Gets what is dropped.
        values: The meaning of the mask's values. "any": all pixels above 0 are one object. "each": every value above 0 is an
            object of its own.

    Raises:
        DataError: The folder holds no text, or `values` is unknown.
    """
    if values not in ("any", "each"):
        raise DataError(f"expected the mask's values as 'any' or 'each', got {values!r}")
    texts = sorted(source.rglob("*.txt")) if source.is_dir() else []
    if not texts:
        raise DataError(f"{source} holds no text: expected name.jpg, name.png (its mask) and name.txt (its expressions)")
    for text in texts:
        try:
            yield from _read_records(text, problems, values)
        except DataError as error:
            problems.add("dropped", "the image, its mask and its text don't match", str(error))


def _read_records(text: Path, problems: Problems, values: str) -> Iterator[ExpressionRecord]:
    lines = _read_lines(text)
    image, mask_path = _find_image_and_mask(text)
    size = measure_image(image, problems)
    if size is None:
        return
    pixel_values = _read_values(mask_path)
    if pixel_values.shape != (size.height, size.width):
        sizes = f"{pixel_values.shape[1]} x {pixel_values.shape[0]} pixels, {image} is {size.width} x {size.height}"
        raise DataError(f"{mask_path} is {sizes}")
    masks = _separate_masks(pixel_values, values)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield ExpressionRecord(image, line, masks, f"{text}, line {number}")


def _read_lines(text: Path) -> list[str]:
    try:
        lines = text.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text} can't be read as UTF-8: {error}") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{text} has no expression in it")
    return lines


def _find_image_and_mask(text: Path) -> tuple[Path, Path]:
    image = find_image(text.parent, text.stem)
    if image is None:
        raise DataError(f"{text} has no image beside it: expected {text.stem}.jpg or another format")
    candidates = [path for suffix in _MASK_SUFFIXES if (path := text.with_name(text.stem + suffix)) != image]
    mask = next((path for path in candidates if path.is_file()), None)
    if mask is None:
        raise DataError(f"{image} has no mask beside it: expected {' or '.join(path.name for path in candidates)}")
    return image, mask


def _read_values(path: Path) -> npt.NDArray[np.int64]:
    """Return the mask's values, (H, W), with one number per colour; 0 where nothing is drawn."""
    try:
        with PILImage.open(path) as mask:
            if mask.mode in ("P", "L", "1") or mask.mode.startswith("I"):
                return np.array(mask).astype(np.int64)
            red, green, blue, alpha = np.moveaxis(np.array(mask.convert("RGBA")).astype(np.int64), 2, 0)
    except (OSError, PILImage.DecompressionBombError) as error:
        raise DataError(f"{path} can't be read as a mask: {error}") from error
    return np.where(alpha > 0, (red << 16) + (green << 8) + blue, 0)


def _separate_masks(pixel_values: npt.NDArray[np.int64], values: str) -> tuple[Mask, ...]:
    if values == "each":
        return tuple(pixel_values == value for value in np.unique(pixel_values[pixel_values > 0]))
    return (pixel_values > 0,) if (pixel_values > 0).any() else ()
