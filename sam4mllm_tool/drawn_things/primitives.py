"""Geometric primitives as polygons: (n, 2) arrays of x and y, y down."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float64]
"""(n, 2) corners, filled by the even-odd rule."""

_STEP = 9.0  # degrees between the corners of an ellipse
_SAMPLES = 6  # corners per span of a smooth curve


def build_polygon(shape: str, numbers: Sequence[float]) -> Polygon:
    """Build the polygon of a primitive.

    Args:
        shape: A key of `PRIMITIVES`.
        numbers: What `PRIMITIVES` says, in the recipe's units; angles in degrees, clockwise from the right.

    Raises:
        ValueError: No such primitive, or too many or too few numbers.
    """
    if shape not in PRIMITIVES:
        raise ValueError(f"no primitive {shape!r}; there are {', '.join(PRIMITIVES)}")
    try:
        return PRIMITIVES[shape](*numbers)
    except TypeError as error:
        raise ValueError(f"{shape} can't be drawn from {len(numbers)} numbers: {' '.join(map(str, numbers))}") from error


def ellipse(x: float, y: float, rx: float, ry: float) -> Polygon:
    """Return an ellipse around (x, y)."""
    return _arc_points(x, y, rx, ry, 0, 360 - _STEP)


def rectangle(x1: float, y1: float, x2: float, y2: float, radius: float = 0) -> Polygon:
    """Return a rectangle with rounded corners."""
    if radius <= 0:
        return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)
    r = min(radius, (x2 - x1) / 2, (y2 - y1) / 2)
    corners = ((x2 - r, y2 - r, 0), (x1 + r, y2 - r, 90), (x1 + r, y1 + r, 180), (x2 - r, y1 + r, 270))
    return np.concatenate([_arc_points(x, y, r, r, start, start + 90, 18) for x, y, start in corners])


def polygon(*numbers: float) -> Polygon:
    """Return the polygon of x1 y1 x2 y2 ..."""
    return _pairs(numbers)


def blob(*numbers: float) -> Polygon:
    """Return a smooth closed curve through x1 y1 x2 y2 ..."""
    points = _pairs(numbers)
    return _smooth(np.concatenate([points[-1:], points, points[:2]]))


def line(width: float, *numbers: float) -> Polygon:
    """Return a stroke of a width along x1 y1 x2 y2 ..., with flat ends."""
    return _thicken(_pairs(numbers), width)


def cord(width: float, *numbers: float) -> Polygon:
    """Return a stroke of a width along a smooth curve through x1 y1 x2 y2 ..., with round ends."""
    points = _pairs(numbers)
    return _thicken(_smooth(np.concatenate([points[:1], points, points[-1:]])), width, rounded=True)


def arc(width: float, x: float, y: float, rx: float, ry: float, start: float, end: float) -> Polygon:
    """Return a stroke of a width along a part of an ellipse, with flat ends."""
    return _thicken(_arc_points(x, y, rx, ry, start, end), width)


def ring(x: float, y: float, rx: float, ry: float, width: float) -> Polygon:
    """Return an ellipse less a smaller one, `width` within it."""
    outer, inner = _arc_points(x, y, rx, ry, 0, 360), _arc_points(x, y, rx - width, ry - width, 360, 0)
    return np.concatenate([outer, inner])


def pie(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Polygon:
    """Return an ellipse's sector; of 180 degrees it is a half ellipse."""
    return np.concatenate([[(x, y)], _arc_points(x, y, rx, ry, start, end)])


PRIMITIVES: dict[str, Callable[..., Polygon]] = {
    "ell": ellipse,
    "rect": rectangle,
    "poly": polygon,
    "blob": blob,
    "line": line,
    "cord": cord,
    "arc": arc,
    "ring": ring,
    "pie": pie,
}
"""Name in a recipe -> the function that takes its numbers."""


def _pairs(numbers: Sequence[float]) -> Polygon:
    if len(numbers) % 2 or len(numbers) < 4:
        raise TypeError("x without y")
    return np.array(numbers, float).reshape(-1, 2)


def _arc_points(x: float, y: float, rx: float, ry: float, start: float, end: float, step: float = _STEP) -> Polygon:
    count = max(2, math.ceil(abs(end - start) / step) + 1)
    angles = np.radians(np.linspace(start, end, count))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], 1)


def _smooth(points: Polygon) -> Polygon:
    """Return a Catmull-Rom curve from the second to the last but one of the points."""
    t = np.linspace(0, 1, _SAMPLES, endpoint=False)[:, None]
    a, b, c, d = (points[i : len(points) - 3 + i, None] for i in range(4))
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([curve.reshape(-1, 2), points[-2:-1]])


def _thicken(path: Polygon, width: float, *, rounded: bool = False) -> Polygon:
    """Return the polygon around a path; corners sharper than a right angle are cut."""
    steps = np.diff(path, axis=0)
    normals = np.stack([-steps[:, 1], steps[:, 0]], 1) / np.maximum(np.linalg.norm(steps, axis=1), 1e-9)[:, None]
    joints = np.concatenate([normals[:1], normals[:-1] + normals[1:], normals[-1:]])
    joints[1:-1] /= np.maximum((joints[1:-1] ** 2).sum(1), 1)[:, None] / 2  # the miter
    offset = joints * width / 2
    left, right = path + offset, (path - offset)[::-1]
    if not rounded:
        return np.concatenate([left, right])
    first, last = (math.degrees(math.atan2(n[1], n[0])) for n in (normals[0], normals[-1]))
    half = width / 2
    end = _arc_points(path[-1][0], path[-1][1], half, half, last, last - 180, 30)
    start = _arc_points(path[0][0], path[0][1], half, half, first + 180, first, 30)
    return np.concatenate([left, end, right, start])
