"""What all readers share: they can be iterated again and again, count problems, and never pass off nothing as a data set."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from sam4mllm_tool.data.sample import Problems, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.images.load import CALLER_POLICY
from sam4mllm_tool.types import Size

__all__ = ["Reader", "coco_image_id", "first_folder", "one_line", "picture_size"]

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})\.jpg")


class Reader(ABC):
    """Samples of one data set's split. A subclass is made from a root, a split and its own options, and gives `_samples`.

    name, split: as asked for. problems: what the last iteration met. Iterating raises DataError where no sample is left.
    """

    name: str
    split: str
    problems: Problems

    def __init__(self, root: Path, split: str) -> None:
        if not root.exists():
            raise DataError(f"{root} is not there: expected the root of the data set '{self.name}'")
        self.split = split
        self.problems = Problems()

    def __iter__(self) -> Iterator[Sample]:
        problems = self.problems = Problems()
        sample: Sample | None = None
        for sample in self._samples(problems):
            yield sample
        if sample is None:
            why = f"; {problems.first[0]}" if problems.first else ""
            raise DataError(f"no sample of '{self.name}', split '{self.split}', can be used{why}")

    def index_files(self) -> tuple[Path, ...]:
        """The files that list the samples; none where they are spread over the pictures' folders."""
        path = getattr(self, "path", None)
        return (path,) if isinstance(path, Path) and path.is_file() else ()

    @abstractmethod
    def _samples(self, problems: Problems) -> Iterator[Sample]:
        """Reads the files anew; adds to problems as it goes."""


def one_line(expression: object) -> str:
    """An annotated expression without blanks around it or doubled; "" where there is none."""
    return " ".join(expression.split()) if isinstance(expression, str) else ""


def first_folder(*folders: Path) -> Path:
    """The first that is there. Raises DataError naming all."""
    for folder in folders:
        if folder.is_dir():
            return folder
    looked = ", ".join(map(str, folders))
    raise DataError(f"the pictures' folder is not there, looked for {looked}; name another by the option 'images'")


def coco_image_id(file_name: str) -> str | None:
    """`coco:123` of COCO_train2014_000000000123.jpg or 000000000123.jpg, in any folder; None of another name."""
    found = _COCO_NAME.fullmatch(file_name.replace("\\", "/").rsplit("/", 1)[-1])
    return f"coco:{int(found.group(1))}" if found else None


def picture_size(path: Path) -> Size | str:
    """The size of the upright picture, from its header alone; else what is wrong with it."""
    try:
        with PILImage.open(path, formats=CALLER_POLICY.formats) as image:
            size = Size(*image.size)
            # A PNG is decoded to look for EXIF that isn't at its start: not for that.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            return Size(size.height, size.width) if exif.get(ExifTags.Base.Orientation) in _SIDEWAYS else size
    except FileNotFoundError:
        return "the picture is not there"
    except (UnidentifiedImageError, PILImage.DecompressionBombError, OSError, ValueError, SyntaxError):
        return "the picture can't be read"
