"""Class annotations in one file of COCO's form, for PACO and PartImageNet: streamed once, then kept by image.

Kept are all boxes, but the outlines of those objects only that are large enough to be used, in their stored form.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, read_box_xywh, require_pycocotools
from sam4mllm_tool.data.class_reader import AnnotatedImage, ClassInstance, ClassName, ClassReader
from sam4mllm_tool.data.instances import CocoAnnotation, read_annotation
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.reader import find_folder
from sam4mllm_tool.data.sample import Problems
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["CocoImage", "CocoLikeReader"]

_BAD_ANNOTATION = "the annotation's record is malformed, or its image does not exist"


@dataclass(frozen=True, slots=True, eq=False)
class CocoImage:
    """An image's record with its annotations.

    Attributes:
        id: The record's id.
        file_name: As in the record.
        size: In pixels.
        incomplete: Ids of categories of which not all objects are annotated (LVIS's `not_exhaustive_category_ids`).
        annotations: Category id and annotation of each object; the annotation is None where the object is too small. The
            names of the categories often follow later in the file.
    """

    id: int
    file_name: str
    size: Size
    incomplete: tuple[int, ...] = ()
    annotations: list[tuple[int, CocoAnnotation | None]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _CocoIndex:
    """The images in the file's order, the classes by category id, and the faults of the file's records."""

    path: Path
    is_small: Callable[[Box | None, Size], bool]
    images: dict[int, CocoImage] = field(default_factory=dict)
    names: dict[int, ClassName] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)

    def add_image(self, record: Any) -> None:
        size = Size(int(record["width"]), int(record["height"]))
        incomplete = tuple(record.get("not_exhaustive_category_ids") or ())
        self.images[record["id"]] = CocoImage(record["id"], str(record["file_name"]), size, incomplete)

    def add_name(self, record: Any, class_name: Callable[[Mapping[str, Any]], ClassName]) -> None:
        self.names[record["id"]] = class_name(record)

    def add_annotation(self, record: Any) -> None:
        image, category = self.images[record["image_id"]], int(record["category_id"])
        small = self.is_small(read_box_xywh(record.get("bbox")), image.size)  # most of PACO's; their outlines aren't needed
        image.annotations.append((category, None if small else read_annotation(record)))

    def add(self, what: str, add_record: Callable[[Any], None], record: Any) -> None:
        """Call `add_record` and count a record that it can't use."""
        try:
            add_record(record)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            number = record.get("id") if isinstance(record, dict) else record
            where = f"{self.path}, record {number!r:.40}"
            self.problems.add("dropped", what, where, f"{type(error).__name__}: {error}")

    def instances(self, image: CocoImage, problems: Problems) -> Iterator[ClassInstance]:
        """Yield the image's objects; count those without a category."""
        for category, annotation in image.annotations:
            where = f"{self.path}, annotation {annotation.id if annotation else 'of a small object'}"
            name = self.names.get(category)
            if name is None:
                problems.add("dropped", "the annotation's category does not exist", f"{where}, category {category!r:.40}")
            elif annotation is None:
                yield ClassInstance(name, None, None)
            else:
                region = RegionError("the annotation is of a crowd") if annotation.crowd else annotation.region
                yield ClassInstance(name, annotation.box, region, where)


class CocoLikeReader(ClassReader):
    """Samples that name classes, from one file in COCO's form.

    Args:
        root: The dataset's folder.
        split: The split's name.
        max_instances: See `ClassReader`.
        min_area: See `ClassReader`.
        images: The folder of the images, where it is not in the published layout's place.
        annotations: The annotation file, where it is not in the published layout's place.

    Raises:
        DataError: The folder or the file does not exist.
        MissingExtraError: pycocotools is not installed.
    """

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        max_instances: int = 5,
        min_area: float = 0.02,
        images: Path | str | None = None,
        annotations: Path | str | None = None,
    ) -> None:
        super().__init__(root, split, max_instances=max_instances, min_area=min_area)
        require_pycocotools()
        self.path = _find_file([Path(annotations)] if annotations else self._annotation_files(root, split))
        self._images = find_folder(*([Path(images)] if images else self._image_folders(root, split)))

    @abstractmethod
    def _annotation_files(self, root: Path, split: str) -> list[Path]:
        """List the places of the annotation file, the likeliest first."""

    @abstractmethod
    def _image_folders(self, root: Path, split: str) -> list[Path]:
        """List the places of the images, the likeliest first."""

    @abstractmethod
    def _class_name(self, category: Mapping[str, Any]) -> ClassName:
        """Convert a category's record."""

    @abstractmethod
    def _locate_image(self, image: CocoImage) -> tuple[Path, str]:
        """Return the image's path and its id across datasets."""

    def units(self) -> int:
        """Return the number of images in the split, which is what the published counts count."""
        return len(self._index.images)

    def _annotated_images(self, problems: Problems) -> Iterator[AnnotatedImage]:
        index = self._index
        problems.extend(index.problems)
        for image in index.images.values():
            path, image_id = self._locate_image(image)
            incomplete = frozenset(index.names[number] for number in image.incomplete if number in index.names)
            yield AnnotatedImage(path, image.size, image_id, index.instances(image, problems), incomplete)

    @cached_property
    def _index(self) -> _CocoIndex:
        index = _CocoIndex(self.path, self._is_small)
        early = list[Any]()  # annotations that come before the images
        for key, record in stream_arrays(self.path, "images", "categories", "annotations"):
            if key == "images":
                index.add("the image's record is malformed", index.add_image, record)
            elif key == "categories":
                index.add(
                    "the category's record is malformed", lambda category: index.add_name(category, self._class_name), record
                )
            elif index.images:
                index.add(_BAD_ANNOTATION, index.add_annotation, record)
            else:
                early.append(record)
        if not index.images or not index.names:
            raise DataError(f"{self.path} is not in COCO's form: it has no images or no categories")
        for record in early:
            index.add(_BAD_ANNOTATION, index.add_annotation, record)
        return index


def _find_file(candidates: list[Path]) -> Path:
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise DataError(f"the annotations do not exist, searched {', '.join(dict.fromkeys(map(str, candidates)))}")
