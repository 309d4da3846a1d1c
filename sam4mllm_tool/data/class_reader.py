"""The base of ADE20K, PACO and PartImageNet: instances of named classes, read as expressions that name the class.

"the mug" refers to every mug in an image, "the handle of the mug" to every mug's handle. An expression is kept or dropped as a
whole: with one of its objects missing, a correct answer would be scored as wrong. As in the method's public code, classes with
many instances in an image and classes with a small instance are left out. That is a choice and no fault of the dataset, so it
is counted among the problems but never listed among the first ones.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sam4mllm_tool.data.annotations import RegionError, reconcile_box
from sam4mllm_tool.data.reader import Reader, read_image_size
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["LEFT_OUT_BY_CHOICE", "AnnotatedImage", "ClassInstance", "ClassName", "ClassReader"]

_CROWDED = "the image has too many objects of the class"
_SMALL = "an object of the class is too small in the image"
_INCOMPLETE = "not all objects of the class are annotated in the image"
_FORMER_WORDS = (
    "the picture has too many of the class",
    "a thing of the class is too small in the picture",
    "not all of the class are annotated in the picture",
)  # in manifests written before
LEFT_OUT_BY_CHOICE = frozenset({_CROWDED, _SMALL, _INCOMPLETE, *_FORMER_WORDS})
"""Reasons for which samples of a sound dataset are left out."""


@dataclass(frozen=True)
class ClassName:
    """The name of an object's class, with a part's name for a class of parts."""

    whole: str
    part: str = ""

    @property
    def expression(self) -> str:
        """The expression that refers to all instances of the class."""
        return f"the {self.part} of the {self.whole}" if self.part else f"the {self.whole}"


@dataclass(frozen=True, eq=False)
class ClassInstance:
    """One annotated object.

    Attributes:
        name: Its class.
        box: As annotated, in pixels.
        region: Its mask, or why the mask can't be read; None for an instance that is too small to be used.
        where: The file and the record, for messages.
    """

    name: ClassName
    box: Box | None
    region: Region | RegionError | None
    where: str = ""


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """An image with all its annotated instances; the image may hold more instances of the classes in `incomplete`."""

    path: Path
    size: Size
    image_id: str
    instances: Iterable[ClassInstance]
    incomplete: frozenset[ClassName] = frozenset()


class ClassReader(Reader):
    """Samples whose expressions name classes. Subclasses yield the annotated images.

    Args:
        root: The dataset's folder.
        split: The split's name.
        max_instances: Classes with more instances in an image are left out. The default is the public code's.
        min_area: Classes with an instance whose box is smaller than this share of the image, in [0, 1), are left out. The
            default is the public code's.
    """

    def __init__(self, root: Path, split: str = "train", *, max_instances: int = 5, min_area: float = 0.02) -> None:
        super().__init__(root, split)
        if max_instances < 1 or not 0 <= min_area < 1:
            raise DataError(
                f"expected max_instances of at least 1 and min_area in [0, 1), got {max_instances!r} and {min_area!r}"
            )
        self.max_instances, self.min_area = max_instances, min_area

    @abstractmethod
    def _annotated_images(self, problems: Problems) -> Iterator[AnnotatedImage]:
        """Read the files in order and add their faults to `problems`."""

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        sample: Sample | None = None
        for image in self._annotated_images(problems):
            if self._check_size(image, problems):
                for sample in self._image_samples(image, problems):
                    yield sample
        if sample is None and problems and all(what in LEFT_OUT_BY_CHOICE for _, what in problems.counts):
            raise DataError(
                f"all samples of '{self.name}', split '{self.split}', are left out by choice ({', '.join(problems.lines())}); "
                f"see the options max_instances, now {self.max_instances}, and min_area, now {self.min_area}"
            )

    def _check_size(self, image: AnnotatedImage, problems: Problems) -> bool:
        size = read_image_size(image.path)
        if isinstance(size, str):
            problems.add("dropped", size, str(image.path))
        elif size != image.size:
            annotated = f"{image.size.width} x {image.size.height}"
            where = f"{image.path}, {size.width} x {size.height} pixels, {annotated} annotated"
            problems.add("dropped", "the image's size differs from the annotated size", where)
        return size == image.size

    def _image_samples(self, image: AnnotatedImage, problems: Problems) -> Iterator[Sample]:
        classes: dict[ClassName, list[ClassInstance]] = {}
        for instance in image.instances:
            classes.setdefault(instance.name, []).append(instance)
        for name, instances in classes.items():
            if (reason := self._reason_to_leave_out(name, instances, image)) is not None:
                problems.counts["dropped", reason] += 1
            elif objects := self._resolve_objects(instances, image.size, problems):
                boxes, regions = zip(*objects, strict=True)
                yield Sample(
                    id=f"{image.image_id}/{name.expression.removeprefix('the ')}",
                    image_path=image.path,
                    expression=name.expression,
                    size=image.size,
                    boxes=boxes,
                    regions=regions,
                    kind="part" if name.part else "thing",
                    split=self.split,
                    image_id=image.image_id,
                    source=self.name,
                )

    def _reason_to_leave_out(self, name: ClassName, instances: list[ClassInstance], image: AnnotatedImage) -> str | None:
        if name in image.incomplete:
            return _INCOMPLETE
        if len(instances) > self.max_instances:
            return _CROWDED
        small = any(instance.region is None or self._is_small(instance.box, image.size) for instance in instances)
        return _SMALL if small else None

    def _is_small(self, box: Box | None, size: Size) -> bool:
        """Whether the box is below the minimum area. Without a box the mask decides later."""
        return box is not None and box.area < self.min_area * size.width * size.height

    def _resolve_objects(self, instances: list[ClassInstance], size: Size, problems: Problems) -> list[tuple[Box, Region]]:
        """Return boxes and regions from left to right; none, which is counted, where one of them can't be used."""
        objects = list[tuple[Box, Region]]()
        for instance in instances:
            try:
                box, region = _resolve_object(instance, size, problems)
            except RegionError as error:
                problems.add("dropped", error.what, instance.where, error.detail)
                return []
            if self._is_small(box, size):  # the mask's box, where the annotated one was wrong
                problems.counts["dropped", _SMALL] += 1
                return []
            objects.append((box, region))
        return sorted(objects, key=lambda pair: pair[0])


def _resolve_object(instance: ClassInstance, size: Size, problems: Problems) -> tuple[Box, Region]:
    if isinstance(instance.region, RegionError):
        raise instance.region
    assert instance.region is not None, "small instances were left out before"
    return reconcile_box(instance.region, instance.box, size, problems, instance.where), instance.region
