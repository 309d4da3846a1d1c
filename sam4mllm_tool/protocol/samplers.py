"""Where to ask: samplers that place the points of the second round inside a box.

A sampler is a frozen value called with a box; the same sampler and box give the same points, so that a dialogue can be
rebuilt from its replies alone. All give pixels, inside the box.
"""

import math
from dataclasses import dataclass
from random import Random
from typing import Protocol

from sam4mllm_tool.types import Box, Point


class Sampler(Protocol):
    """Anything that places points in a box."""

    def __call__(self, box: Box) -> tuple[Point, ...]:
        """Points in pixels, inside the box, in the order in which they will be asked."""


def _place(box: Box, unit: tuple[tuple[float, float], ...]) -> tuple[Point, ...]:
    """Points of the unit square, moved into the box."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    return tuple(Point(box.x1 + u * width, box.y1 + v * height) for u, v in unit)


@dataclass(frozen=True)
class Grid:
    """The paper's: the centres of columns x rows equal cells, row by row."""

    columns: int = 5
    rows: int = 5

    def __post_init__(self) -> None:
        if self.columns < 1 or self.rows < 1:
            raise ValueError(f"a grid has at least one column and one row, not {self.columns} x {self.rows}")

    def __call__(self, box: Box) -> tuple[Point, ...]:
        cells = ((c, r) for r in range(self.rows) for c in range(self.columns))
        return _place(box, tuple(((c + 0.5) / self.columns, (r + 0.5) / self.rows) for c, r in cells))


RELEASED_POINTS = (
    (0.93, 0.70), (0.51, 0.89), (0.91, 0.90), (0.32, 0.32), (0.88, 0.10),
    (0.12, 0.28), (0.29, 0.52), (0.49, 0.49), (0.28, 0.12), (0.59, 0.60),
    (0.09, 0.48), (0.52, 0.29), (0.31, 0.92), (0.68, 0.13), (0.73, 0.73),
)  # fmt: skip
"""The list in the released inference notebook, in the unit box."""


@dataclass(frozen=True)
class FixedList:
    """The same places in every box; by default the released notebook's fifteen."""

    unit_points: tuple[tuple[float, float], ...] = RELEASED_POINTS

    def __call__(self, box: Box) -> tuple[Point, ...]:
        return _place(box, self.unit_points)


@dataclass(frozen=True)
class Placed:
    """Points chosen beforehand for each box, by whoever has seen more than the box."""

    places: tuple[tuple[Box, tuple[Point, ...]], ...]

    def __call__(self, box: Box) -> tuple[Point, ...]:
        """Raises ValueError for a box that none were chosen for."""
        for known, points in self.places:
            if known == box:
                return points
        raise ValueError(f"no points were chosen for the box {tuple(box)}")


@dataclass(frozen=True)
class PoissonDisk:
    """The training recipe's: N(mean, deviation) random points, clipped to least..most, at least `radius` apart.

    radius is in units of the box. `seed` and the box decide the points. The recipe draws 100 a box and keeps the first few
    of them in random order; darts fall in random order already, so that only those few are thrown here.
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
        for _dart in range(100 * count):  # room for some 60 points: the bound is never met with the recipe's figures
            point = (rng.random(), rng.random())
            if all(math.dist(point, other) >= self.radius for other in points):
                points.append(point)
            if len(points) == count:
                break
        return _place(box, tuple(points))
