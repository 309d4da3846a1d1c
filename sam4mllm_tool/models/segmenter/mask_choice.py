"""Choose among Segment Anything's candidate masks by its own score and by the answers to the points.

The score says how well a candidate follows some edge; the points say which object is meant: a whole or a part of it, a mug or
its hole. Each answered point votes on each candidate, weighted by the answer's confidence. NumPy only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from sam4mllm_tool.geometry.boxes import mask_to_box
from sam4mllm_tool.types import Mask, MaskCandidate, ObjectPrompt, PointPrompt, SegmentedObject

__all__ = ["ChooseBy", "agreement", "balanced_agreement", "choose_object", "prompt_score", "rank_candidates"]

ChooseBy: TypeAlias = Literal["score", "agreement", "both"]
"""`score` is the paper's: the highest predicted IoU. `both`, the product of score and agreement, is the default."""
MIN_POSITIVES = 2
"""Points on an object below which its agreement is unknown."""


def agreement(mask: Mask, points: Sequence[PointPrompt]) -> float | None:
    """Return how well a mask agrees with answered points, in [0, 1]; None without points.

    This is the mean probability that the mask is right at a point: the confidence where mask and label agree, 1 - confidence
    where they don't. A point without a confidence counts as certain.

    Args:
        mask: (H, W) bool.
        points: In pixels of the mask. A point belongs to the pixel that contains it; a point on or over the edge, to the
            nearest pixel.
    """
    if not points:
        return None
    height, width = mask.shape
    columns = np.clip([int(np.floor(point.x)) for point in points], 0, width - 1)
    rows = np.clip([int(np.floor(point.y)) for point in points], 0, height - 1)
    agrees = mask[rows, columns] == np.array([point.label == 1 for point in points])
    confidences = np.array([1.0 if point.confidence is None else point.confidence for point in points])
    return float(np.where(agrees, confidences, 1 - confidences).mean())


def balanced_agreement(mask: Mask, points: Sequence[PointPrompt]) -> float | None:
    """Return the mean of the `agreement` with the points on the object and of that with the points off it, in [0, 1].

    Balanced, as the many points off a small object would else hide that those on it are missed. Without a point off it, the
    agreement with those on it.

    Args:
        mask: (H, W) bool.
        points: Answered points, in pixels of the mask. Those without a confidence, such as clicks, don't count.

    Returns:
        None with fewer than two points on the object: points off it are off most other things too.
    """
    answered = [point for point in points if point.confidence is not None]
    positives, negatives = ([point for point in answered if point.label == label] for label in (1, 0))
    if len(positives) < MIN_POSITIVES:
        return None
    shares = [share for group in (positives, negatives) if (share := agreement(mask, group)) is not None]
    return sum(shares) / len(shares)


def prompt_score(mask: Mask, score: float, points: Sequence[PointPrompt]) -> float:
    """Return a mask's SAM score times its agreement with the answered points, in [0, 1]; without points, the SAM score.

    Args:
        mask: (H, W) bool.
        score: SAM's predicted IoU in [0, 1].
        points: In pixels of the mask.
    """
    agreed = agreement(mask, points)
    return score if agreed is None else score * agreed


def rank_candidates(candidates: Sequence[MaskCandidate], prompt: ObjectPrompt, *, by: ChooseBy = "both") -> list[int]:
    """Return the candidates' indices, best first. Ties are broken by score, then by order.

    Args:
        candidates: Masks with their scores.
        prompt: Its points count, its box doesn't. Without points, the score alone decides.
        by: `score`, the paper's rule; `agreement` with the points; `both`, their product.

    Raises:
        ValueError: `by` is none of these.
    """
    if by not in ("score", "agreement", "both"):
        raise ValueError(f"expected to choose by 'score', 'agreement' or 'both', got {by!r}")

    def criterion(index: int) -> tuple[float, float]:
        mask, score = candidates[index].mask, candidates[index].score
        if by == "score" or not prompt.points:
            return score, score
        return (agreement(mask, prompt.points) or 0.0) if by == "agreement" else prompt_score(mask, score, prompt.points), score

    return sorted(range(len(candidates)), key=criterion, reverse=True)


def choose_object(candidates: Sequence[MaskCandidate], prompt: ObjectPrompt, *, by: ChooseBy = "both") -> SegmentedObject:
    """Return the object with the best candidate as its mask and the others as alternatives, best first.

    Its agreement is that of the mask with the points. The box of a prompt of points alone becomes that of the mask.
    """
    best, *others = (candidates[index] for index in rank_candidates(candidates, prompt, by=by))
    if prompt.points_only and best.mask.any():
        prompt = replace(prompt, box=mask_to_box(best.mask))
    agreed = balanced_agreement(best.mask, prompt.points)
    return SegmentedObject(best.mask, prompt, best.score, alternatives=tuple(others), agreement=agreed)
