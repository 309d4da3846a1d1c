"""What a data set is made of: a picture, an expression, and the objects that it means.

Masks are kept as they are annotated (polygons, RLE, a bitmap's value) and decoded when asked for, so that a data set of a
hundred thousand samples is read in the memory of one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from sam4mllm_tool.types import Box, Mask, Size, Turn

__all__ = ["Dataset", "Problems", "Region", "Sample"]


class Region(Protocol):
    """An annotated area; pickles, so that another process can decode it."""

    def mask(self, size: Size) -> Mask:
        """(H, W) bool on the original picture. Raises DataError where the annotation does not fit the size."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An expression about a picture, with the objects it means; no objects: there is no such object.

    id: unique in the data set. size, boxes: in pixels of the original picture; one box an object, in the order in which the
    objects are to be named, left to right where the data set knows no order. regions: one an object. ignored: pixels that
    count neither way in evaluation. kind: of expression, where the data set tells them apart. image_id: the picture's name
    across data sets, `coco:581857` for instance, by which the held-out ones are known. turns: a conversation without
    masks, for a VQA set; such a sample has no expression and no objects. explanation: the answer in words that ReasonSeg
    gives to some expressions.
    """

    id: str
    image_path: Path
    expression: str
    size: Size
    boxes: tuple[Box, ...] = ()
    regions: tuple[Region, ...] = ()
    ignored: Region | None = None
    kind: str = ""
    split: str = ""
    image_id: str = ""
    source: str = ""
    turns: tuple[Turn, ...] = ()
    explanation: str = ""

    def masks(self) -> tuple[Mask, ...]:
        """One (H, W) bool per object, in the order of the boxes; decoded anew at each call."""
        return tuple(region.mask(self.size) for region in self.regions)

    def mask(self) -> Mask:
        """The union of the objects' masks, (H, W) bool."""
        union = np.zeros((self.size.height, self.size.width), np.bool_)
        for mask in self.masks():
            union |= mask
        return union

    def ignore(self) -> Mask:
        """The pixels that count neither way, (H, W) bool."""
        if self.ignored is None:
            return np.zeros((self.size.height, self.size.width), np.bool_)
        return self.ignored.mask(self.size)


Fate = Literal["dropped", "mended"]


@dataclass
class Problems:
    """What was wrong in a data set and what became of it; counted by what was wrong, the first ten told in full."""

    counts: Counter[tuple[Fate, str]] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    MOST_TOLD = 10

    def add(self, fate: Fate, what: str, where: str) -> None:
        """what: in general ("the mask is empty"). where: which file and record."""
        self.counts[fate, what] += 1
        if len(self.first) < self.MOST_TOLD:
            self.first.append(f"{where}: {what} ({fate})")

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> list[str]:
        """For a person: each kind with its count, the most frequent first."""
        return [f"{count:,} {fate}: {what}" for (fate, what), count in self.counts.most_common()]


class Dataset(Protocol):
    """Samples of one data set's split, in the order of its files; may be iterated any number of times.

    problems: what the last iteration met, filled as it goes. What can't be used is dropped and counted, never silently;
    only what leaves nothing to read (a wrong root, a corrupt index) raises DataError.
    """

    name: str
    split: str
    problems: Problems

    def __iter__(self) -> Iterator[Sample]: ...
