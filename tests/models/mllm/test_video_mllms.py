"""Families with three-dimensional positions or processors that need torchvision answer labels as full passes would."""

from functools import cache

import pytest
import torch

from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import Image, Labels
from tests.models.mllm.questions import YES_NO, count_prefills, make_point_questions, make_question, score_by_full_passes
from tests.video_checkpoints import MORE_FAMILIES, VIDEO_FAMILIES, build_model, build_processor, needs_torchvision

pytestmark = [needs_torchvision, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]  # GLM's
EVERY_FAMILY = pytest.mark.parametrize("family", [*VIDEO_FAMILIES, *MORE_FAMILIES])


@cache
def load(family: str) -> TransformersMLLM:
    processor = build_processor(family)
    return TransformersMLLM(build_model(family, processor).eval().requires_grad_(False), processor, name=family)


@EVERY_FAMILY
def test_a_sequence_of_labels_over_the_cache_equals_full_passes(family: str, image: Image) -> None:
    mllm, question = load(family), make_question("is it inside ?", Labels(6, YES_NO))
    (reply,) = mllm.reply(image, [question])
    assert reply.label_probabilities is not None
    expected = score_by_full_passes(mllm, image, question)
    assert torch.tensor(reply.label_probabilities) == pytest.approx(torch.tensor(expected), abs=1e-5)


@EVERY_FAMILY
def test_labels_of_single_points_equal_full_passes(family: str, image: Image) -> None:
    mllm, questions = load(family), make_point_questions(YES_NO, 5)
    for reply, question in zip(mllm.reply(image, questions), questions, strict=True):
        assert reply.label_probabilities is not None
        assert reply.label_probabilities[0] == pytest.approx(score_by_full_passes(mllm, image, question)[0], abs=1e-5)


@EVERY_FAMILY
def test_the_image_is_prefilled_once_for_all_points(family: str, image: Image) -> None:
    assert count_prefills(load(family), image, make_point_questions(YES_NO)) == 1
    assert count_prefills(load(family), image, [make_question("is it inside ?", Labels(25, YES_NO))]) == 1
