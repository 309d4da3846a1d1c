"""What ADE20K, PACO and PartImageNet share: things of named classes, read as expressions that name the class.

"the mug" means every mug of a picture, "the handle of the mug" every mug's handle. An expression is kept or left out as a
whole: with one of its objects missing, the truth would call a right answer wrong. Left out, as in the method's public code,
are classes with many instances in a picture and things that are small in it; that is a choice, not a fault of the data set,
so it is counted among the problems and never told among the first ones.
"""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sam4mllm_tool.data.annotations import RegionError, agreed_box
from sam4mllm_tool.data.reader import Reader, picture_size
from sam4mllm_tool.data.sample import Problems, Region, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["BY_CHOICE", "ClassName", "ClassReader", "Picture", "Thing"]

CROWDED = "the picture has too many of the class"
SMALL = "a thing of the class is too small in the picture"
NOT_ALL = "not all of the class are annotated in the picture"
BY_CHOICE = frozenset({CROWDED, SMALL, NOT_ALL})
"""What is left out of a sound data set."""


@dataclass(frozen=True)
class ClassName:
    """A class of things, of parts where `part` is not empty."""

    thing: str
    part: str = ""

    @property
    def expression(self) -> str:
        return f"the {self.part} of the {self.thing}" if self.part else f"the {self.thing}"


@dataclass(frozen=True, eq=False)
class Thing:
    """One annotated instance. box: as annotated. region: or why it can't be read; None of one that is too small to be used.

    file, number: where it is annotated, for a message.
    """

    name: ClassName
    box: Box | None
    region: Region | RegionError | None
    file: str = ""
    number: object = None

    @property
    def where(self) -> str:
        return f"{self.file} {self.number}"


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture with all that is annotated in it. size: as annotated. unsure: classes of which more may be in it."""

    path: Path
    size: Size
    image_id: str
    things: Iterable[Thing]
    unsure: frozenset[ClassName] = frozenset()


class ClassReader(Reader):
    """Samples that name classes. A subclass gives the pictures.

    max_instances: of a class in a picture. min_area: of a thing's box, as a share of the picture's area. Both defaults are
    the public code's.
    """

    def __init__(self, root: Path, split: str = "train", *, max_instances: int = 5, min_area: float = 0.02) -> None:
        super().__init__(root, split)
        if max_instances < 1 or not 0 <= min_area < 1:
            raise DataError(
                f"expected max_instances of at least 1 and min_area in [0, 1), got {max_instances!r} and {min_area!r}"
            )
        self.max_instances, self.min_area = max_instances, min_area

    @abstractmethod
    def _pictures(self, problems: Problems) -> Iterator[Picture]:
        """In the order of the files. What is wrong with a thing is raised as RegionError or counted here."""

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        sample: Sample | None = None
        for sample in self._kept(problems):
            yield sample
        if sample is None and problems and all(what in BY_CHOICE for _, what in problems.counts):
            raise DataError(
                f"all of '{self.name}', split '{self.split}', is left out by choice ({', '.join(problems.lines())}); "
                f"see the options max_instances, now {self.max_instances}, and min_area, now {self.min_area}"
            )

    def _kept(self, problems: Problems) -> Iterator[Sample]:
        for picture in self._pictures(problems):
            size = picture_size(picture.path)
            if isinstance(size, str):
                problems.add("dropped", size, str(picture.path))
            elif size != picture.size:
                told = f"{picture.size.width} x {picture.size.height}"
                where = f"{picture.path}, {size.width} x {size.height} pixels, {told} annotated"
                problems.add("dropped", "the picture is of another size than annotated", where)
            else:
                yield from self._of_picture(picture, problems)

    def _of_picture(self, picture: Picture, problems: Problems) -> Iterator[Sample]:
        classes: dict[ClassName, list[Thing]] = {}
        for thing in picture.things:
            classes.setdefault(thing.name, []).append(thing)
        for name, things in classes.items():
            if (left_out := self._left_out(name, things, picture)) is not None:
                problems.counts["dropped", left_out] += 1
            elif objects := self._objects(things, picture.size, problems):
                boxes, regions = zip(*objects, strict=True)
                yield Sample(
                    id=f"{picture.image_id}/{name.expression.removeprefix('the ')}",
                    image_path=picture.path,
                    expression=name.expression,
                    size=picture.size,
                    boxes=boxes,
                    regions=regions,
                    kind="part" if name.part else "thing",
                    split=self.split,
                    image_id=picture.image_id,
                    source=self.name,
                )

    def _left_out(self, name: ClassName, things: list[Thing], picture: Picture) -> str | None:
        """Why the class is left out by choice, if it is."""
        if name in picture.unsure:
            return NOT_ALL
        if len(things) > self.max_instances:
            return CROWDED
        return SMALL if any(thing.region is None or self.too_small(thing.box, picture.size) for thing in things) else None

    def too_small(self, box: Box | None, size: Size) -> bool:
        """Whether a box is below the least share of the picture's area; what has no box is judged when its mask is."""
        return box is not None and (box.x2 - box.x1) * (box.y2 - box.y1) < self.min_area * size.width * size.height

    def _objects(self, things: list[Thing], size: Size, problems: Problems) -> list[tuple[Box, Region]]:
        """Boxes and regions from left to right; none where one of them can't be used, which is counted."""
        objects = list[tuple[Box, Region]]()
        for thing in things:
            try:
                box, region = _placed(thing, size, problems)
            except RegionError as error:
                problems.add("dropped", error.what, f"{thing.where} ({error.detail})" if error.detail else thing.where)
                return []
            if self.too_small(box, size):  # its mask's box, where the annotated one was wrong
                problems.counts["dropped", SMALL] += 1
                return []
            objects.append((box, region))
        return sorted(objects, key=lambda one: one[0])


def _placed(thing: Thing, size: Size, problems: Problems) -> tuple[Box, Region]:
    if isinstance(thing.region, RegionError):
        raise thing.region
    assert thing.region is not None, "what is too small was left out"
    return agreed_box(thing.region, thing.box, size, problems, thing.where), thing.region
