"""Where points are placed in a true mask, for training."""

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.types import Box, Label, Mask, PointPrompt


def select_informative_points(mask: Mask, box: Box) -> tuple[PointPrompt, ...]:
    """Select two points deep inside the object and far from each other, and one deep in the rest of the box."""
    x1, y1, x2, y2 = map(int, box)
    inside = mask[y1:y2, x1:x2]
    if inside.all():  # nothing else in the box: look just outside it
        y1, y2, x1, x2 = max(0, y1 - 2), y2 + 2, max(0, x1 - 2), x2 + 2
        inside = mask[y1:y2, x1:x2]
    on, off = compute_depth(inside), compute_depth(~inside)
    first = np.unravel_index(on.argmax(), on.shape)
    ys, xs = np.nonzero(on >= 0.6 * on.max())
    far = ((ys - first[0]) ** 2 + (xs - first[1]) ** 2).argmax()
    last = np.unravel_index(off.argmax(), off.shape)
    points: list[tuple[int, int, Label]] = [
        (int(first[1]), int(first[0]), 1),
        (int(xs[far]), int(ys[far]), 1),
        (int(last[1]), int(last[0]), 0),
    ]
    return tuple(PointPrompt(x1 + x + 0.5, y1 + y + 0.5, label) for x, y, label in points)


def compute_depth(mask: Mask) -> npt.NDArray[np.int64]:
    """Count the erosions that each pixel of the mask survives; pixels outside the array count as the mask's own."""
    remaining, depth = mask.copy(), mask.astype(np.int64)
    while remaining.any():
        padded = np.pad(remaining, 1, mode="edge")
        remaining = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & remaining
        if remaining.all():
            break
        depth += remaining
    return depth
