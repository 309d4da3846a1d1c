"""Annotations in COCO's form, read once and kept by picture: for PACO and PartImageNet.

The file is read a record at a time. Kept are boxes, and the outlines of those things alone that are large enough to be used,
as they are written; a mask is decoded when it is asked for.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, box_xyxy
from sam4mllm_tool.data.class_reader import ClassName, ClassReader, Thing
from sam4mllm_tool.data.instances import Annotation, read_annotation
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["CocoImage", "CocoIndex", "CocoLikeReader", "find_file", "read_coco_like"]


@dataclass(frozen=True, slots=True, eq=False)
class CocoImage:
    """A picture's record, with what is annotated in it.

    unsure: ids of categories of which not all are annotated (LVIS's `not_exhaustive_category_ids`). found: the category of
    each thing and its annotation, None of one that is too small. The categories' names often follow later in the file.
    """

    id: int
    file_name: str
    size: Size
    unsure: tuple[int, ...] = ()
    found: list[tuple[int, Annotation | None]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class CocoIndex:
    """The pictures in the file's order, and the classes by id. problems: what was wrong with the file's records."""

    path: Path
    images: dict[int, CocoImage] = field(default_factory=dict)
    names: dict[int, ClassName] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def tell(self, problems: Problems) -> None:
        """Adds what was wrong with the file's records, which are read once, to the problems of an iteration."""
        problems.counts.update(self.problems.counts)
        problems.first.extend(self.problems.first[: problems.MOST_TOLD - len(problems.first)])

    def unsure(self, image: CocoImage) -> frozenset[ClassName]:
        """The classes of which more may be in the picture."""
        return frozenset(self.names[number] for number in image.unsure if number in self.names)

    def things(self, image: CocoImage, problems: Problems) -> Iterator[Thing]:
        """What is annotated in the picture; counts what is of no category."""
        place = f"{self.path}, annotation"
        for category, annotation in image.found:
            name = self.names.get(category)
            if name is None:
                where = f"{place} {annotation.id if annotation else 'of a small thing'}, category {category!r:.40}"
                problems.add("dropped", "the annotation's category is not there", where)
            elif annotation is None:
                yield Thing(name, None, None)
            else:
                region = RegionError("the annotation is of a crowd") if annotation.crowd else annotation.region
                yield Thing(name, annotation.box, region, place, annotation.id)


class CocoLikeReader(ClassReader):
    """Reads classes from one file in COCO's form, at `path`."""

    path: Path

    @abstractmethod
    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Of a category's record."""

    def units(self) -> int:
        """Pictures of the split, which the published counts count."""
        return len(self._index.images)

    @cached_property
    def _index(self) -> CocoIndex:
        return read_coco_like(self.path, self._class_name, self.too_small)


def find_file(*candidates: Path) -> Path:
    """The first that is there. Raises DataError naming all."""
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"the annotations are not there, looked for {', '.join(dict.fromkeys(map(str, candidates)))}")


def read_coco_like(
    path: Path, name_of: Callable[[Mapping[str, Any]], ClassName], too_small: Callable[[Box | None, Size], bool]
) -> CocoIndex:
    """Reads the file. name_of: the class of a category's record. too_small: of a box in a picture of a size.

    Records that can't be used are dropped and counted. Raises DataError where the file is not there or no JSON, or where it
    holds no pictures.
    """
    index = CocoIndex(path)
    later = list[Any]()  # annotations that come before the pictures in the file
    for key, record in stream_arrays(path):
        if key == "images":
            _add_image(index, record, path)
        elif key == "categories":
            _add_category(index, record, path, name_of)
        elif key == "annotations":
            if index.images:
                _add_thing(index, record, path, too_small)
            else:
                later.append(record)
    if not index.images or not index.names:
        raise DataError(f"{path} is not in COCO's form: it has no images or no categories")
    for record in later:
        _add_thing(index, record, path, too_small)
    return index


def _add_image(index: CocoIndex, record: Any, path: Path) -> None:
    try:
        size = Size(int(record["width"]), int(record["height"]))
        unsure = tuple(record.get("not_exhaustive_category_ids") or ())
        index.images[record["id"]] = CocoImage(record["id"], str(record["file_name"]), size, unsure)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _told(index, "the image's record is malformed", path, record, error)


def _add_category(index: CocoIndex, record: Any, path: Path, name_of: Callable[[Mapping[str, Any]], ClassName]) -> None:
    try:
        index.names[record["id"]] = name_of(record)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _told(index, "the category's record is malformed", path, record, error)


def _add_thing(index: CocoIndex, record: Any, path: Path, too_small: Callable[[Box | None, Size], bool]) -> None:
    try:
        image, category = index.images[record["image_id"]], int(record["category_id"])
        small = too_small(box_xyxy(record.get("bbox")), image.size)  # as most of PACO's: no need to read its outline
        image.found.append((category, None if small else read_annotation(record)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _told(index, "the annotation's record is malformed, or its image is not there", path, record, error)


def _told(index: CocoIndex, what: str, path: Path, record: Any, error: Exception) -> None:
    number = record.get("id") if isinstance(record, dict) else record
    index.problems.add("dropped", what, f"{path}, record {number!r:.40} ({type(error).__name__}: {error})")
