"""The best candidate is chosen with few masks, and is the one that all masks would have given."""

import gc
import pickle
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sam4mllm_tool.models.segmenter import ChooseBy, load_segmenter
from sam4mllm_tool.models.segmenter.deferred_candidates import CandidateSet, DeferredCandidate
from sam4mllm_tool.models.segmenter.mask_choice import choose_object
from sam4mllm_tool.types import Box, Mask, MaskCandidate, ObjectPrompt, PointPrompt
from tests.models.segmenter.reference import make_image
from tests.sam_checkpoints import save_sam

BOX = Box(0, 0, 6, 4)


def draw_case(rng: np.random.Generator) -> tuple[list[MaskCandidate], ObjectPrompt]:
    """Three small masks whose scores and agreements are often equal, and a prompt of up to four points."""
    candidates = [MaskCandidate(rng.random((4, 6)) > 0.4, float(rng.choice([0.5, 0.9, 0.95, 1.0]))) for _ in range(3)]
    points = tuple(
        PointPrompt(
            float(rng.integers(6)), float(rng.integers(4)), 1 if rng.random() < 0.6 else 0, rng.choice([None, 0.7, 1.0])
        )
        for _ in range(rng.integers(5))
    )
    return candidates, ObjectPrompt(BOX, points)


def defer(candidates: list[MaskCandidate], prompt: ObjectPrompt, by: ChooseBy) -> tuple[CandidateSet, list[int]]:
    """Return the candidates to be upsampled later, and a list that grows by the index of each one that is."""
    upsampled: list[int] = []

    def upsample(logits: Any) -> Iterator[Mask]:
        for index in logits[:, 0, 0].int().tolist():
            upsampled.append(index)
            yield candidates[index].mask

    logits = torch.arange(3.0)[:, None, None]
    deferred = CandidateSet(logits, [candidate.score for candidate in candidates], prompt, by, upsample)
    while (index := deferred.next_needed()) is not None:
        deferred.add_mask(index, next(upsample(logits[[index]])))
    return deferred, upsampled


@pytest.mark.parametrize("by", ["score", "agreement", "both"])
def test_the_choice_and_the_order_are_those_of_all_masks(by: ChooseBy) -> None:
    rng, saved = np.random.default_rng(0), 0
    for _ in range(300):
        candidates, prompt = draw_case(rng)
        expected = choose_object(candidates, prompt, by=by)
        deferred, upsampled = defer(candidates, prompt, by)
        assert deferred.best().mask is expected.mask
        assert deferred.best().score == expected.score
        saved += 3 - len(upsampled)
        if by == "score" or not prompt.points:
            assert len(upsampled) == 1
        for other, alternative in zip(deferred.others(), expected.alternatives, strict=True):
            assert other.mask is alternative.mask
            assert other.score == alternative.score
    assert saved > 100


def test_alternatives_are_upsampled_when_they_are_looked_at_and_pickled_as_masks() -> None:
    candidates, _ = draw_case(np.random.default_rng(1))
    deferred, upsampled = defer(candidates, ObjectPrompt(BOX), "both")
    others = deferred.others()
    assert len(upsampled) == 1
    copied = pickle.loads(pickle.dumps(others))
    assert sorted(upsampled) == [0, 1, 2]
    assert [type(each) for each in copied] == [MaskCandidate, MaskCandidate]
    assert all(np.array_equal(each.mask, other.mask) for each, other in zip(copied, others, strict=True))


@pytest.mark.slow
def test_a_result_does_not_keep_the_model_in_memory(tmp_path: Path) -> None:
    segmenter: Any = load_segmenter(str(save_sam(tmp_path)))
    (segmented,) = segmenter.segment(make_image(80, 50), [ObjectPrompt(Box(10, 10, 50, 45))])
    model = weakref.ref(segmenter._model)
    assert isinstance(segmented.alternatives[0], DeferredCandidate)
    del segmenter
    gc.collect()
    assert model() is None
    assert segmented.alternatives[0].mask.shape == (50, 80)
