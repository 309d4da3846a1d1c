"""A folder of pictures, masks and texts read into records.

    cup.jpg          the picture
    cup.png          its mask (cup_mask.png too, and always where the picture is a PNG itself)
    cup.txt          a line of text per expression, UTF-8; all of them mean what the mask shows

A pixel of the mask is on the object where any of its colours is above 0 (and it is not transparent); of a palette picture,
where its index is. A mask with nothing on it says that there is no such object.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.data.convert import Record, checked_size
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask

_SUFFIXES = (".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".png")
_MASK_SUFFIXES = ("_mask.png", ".png")


def read_folder(source: Path, problems: Problems, *, values: str = "any") -> Iterator[Record]:
    """A record per line of text of each picture in the folder and its subfolders, by name.

    values: what the mask's values mean. any: what is above 0 is one object; each: every value above 0 is an object.
    Texts without a picture, without a mask, or with a mask of another size are dropped and counted.
    Raises DataError where the folder holds no text.
    """
    if values not in ("any", "each"):
        raise DataError(f"a mask's values are read as 'any' or 'each', not as {values!r}")
    texts = sorted(source.rglob("*.txt")) if source.is_dir() else []
    if not texts:
        raise DataError(f"{source} holds no text: expected name.jpg, name.png (its mask) and name.txt (its expressions)")
    for text in texts:
        try:
            yield from _records(text, problems, values)
        except DataError as error:
            problems.add("dropped", "the picture, its mask and its text don't go together", str(error))


def _records(text: Path, problems: Problems, values: str) -> Iterator[Record]:
    lines = _lines(text)
    image, mask = _pair(text)
    size = checked_size(image, problems)
    if size is None:
        return
    drawn = _drawn(mask)
    if drawn.shape != (size.height, size.width):
        raise DataError(f"{mask} is {drawn.shape[1]} x {drawn.shape[0]} pixels, {image} is {size.width} x {size.height}")
    masks = _masks(drawn, values)
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Record(image, line, masks, f"{text}, line {number}")


def _lines(text: Path) -> list[str]:
    try:
        lines = text.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{text} can't be read as UTF-8: {error}") from error
    if not any(line.strip() for line in lines):
        raise DataError(f"{text} has no expression in it")
    return lines


def _pair(text: Path) -> tuple[Path, Path]:
    """The picture and the mask that belong to a text."""
    image = next((found for suffix in _SUFFIXES if (found := text.with_suffix(suffix)).is_file()), None)
    if image is None:
        raise DataError(f"{text} has no picture beside it: expected {text.stem}.jpg or another format")
    candidates = [text.with_name(text.stem + suffix) for suffix in _MASK_SUFFIXES]
    mask = next((found for found in candidates if found.is_file() and found != image), None)
    if mask is None:
        names = " or ".join(each.name for each in candidates if each != image)
        raise DataError(f"{image} has no mask beside it: expected {names}")
    return image, mask


def _drawn(path: Path) -> npt.NDArray[np.int64]:
    """(H, W): the mask's values, of a colour one number for each colour; 0 where nothing is drawn."""
    try:
        with PILImage.open(path) as picture:
            if picture.mode in ("P", "L", "1") or picture.mode.startswith("I"):
                return np.array(picture).astype(np.int64)
            red, green, blue, opaque = np.moveaxis(np.array(picture.convert("RGBA")).astype(np.int64), 2, 0)
    except (OSError, PILImage.DecompressionBombError) as error:
        raise DataError(f"{path} can't be read as a mask: {error}") from error
    return np.where(opaque > 0, (red << 16) + (green << 8) + blue, 0)


def _masks(drawn: npt.NDArray[np.int64], values: str) -> tuple[Mask, ...]:
    if values == "each":
        return tuple(drawn == value for value in np.unique(drawn[drawn > 0]))
    return (drawn > 0,) if (drawn > 0).any() else ()
