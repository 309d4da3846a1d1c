"""How the objects of a planned scene lie to each other, with doubtful cases marked as such."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.embedded.everyday.arrangement import PLAN_SIDE, Plan
from sam4mllm_tool.types import Mask

Relations: TypeAlias = dict[tuple[int, str, int], bool | None]

_HIDDEN, _TOUCHED = 0.08, 0.01  # shares of an object that another covers: it is behind it; it might be
_NEAR, _FAR = 0.07, 0.16  # gaps in units of the image's side: next to each other; not next to each other


def judge_relations(plan: Plan, boxes: npt.NDArray[np.float64]) -> Relations:
    """Judge every pair of objects.

    Args:
        plan: The scene.
        boxes: (n, 4) of the objects' visible pixels, x1, y1, x2, y2 in units of the image's side.

    Returns:
        (i, relation, j) -> True where object i is "on", "in", "behind" or "across" object j, or "next to" it; None where people
        could disagree. All others are not so.
    """
    relations: Relations = {}
    silhouettes = _draw_silhouettes(plan)
    order = {layer.number: position for position, layer in reversed(list(enumerate(plan.layers)))}
    placed = {frozenset((i, j)) for i, _, j in plan.relations}
    for i in range(len(plan.objects)):
        for j in range(len(plan.objects)):
            if i == j:
                continue
            overlap = int((silhouettes[i] & silhouettes[j]).sum())
            share = overlap / max(1, int(silhouettes[i].sum()))
            doubtful = frozenset((i, j)) in placed
            if doubtful or (share > _TOUCHED and order[i] < order[j]):
                relations[i, "behind", j] = None if doubtful or share < _HIDDEN else True
            if doubtful or overlap or _rests_on(boxes[i], boxes[j]) or _lies_within(boxes[i], boxes[j]):
                relations |= {(i, relation, j): None for relation in ("on", "in", "across", "next to")}
            elif (beside := _judge_beside(boxes[i], boxes[j])) is not False:
                relations[i, "next to", j] = beside
    for i, relation, j in plan.relations:
        relations[i, relation, j] = True
        if relation == "across":
            relations[j, relation, i] = True
    return relations


def _draw_silhouettes(plan: Plan) -> list[Mask]:
    silhouettes: list[tuple[int, Mask]] = []
    for layer, (window, parts, _) in zip(plan.layers, plan.stamps, strict=True):
        if not layer.front:
            mask = np.zeros((PLAN_SIDE, PLAN_SIDE), np.bool_)
            mask[window] = parts > 0
            silhouettes.append((layer.number, mask))
    return [mask for _, mask in sorted(silhouettes, key=lambda pair: pair[0])]


def _rests_on(upper: npt.NDArray[np.float64], lower: npt.NDArray[np.float64]) -> bool:
    """Return whether a box ends about where the other begins, above it."""
    overlap = min(upper[2], lower[2]) - max(upper[0], lower[0])
    return bool(overlap > 0 and abs(upper[3] - lower[1]) < 0.05)


def _lies_within(inner: npt.NDArray[np.float64], outer: npt.NDArray[np.float64]) -> bool:
    """Return whether a good part of a box lies in the other."""
    width, height = np.minimum(inner[2:], outer[2:]) - np.maximum(inner[:2], outer[:2])
    return bool(width > 0 and height > 0 and width * height > 0.25 * np.prod(inner[2:] - inner[:2]))


def _judge_beside(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> bool | None:
    across, down = (np.maximum(first[:2], second[:2]) - np.minimum(first[2:], second[2:])).tolist()
    heights = min(first[3] - first[1], second[3] - second[1])
    if -0.03 < across < _NEAR and -down > 0.5 * heights:
        return True
    return None if max(across, down) < _FAR else False
