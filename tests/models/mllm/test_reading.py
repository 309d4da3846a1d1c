"""Each token about an image is read once, whatever is asked together or later."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.mllm import known_images
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.token_tree import shared_length
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Turn
from tests.models.mllm.questions import BUILDERS, answer_words, assert_same, make_point_questions, make_question

Load = Callable[[str], TransformersMLLM]
BRANCHING = pytest.mark.parametrize("family", sorted(BUILDERS.keys() - {"mllama", "paligemma"}))
IN_ONE_PIECE = pytest.mark.parametrize("family", sorted(BUILDERS.keys() - {"paligemma"}))


@contextmanager
def record_passes(mllm: TransformersMLLM) -> Iterator[list[torch.Tensor]]:
    """Record the ids of every pass of the language model."""
    passes: list[torch.Tensor] = []

    def record(_: object, __: object, arguments: dict[str, torch.Tensor]) -> None:
        passes.append(arguments["input_ids"][0])

    hook = mllm._runner.model.register_forward_pre_hook(record, with_kwargs=True)
    yield passes
    hook.remove()


def count_trie(mllm: TransformersMLLM, image: Image, questions: list[Question]) -> int:
    """Return how many different beginnings the prompts have: the least number of tokens to read."""
    inputs = ImageInputs(image)
    prompts = sorted(mllm._renderer.tokenize(inputs, question.turns).ids for question in questions)
    pairs = pairwise(prompts)
    return len(prompts[0]) + sum(len(after) - shared_length(before, after) for before, after in pairs)


def make_second_round(first: Question, reply: str, words: tuple[str, ...]) -> list[Question]:
    turns = (*first.turns, Turn("assistant", reply))
    return [Question((*turns, Turn("user", f"is ( {i} , {i} ) on it ?")), Labels(1, words)) for i in range(10)]


@BRANCHING
def test_no_token_is_read_twice_in_a_dialogue(mllm: Load, image: Image, family: str) -> None:
    model, first = mllm(family), make_question("where is the red ring ?", FreeText(6))
    model._images.clear()
    with record_passes(model) as passes:
        (reply,) = model.reply(image, [first])
        rounds = len(passes)
        second = make_second_round(first, reply.text, answer_words(family))
        model.reply(image, second)
    image_token = model._image_token
    assert [bool((ids == image_token).any()) for ids in passes] == [True] + [False] * (len(passes) - 1)
    written = 6  # a reply that doesn't read the same when it is written again is read again
    assert sum(map(len, passes)) <= 1.05 * count_trie(model, image, [first, *second]) + 2 * written
    assert len(passes) - rounds == 1, "all points take one pass"


@IN_ONE_PIECE
def test_later_expressions_go_on_from_the_image(mllm: Load, image: Image, family: str) -> None:
    model = mllm(family)
    model._images.clear()
    questions = [make_question(f"where is ring {i} ?", FreeText(4)) for i in range(3)]
    with record_passes(model) as passes:
        apart = [model.reply(image, [question])[0] for question in questions]
        again = model.reply(image, questions)
    assert sum(bool((ids == model._image_token).any()) for ids in passes) == 1
    assert_same(again, apart)


@BRANCHING
def test_questions_about_several_images_go_on_in_lock_step(mllm: Load, image: Image, family: str) -> None:
    model = mllm(family)
    images = [image, image.rotate(90, expand=True), image.crop((0, 0, 40, 40))]
    questions = [make_question("where is the red ring ?", FreeText(5)), *make_point_questions(answer_words(family), 3)]
    expected = []
    for each in images:
        model._images.clear()
        expected.append(model.reply(each, questions))
    model._images.clear()
    with record_passes(model) as passes:
        together = model.reply_batch([(each, questions) for each in images])
    for replies, alone in zip(together, expected, strict=True):
        assert_same(replies, alone)
    assert len(passes) <= 3 + 1 + 5, "a pass for each image, and then one for all at a time"


@BRANCHING
def test_guessing_the_labels_of_a_joint_question_changes_none(mllm: Load, image: Image, family: str) -> None:
    model, question = mllm(family), make_question("which are on it ?", Labels(12, answer_words(family)))
    model._images.clear()
    with record_passes(model) as passes:
        guessed = model.reply(image, [question])
    assert len(passes) <= 12
    model._images.clear()
    model._reader.can_guess = False
    try:
        assert_same(model.reply(image, [question]), guessed)
    finally:
        del model._reader.can_guess


def test_replies_like_earlier_ones_take_fewer_passes(mllm: Load, image: Image) -> None:
    model, question = mllm("llava"), make_question("where is the red ring ?", FreeText(8))
    with record_passes(model) as passes:
        model._images.clear()
        first = model.reply(image, [question])
        count = len(passes)
        model._images.clear()
        assert_same(model.reply(image, [question]), first)
    assert len(passes) - count < count


@pytest.mark.parametrize("family", ["llava", "mllama"])
def test_what_was_read_is_bounded(mllm: Load, image: Image, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    model = mllm(family)
    model._images.clear()
    question = make_question("where ?", FreeText(6))
    before = model.reply(image, [question])
    known = model._images.take(image)
    whole = known.bytes
    assert whole > 0
    monkeypatch.setattr(known_images, "CACHED_BYTES", 0)
    model.reply(image, [make_question("which ?", FreeText(6))])
    assert 0 < known.bytes <= whole, "all but the image is forgotten"
    assert_same(model.reply(image, [question]), before)
    for shade in range(9):
        model.reply(image.point(lambda value, shade=shade: value // (shade + 2)), [question])
    assert len(model._images) == known_images._KEPT_IMAGES


def test_nothing_is_kept_of_a_call_that_failed(mllm: Load, image: Image) -> None:
    model, question = mllm("llava"), make_question("where ?", FreeText(4))
    expected = model.reply(image, [question])

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    hook = model._runner.model.register_forward_hook(fail)
    with pytest.raises(BackendError, match="out of order"):
        model.reply(image, [make_question("another ?", FreeText(4))])
    hook.remove()
    assert not model._images
    assert_same(model.reply(image, [question]), expected)
