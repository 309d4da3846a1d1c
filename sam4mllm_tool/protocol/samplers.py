"""Samplers that choose where points are asked about: they place the points of the second round inside a box.

A sampler is a frozen value that is called with a box. The same sampler and box give the same points, so that a dialogue can be
rebuilt from its replies alone. All coordinates are in pixels.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

from sam4mllm_tool.types import Box, Point

__all__ = ["RELEASED_POINTS", "FixedList", "Grid", "PointsByBox", "PoissonDisk", "Sampler"]


class Sampler(Protocol):
    """Anything that places points in a box."""

    def __call__(self, box: Box) -> tuple[Point, ...]:
        """Return points inside the box, in the order in which they will be asked about."""


def _scale_to_box(box: Box, unit_points: tuple[tuple[float, float], ...]) -> tuple[Point, ...]:
    """Move points of the unit square into the box."""
    return tuple(Point(box.x1 + u * box.width, box.y1 + v * box.height) for u, v in unit_points)


@dataclass(frozen=True)
class Grid:
    """The paper's sampler: the centers of columns x rows equal cells, row by row."""

    columns: int = 5
    rows: int = 5

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1:
            raise ValueError(f"a grid has at least one column and one row, not {self.columns} x {self.rows}")

    def __call__(self, box: Box) -> tuple[Point, ...]:
        cells = ((column, row) for row in range(self.rows) for column in range(self.columns))
        return _scale_to_box(box, tuple(((column + 0.5) / self.columns, (row + 0.5) / self.rows) for column, row in cells))


RELEASED_POINTS = (
    (0.93, 0.70), (0.51, 0.89), (0.91, 0.90), (0.32, 0.32), (0.88, 0.10),
    (0.12, 0.28), (0.29, 0.52), (0.49, 0.49), (0.28, 0.12), (0.59, 0.60),
    (0.09, 0.48), (0.52, 0.29), (0.31, 0.92), (0.68, 0.13), (0.73, 0.73),
)  # fmt: skip
"""The list in the released inference notebook, in units of the box."""


@dataclass(frozen=True)
class FixedList:
    """The same relative points in every box; by default the fifteen of the released notebook.

    Args:
        unit_points: Points (u, v) in units of the box, each from 0 to 1.
    """

    unit_points: tuple[tuple[float, float], ...] = RELEASED_POINTS

    def __call__(self, box: Box) -> tuple[Point, ...]:
        return _scale_to_box(box, self.unit_points)


@dataclass(frozen=True)
class PointsByBox:
    """Points that were chosen beforehand for each box, for example by looking at candidate masks.

    Args:
        places: Pairs of a box and its points, in pixels.
    """

    places: tuple[tuple[Box, tuple[Point, ...]], ...]

    def __call__(self, box: Box) -> tuple[Point, ...]:
        """Return the points of the box. Raises ValueError for a box that has none."""
        for known, points in self.places:
            if known == box:
                return points
        raise ValueError(f"no points were chosen for the box {tuple(box)}")


@dataclass(frozen=True)
class PoissonDisk:
    """The training recipe's sampler: a normally distributed number of random points that keep a distance.

    The recipe draws 100 points per box and keeps the first few in random order. Darts fall in random order already, so only
    those few are thrown here.

    Args:
        seed: Decides the points, together with the box.
        radius: Least distance of two points, in units of the box.
        mean: Mean number of points.
        deviation: Standard deviation of their number.
        least: Smallest number of points.
        most: Largest number of points.
    """

    seed: int = 0
    radius: float = 0.1
    mean: float = 10
    deviation: float = 4
    least: int = 1
    most: int = 20

    def __call__(self, box: Box) -> tuple[Point, ...]:
        rng = Random(f"{self.seed}-{tuple(map(float, box))}")
        count = max(self.least, min(self.most, round(rng.gauss(self.mean, self.deviation))))
        points: list[tuple[float, float]] = []
        for _ in range(100 * count):  # room for some 60 points: the recipe's numbers never use up the darts
            dart = (rng.random(), rng.random())
            if all(math.dist(dart, point) >= self.radius for point in points):
                points.append(dart)
            if len(points) == count:
                break
        return _scale_to_box(box, tuple(points))
