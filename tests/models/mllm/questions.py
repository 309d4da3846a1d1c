"""Checkpoints by family, and questions as the dialogue poses them, for the tests of the MLLM backends."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from recipes.embedded.architecture import build_mllm, build_processor
from sam4mllm_tool.models.mllm.model_runner import extend_by_last
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, TokenizedPrompt
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Turn
from tests.checkpoints import FAMILIES, save_mllama, save_paligemma

YES_NO = ("Yes", "No")
LOWER_YES_NO = ("yes", "no")


def save_embedded(folder: Path) -> Path:
    """Save the embedded MLLM's architecture with untrained weights."""
    torch.manual_seed(0)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    build_mllm().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


PACKED = ("llava", "llava_next", "idefics3", "embedded")
BUILDERS: dict[str, Callable[..., Path]] = {
    **FAMILIES,
    "embedded": save_embedded,
    "mllama": save_mllama,
    "paligemma": save_paligemma,
}


def answer_words(family: str) -> tuple[str, str]:
    """Return two answers that are one token each."""
    return LOWER_YES_NO if family == "embedded" else YES_NO


def make_question(text: str, answer: FreeText | Labels, *, system: str = "") -> Question:
    turns = (Turn("system", system), Turn("user", text)) if system else (Turn("user", text),)
    return Question(turns, answer)


def make_point_questions(words: tuple[str, ...], count: int = 25) -> list[Question]:
    """Return the questions of a second round: one per point, after a first round that all share."""
    first = (Turn("user", "where is the red ring ?"), Turn("assistant", "[ 012 , 034 ]"))
    return [Question((*first, Turn("user", f"is ( {i:03d} , {7 * i:03d} ) on it ?")), Labels(1, words)) for i in range(count)]


def assert_same(replies: Sequence[Reply], others: Sequence[Reply]) -> None:
    """Check that replies are equal but for rounding, which depends on what is read together."""
    for reply, other in zip(replies, others, strict=True):
        assert replace(reply, label_probabilities=None, log_probability=None) == replace(
            other, label_probabilities=None, log_probability=None
        )
        rows = [each.label_probabilities or ((each.log_probability or 0.0,),) for each in (reply, other)]
        torch.testing.assert_close(torch.tensor(rows[0]), torch.tensor(rows[1]), atol=1e-4, rtol=1e-5)


def count_prefills(mllm: TransformersMLLM, image: Image, questions: Sequence[Question]) -> int:
    """Return how often the language model reads the image's tokens while it answers."""
    model, passes = mllm._runner.model, 0
    placeholder = getattr(model.config, "image_token_id", None) or model.config.image_token_index

    def count(_: object, __: object, arguments: dict[str, torch.Tensor]) -> None:
        nonlocal passes
        passes += bool((arguments["input_ids"] == placeholder).any())

    mllm._images.clear()
    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    mllm.reply(image, questions)
    hook.remove()
    return passes


def score_by_full_passes(mllm: TransformersMLLM, image: Image, question: Question) -> list[list[float]]:
    """Score each label with a pass over the image, the prompt and all labels before it, and no cache."""
    runner, renderer, inputs = mllm._runner, mllm._renderer, ImageInputs(image)
    assert isinstance(question.answer, Labels)
    prompt = renderer.tokenize(inputs, question.turns)
    spellings = [renderer.spellings(word) for word in question.answer.words]
    rows, ids = [], prompt.ids
    for _ in range(question.answer.count):
        token_inputs = {name: extend_by_last(value, len(ids)) for name, value in prompt.token_inputs.items()}
        logits = runner.compute_alone(inputs, TokenizedPrompt(ids, token_inputs), ids)[-1]
        shares = torch.stack([logits[[tokens[0] for tokens in word]].logsumexp(0) for word in spellings]).softmax(0)
        rows.append(shares.tolist())
        ids = (*ids, *max(spellings[int(shares.argmax())], key=lambda spelling: float(logits[spelling[0]])))
    return rows
