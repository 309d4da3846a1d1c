"""Families with three-dimensional positions or video processors answer a sequence of labels as full passes would."""

from typing import Any

import pytest
import torch

from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, TokenizedPrompt
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import Image, Labels
from tests.models.mllm.questions import YES_NO, make_question
from tests.video_checkpoints import VIDEO_FAMILIES, build_model, build_processor, needs_torchvision

pytestmark = needs_torchvision
COUNT = 6


def score_by_full_passes(mllm: TransformersMLLM, image: Image, prompt: str) -> list[list[float]]:
    """Score each label with a pass over the image, the prompt and all labels before it, and no cache."""
    runner, renderer = mllm._runner, mllm._renderer
    inputs = ImageInputs(image)
    tokenized = renderer.tokenize(inputs, make_question(prompt, Labels(COUNT, YES_NO)).turns)
    spellings = [renderer.spellings(word) for word in YES_NO]
    rows, ids = [], tokenized.ids
    for _ in range(COUNT):
        logits = runner.compute_logits(inputs, {ids: TokenizedPrompt(ids, _pad(tokenized.token_inputs, len(ids)))})[ids][-1]
        shares = torch.stack([logits[[s[0] for s in word]].logsumexp(0) for word in spellings]).softmax(0)
        rows.append(shares.tolist())
        ids = (*ids, *max(spellings[int(shares.argmax())], key=lambda spelling: float(logits[spelling[0]])))
    return rows


def _pad(token_inputs: dict[str, Any], length: int) -> dict[str, Any]:
    return {name: torch.nn.functional.pad(value, (0, length - value.shape[1])) for name, value in token_inputs.items()}


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_a_sequence_of_labels_over_the_cache_equals_full_passes(family: str, image: Image) -> None:
    processor = build_processor(family)
    mllm = TransformersMLLM(build_model(family, processor).eval().requires_grad_(False), processor, name=family)
    (reply,) = mllm.reply(image, [make_question("is it inside ?", Labels(COUNT, YES_NO))])
    expected = score_by_full_passes(mllm, image, "is it inside ?")
    assert reply.label_probabilities is not None
    assert torch.tensor(reply.label_probabilities) == pytest.approx(torch.tensor(expected), abs=1e-5)
