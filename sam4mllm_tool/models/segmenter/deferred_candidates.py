"""Candidate masks that are upsampled to the image's size when somebody looks at them: most of the time nobody does."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.models.segmenter.mask_choice import ChooseBy, agreement, rank_candidates
from sam4mllm_tool.types import Mask, MaskCandidate, ObjectPrompt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CandidateSet", "DeferredCandidate"]


class CandidateSet:
    """The candidates for one prompt, of which the best is chosen with as few masks as will do.

    A candidate can't be better than its score says, or than 1 where the points alone decide. So candidates are looked at in
    this order, until the next one can't be better than the best so far.

    Args:
        logits: (candidates, h, w) on the decoder's grid, on the CPU.
        scores: SAM's predicted IoUs in [0, 1].
        prompt: In pixels of the image.
        by: How to choose, as in `rank_candidates`.
        upsample: Turns (n, h, w) logits into n masks on the image.
    """

    def __init__(
        self,
        logits: "Tensor",
        scores: Sequence[float],
        prompt: ObjectPrompt,
        by: ChooseBy,
        upsample: "Callable[[Tensor], Iterator[Mask]]",
    ) -> None:
        self.logits, self.scores = logits, scores
        self._prompt, self._by, self._upsample = prompt, by, upsample
        self._by_score = by == "score" or not prompt.points
        self._masks: dict[int, Mask] = {}
        self._order = sorted(range(len(scores)), key=lambda index: -self._bound(index))

    def _bound(self, index: int) -> float:
        return 1.0 if self._by == "agreement" and not self._by_score else self.scores[index]

    def _value(self, index: int) -> tuple[float, float, int]:
        """What is compared: as in `rank_candidates`, whose ties go to the first."""
        score = self.scores[index]
        if self._by_score:
            return score, score, -index
        agreed = agreement(self._masks[index], self._prompt.points) or 0.0
        return (agreed if self._by == "agreement" else score * agreed), score, -index

    def next_needed(self) -> int | None:
        """Return the candidate whose mask is needed next in order to choose; None if the best one's is there."""
        for index in self._order:
            if index in self._masks:
                continue
            if self._masks and (self._by_score or self._bound(index) < max(map(self._value, self._masks))[0]):
                return None
            return index
        return None

    def add_mask(self, index: int, mask: Mask) -> None:
        self._masks[index] = mask

    def best(self) -> MaskCandidate:
        """Return the best candidate, once no mask is needed."""
        index = max(self._masks, key=self._value)
        return MaskCandidate(self._masks[index], self.scores[index])

    def others(self) -> tuple[MaskCandidate, ...]:
        """Return the other candidates, best first."""
        return tuple(DeferredCandidate(self, place) for place in range(1, len(self.scores)))

    def candidate(self, place: int) -> MaskCandidate:
        """Return the candidate of a place in the ranking, 0 the best; all masks are made for that."""
        missing = [index for index in range(len(self.scores)) if index not in self._masks]
        if missing:
            self._masks |= dict(zip(missing, self._upsample(self.logits[missing]), strict=True))
        candidates = [MaskCandidate(self._masks[index], score) for index, score in enumerate(self.scores)]
        return candidates[rank_candidates(candidates, self._prompt, by=self._by)[place]]


class DeferredCandidate(MaskCandidate):
    """A candidate that is not the best; its place among the others, too, depends on their masks."""

    def __init__(self, candidates: CandidateSet, place: int) -> None:
        object.__setattr__(self, "_source", (candidates, place))

    def _load(self) -> MaskCandidate:
        candidates, place = vars(self)["_source"]
        loaded: MaskCandidate = candidates.candidate(place)
        vars(self).update(mask=loaded.mask, score=loaded.score)
        return loaded

    def __getattr__(self, name: str) -> Any:
        if name not in ("mask", "score"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __reduce__(self) -> tuple[type[MaskCandidate], tuple[Mask, float]]:
        return MaskCandidate, (self.mask, self.score)
