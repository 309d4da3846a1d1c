"""The base class of all dataset readers, and the small functions that they share."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from sam4mllm_tool.data.sample import Problems, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.images.load import CALLER_POLICY, load_image
from sam4mllm_tool.types import Image, Size

__all__ = [
    "Reader",
    "coco_image_id",
    "find_folder",
    "find_image",
    "load_sample_image",
    "normalize_expression",
    "read_image_size",
]

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".png")  # a PNG beside another image may be its mask
_ROTATED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg")


class Reader(ABC):
    """The samples of one split of a dataset. Subclasses are constructed from a root, a split and their own options.

    Iterating raises DataError where no sample can be used.
    """

    name: str
    split: str
    problems: Problems

    def __init__(self, root: Path, split: str) -> None:
        if not root.exists():
            raise DataError(f"{root} does not exist: expected the root of the dataset '{self.name}'")
        self.split = split
        self.problems = Problems()

    def __iter__(self) -> Iterator[Sample]:
        problems = self.problems = Problems()
        sample: Sample | None = None
        for sample in self._samples(problems):
            yield sample
        if sample is None:
            reason = f"; {problems.first[0]}" if problems.first else ""
            raise DataError(f"no sample of '{self.name}', split '{self.split}', can be used{reason}")

    def index_files(self) -> tuple[Path, ...]:
        """Return the files that list the samples; none where every image has its own."""
        path = getattr(self, "path", None)
        return (path,) if isinstance(path, Path) and path.is_file() else ()

    @abstractmethod
    def _samples(self, problems: Problems) -> Iterator[Sample]:
        """Read the files from the start and add their faults to `problems`."""


def normalize_expression(expression: object) -> str:
    """Collapse the whitespace of an annotated expression; return "" for anything but text."""
    return " ".join(expression.split()) if isinstance(expression, str) else ""


def find_folder(*folders: Path) -> Path:
    """Return the first folder that exists. Raises DataError listing all."""
    for folder in folders:
        if folder.is_dir():
            return folder
    searched = ", ".join(map(str, folders))
    raise DataError(f"the folder of images does not exist, searched {searched}; set it with the option 'images'")


def find_image(folder: Path, stem: str) -> Path | None:
    """Return the image called `stem` in the folder, whatever its format; None where there is none."""
    return next((path for suffix in _IMAGE_SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def coco_image_id(file_name: str) -> str | None:
    """Return `coco:123` for COCO_train2014_000000000123.jpg or 000000000123.jpg in any folder, None for other names."""
    match = _COCO_NAME.fullmatch(file_name.replace("\\", "/").rsplit("/", 1)[-1])
    return f"coco:{int(match.group(1))}" if match else None


def read_image_size(path: Path) -> Size | str:
    """Return the size of the upright image from its header alone, or a description of what is wrong with the file."""
    try:
        with PILImage.open(path, formats=CALLER_POLICY.formats) as image:
            size = Size(*image.size)
            # Pillow decodes a whole PNG to look for EXIF that isn't at its start, which is too slow here.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            return Size(size.height, size.width) if exif.get(ExifTags.Base.Orientation) in _ROTATED else size
    except FileNotFoundError:
        return "the image does not exist"
    except (UnidentifiedImageError, PILImage.DecompressionBombError, OSError, ValueError, SyntaxError):
        return "the image can't be read"


def load_sample_image(sample: Sample) -> Image:
    """Load the sample's image. Raises ImageError, and DataError where its size differs from the sample's."""
    image = load_image(sample.image_path)
    if image.size != sample.size:
        expected = f"{sample.size.width} x {sample.size.height}"
        raise DataError(f"the image has {image.width} x {image.height} pixels, but {expected} are annotated")
    return image
