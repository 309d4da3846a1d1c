"""Prompts for training Segment Anything: boxes, points and clicks for objects and parts, some of which fit two regions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.embedded.architecture import INPUT_SIDE
from recipes.embedded.point_placement import compute_depth
from recipes.embedded.scene_cache import SIDE, SceneCache
from sam4mllm_tool.embedded.everyday import EverydayScene
from sam4mllm_tool.types import Mask

PER_IMAGE = 5
"""Prompts per image: encoding an image takes as long as four of them."""
COUNTS = {"even": (0, 0, 1, 2, 3, 5, 8), "grid": (3, 6, 12, 18, 25), "far": (1, 3, 5, 9), "clicks": (1, 1, 1, 2, 3, 5, 8)}
"""Numbers of points per prompt that are drawn from, by placement."""
PLACEMENTS = ("even", "grid", "far", "clicks")
"""Placements that are drawn from: uniform in the box; on the grid of PQPP; far from edges; clicks, without a box."""
JITTER = (0.0, 0.0, 0.03, 0.06, 0.06, 0.12)
"""Standard deviations of the boxes' edges as a share of their sides, that are drawn from."""
ROUGH = (0.12, 0.25, 0.36)
"""Further ones where points say what is meant: rough boxes teach the model to trust points."""
_SAME_BOX = 0.7  # box IoU


@dataclass(frozen=True, eq=False)
class SamPrompts:
    """p prompts for each of n images, in pixels of the model's input.

    Attributes:
        boxes: (n, p, 4), None for clicks.
        points: (n, p, k, 2), None if k is 0.
        labels: (n, p, k), None if k is 0.
        masks: (n, p, side, side) in {0, 1}, the true masks.
        others: (n, p, side, side) in {0, 1}, masks that the prompts fit as well; equal to `masks` where there is none.
    """

    boxes: Tensor | None
    points: Tensor | None
    labels: Tensor | None
    masks: Tensor
    others: Tensor

    def to(self, device: torch.device) -> "SamPrompts":
        """Return the prompts on a device."""
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return SamPrompts(**{name: value if value is None else value.to(device) for name, value in values})


_NEAREST = ((np.arange(INPUT_SIDE) + 0.5) * SIDE / INPUT_SIDE).astype(int)


def sample_prompts(
    cache: SceneCache, index: Tensor, rng: np.random.Generator, count: int, placement: str, jitter: Sequence[float] = JITTER
) -> SamPrompts:
    """Draw prompts for random regions of the scenes, half of them where two regions have about the same box.

    Args:
        cache: The scenes.
        index: Which of them.
        rng: Source of randomness.
        count: Number of points, with true labels.
        placement: One of PLACEMENTS.
        jitter: What each box's jitter is drawn from.
    """
    drawn = [
        _draw_prompt(scene, rng, count, placement, jitter)
        for scene in map(cache.scene, index.tolist())
        for _ in range(PER_IMAGE)
    ]
    boxes, points, labels, masks, others = (
        torch.from_numpy(np.stack(arrays)).unflatten(0, (len(index), PER_IMAGE)) for arrays in zip(*drawn, strict=True)
    )
    scale, has_box = INPUT_SIDE / SIDE, placement != "clicks"
    return SamPrompts(
        (boxes * scale).float() if has_box else None,
        (points * scale).float() if count else None,
        labels if count else None,
        masks.float(),
        others.float(),
    )


_Prompt = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64], Mask, Mask]


def _draw_prompt(
    scene: EverydayScene, rng: np.random.Generator, count: int, placement: str, jitter: Sequence[float]
) -> _Prompt:
    region, twin = _draw_region(scene, rng)
    mask = scene.mask(region)
    x1, y1, x2, y2 = scene.regions[region].box
    sides = np.array([x2 - x1, y2 - y1])
    inside = mask[int(y1) : int(y2), int(x1) : int(x2)]
    points = place_points(inside, rng, count, placement) * sides + (x1, y1)
    labels = mask[points[:, 1].astype(int), points[:, 0].astype(int)].astype(np.int64)
    spread = float(rng.choice([*jitter, *(ROUGH if count >= 3 and max(jitter) else ())]))
    box = np.clip([x1, y1, x2, y2] + rng.normal(0, 1, 4) * np.tile(sides, 2) * spread, 0, SIDE)
    box = np.array([*np.minimum(box[:2], box[2:]), *np.maximum(box[:2], box[2:])])
    other = mask
    if placement == "clicks" and count == 1:
        other = _find_other(scene, region, points[0], mask)
    elif count == 0 and twin is not None:
        other = scene.mask(twin)
    return box, points, labels, mask[_NEAREST][:, _NEAREST], other[_NEAREST][:, _NEAREST]


def _draw_region(scene: EverydayScene, rng: np.random.Generator) -> tuple[int, int | None]:
    """Return a region, and another with about the same box if there is one."""
    boxes = np.array([region.box for region in scene.regions])
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    twins = shared / (areas[:, None] + areas - shared) >= _SAME_BOX
    np.fill_diagonal(twins, False)
    ambiguous = np.flatnonzero(twins.any(0))
    if len(ambiguous) and rng.random() < 0.5:
        region = int(rng.choice(ambiguous))
    elif rng.random() < 0.6 or not scene.object_parts:
        region = int(rng.integers(len(scene.objects)))
    else:
        region = int(rng.integers(len(scene.objects), len(boxes)))
    return region, int(rng.choice(np.flatnonzero(twins[region]))) if twins[region].any() else None


def _find_other(scene: EverydayScene, region: int, point: npt.NDArray[np.float64], mask: Mask) -> Mask:
    """Return what else a single click may mean: the part under it for an object, the object for a part."""
    if region >= len(scene.objects):
        part = scene.object_parts[region - len(scene.objects)]
        return mask if part.is_hole else scene.mask(part.owner)
    number = scene.parts[int(point[1]), int(point[0])]
    listed = any(part.number == number for part in scene.object_parts)
    return np.equal(scene.parts, number) if listed else mask


def place_points(inside: Mask, rng: np.random.Generator, count: int, placement: str) -> npt.NDArray[np.float64]:
    """Return (count, 2) points in the unit box; `inside` is (h, w), the region in its box."""
    if placement == "even":
        return rng.uniform(0, 1, (count, 2))
    if placement == "grid":
        chosen = rng.permutation(25)[:count]
        return (np.stack([chosen % 5, chosen // 5], -1) + 0.5) / 5
    if placement == "clicks":  # the first well inside the region, the others anywhere
        depth = compute_depth(inside)
        ys, xs = np.nonzero(depth >= rng.uniform(0.2, 1) * depth.max())
        pixel = rng.integers(len(xs))
        first = (np.array([xs[pixel], ys[pixel]]) + 0.5) / inside.shape[::-1]
        return np.concatenate([first[None], rng.uniform(0, 1, (count - 1, 2))])
    depth = np.where(inside, compute_depth(inside), compute_depth(~inside))
    ninths = rng.permutation(9)[:count]
    corners = np.stack([ninths % 3, ninths // 3], -1)
    candidates = (corners[:, None] + rng.uniform(0, 1, (count, 6, 2))) / 3
    rows, columns = (candidates[..., axis] * inside.shape[1 - axis] for axis in (1, 0))
    deepest = depth[rows.astype(int), columns.astype(int)].argmax(1)
    return candidates[np.arange(count), deepest]
