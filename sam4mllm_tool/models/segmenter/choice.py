"""Which of Segment Anything's candidates is the object: by its own score and by the answers to the points.

The score says how well a candidate follows some edge; the points say which thing was meant, a whole or its part, a ring or
its hole. Each answer with its probability is a vote on every candidate. NumPy alone.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from sam4mllm_tool.types import Mask, MaskCandidate, ObjectPrompt, PointPrompt, SegmentedObject

__all__ = ["ChooseBy", "agreement", "choose", "choose_object"]

ChooseBy: TypeAlias = Literal["score", "agreement", "both"]
"""`score` is the paper's: the highest predicted IoU. `both`, the product of score and agreement, is the default."""


def agreement(mask: Mask, points: Sequence[PointPrompt]) -> float | None:
    """How far the answers to the points speak for a mask, in [0, 1]; None without points.

    The mean over the points of the probability that the point's true answer is what the mask says there: the confidence
    where label and mask agree, 1 - confidence where they don't. A point of unknown confidence counts as certain.
    mask: (H, W) bool; a point belongs to the pixel that it lies in, one on or over the edge to the nearest.
    """
    if not points:
        return None
    height, width = mask.shape
    columns = np.clip([int(np.floor(point.x)) for point in points], 0, width - 1)
    rows = np.clip([int(np.floor(point.y)) for point in points], 0, height - 1)
    agrees = mask[rows, columns] == np.array([point.label == 1 for point in points])
    confidences = np.array([1.0 if point.confidence is None else point.confidence for point in points])
    return float(np.where(agrees, confidences, 1 - confidences).mean())


def choose(candidates: Sequence[MaskCandidate], prompt: ObjectPrompt, *, by: ChooseBy = "both") -> list[int]:
    """The candidates' indices, best first.

    by: `score`, the paper's; `agreement` with the points; `both`, their product. Without points, the score alone. Equals
    keep the order of their scores, then their own.
    Raises ValueError for another `by`.
    """
    if by not in ("score", "agreement", "both"):
        raise ValueError(f"expected to choose by 'score', 'agreement' or 'both', got {by!r}")
    return sorted(range(len(candidates)), key=lambda index: _merit(candidates[index], prompt, by), reverse=True)


def _merit(candidate: MaskCandidate, prompt: ObjectPrompt, by: ChooseBy) -> tuple[float, float]:
    agreed = None if by == "score" else agreement(candidate.mask, prompt.points)
    if agreed is None:
        return candidate.score, candidate.score
    return (agreed if by == "agreement" else agreed * candidate.score), candidate.score


def choose_object(candidates: Sequence[MaskCandidate], prompt: ObjectPrompt, *, by: ChooseBy = "both") -> SegmentedObject:
    """The object with its mask chosen, the other candidates as alternatives, best first.

    Its confidence is the agreement of the chosen mask with the points whose confidence is known; None where there is no
    such point.
    """
    best, *others = (candidates[index] for index in choose(candidates, prompt, by=by))
    answered = [point for point in prompt.points if point.confidence is not None]
    return SegmentedObject(best.mask, prompt, best.score, agreement(best.mask, answered), tuple(others))
