"""Families with three-dimensional positions or video processors answer a sequence of labels as full passes would."""

import pytest
import torch

from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import Image, Labels
from tests.models.mllm.questions import YES_NO, make_question, score_by_full_passes
from tests.video_checkpoints import VIDEO_FAMILIES, build_model, build_processor, needs_torchvision

pytestmark = needs_torchvision


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_sequence_of_labels_over_the_cache_equals_full_passes(family: str, image: Image) -> None:
    processor = build_processor(family)
    mllm = TransformersMLLM(build_model(family, processor).eval().requires_grad_(False), processor, name=family)
    question = make_question("is it inside ?", Labels(6, YES_NO))
    (reply,) = mllm.reply(image, [question])
    expected = score_by_full_passes(mllm, image, question)
    assert reply.label_probabilities is not None
    assert torch.tensor(reply.label_probabilities) == pytest.approx(torch.tensor(expected), abs=1e-5)
