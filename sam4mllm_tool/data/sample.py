"""The sample: an image, an expression, and the objects that it refers to.

Masks are kept as they are annotated (polygons, RLE, a bitmap's path) and decoded on request, so that memory doesn't grow with
the number of pixels of a dataset.
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
    """An annotated area. It can be pickled, so that another process can decode it."""

    def mask(self, size: Size) -> Mask:
        """Return the (H, W) bool mask on the original image. Raises DataError where the annotation doesn't fit `size`."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An expression about an image, with the objects that it refers to. No objects means that there is no such object.

    Attributes:
        id: Unique in the dataset.
        image_path: The image's file.
        expression: The referring expression; empty for a conversation without masks.
        size: Of the upright image, in pixels.
        boxes: One box per object, in pixels, in the order in which a reply should list the objects; from left to right where
            the dataset has no order.
        regions: One region per object, in the order of `boxes`.
        ignored: Pixels that evaluation skips.
        kind: The kind of expression, where the dataset distinguishes kinds.
        split: The split that the sample was read from.
        image_id: The image's name across datasets, for example `coco:581857`, by which held-out images are recognised.
        source: The dataset's name.
        turns: A conversation without masks, from a VQA dataset.
        explanation: The answer in words that ReasonSeg has for some expressions.
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
        """Decode one (H, W) bool mask per object, in the order of the boxes."""
        return tuple(region.mask(self.size) for region in self.regions)

    def mask(self) -> Mask:
        """Return the union of the objects' masks, (H, W) bool."""
        union = np.zeros((self.size.height, self.size.width), np.bool_)
        for mask in self.masks():
            union |= mask
        return union

    def ignore(self) -> Mask:
        """Return the pixels that evaluation skips, (H, W) bool."""
        if self.ignored is None:
            return np.zeros((self.size.height, self.size.width), np.bool_)
        return self.ignored.mask(self.size)


Fate = Literal["dropped", "corrected"]


@dataclass
class Problems:
    """Faults found in a dataset, and whether the record was dropped or corrected.

    Attributes:
        counts: How often each fault occurred, by fate and general description.
        first: The first `MAX_EXAMPLES` faults in full.
    """

    counts: Counter[tuple[Fate, str]] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    MAX_EXAMPLES = 10

    def add(self, fate: Fate, what: str, where: str, detail: str = "") -> None:
        """Count a fault.

        Args:
            fate: What became of the record.
            what: The fault in general ("the mask is empty").
            where: The file and the record.
            detail: What is special about this record.
        """
        self.counts[fate, what] += 1
        if len(self.first) < self.MAX_EXAMPLES:
            self.first.append(f"{where}{f' ({detail})' if detail else ''}: {what} ({fate})")

    def extend(self, other: "Problems") -> None:
        """Add another list of faults to this one."""
        self.counts.update(other.counts)
        self.first.extend(other.first[: self.MAX_EXAMPLES - len(self.first)])

    def __bool__(self) -> bool:
        return bool(self.counts)

    @property
    def count(self) -> int:
        """The number of all faults."""
        return self.counts.total()

    def lines(self) -> list[str]:
        """Return one line per kind of fault with its count, the most frequent first."""
        return [f"{count:,} {fate}: {what}" for (fate, what), count in self.counts.most_common()]


class Dataset(Protocol):
    """The samples of one split, in the order of its files. It can be iterated any number of times.

    `problems` holds the faults of the last iteration and is filled during it. Records that can't be used are dropped and
    counted; DataError is raised only where nothing can be read (a wrong root, a damaged index).
    """

    name: str
    split: str
    problems: Problems

    def __iter__(self) -> Iterator[Sample]: ...
