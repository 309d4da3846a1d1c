"""Checkpoints by family, and questions as the dialogue poses them, for the tests of the MLLM backends."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from recipes.embedded.architecture import build_mllm, build_processor
from sam4mllm_tool.types import FreeText, Labels, Question, Turn
from tests.checkpoints import FAMILIES

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
BUILDERS: dict[str, Callable[..., Path]] = {**FAMILIES, "embedded": save_embedded}


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
