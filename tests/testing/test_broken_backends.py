"""Each check of the conformance suites fails for a backend with the fault that it looks for, and says what is wrong."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import ImageDraw

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.testing import MLLMConformance, SegmenterConformance, run_checks
from sam4mllm_tool.testing.running import list_checks
from sam4mllm_tool.types import MLLM, Box, Image, Labels, ObjectPrompt, Question, Reply, SegmentedObject, Segmenter, Size

Answer = Callable[[Question], Reply]
Modify = Callable[[Reply, Question], Reply]


# MLLMs ----------------------------------------------------------------------------------------------------------------


class Nameless(ScriptedMLLM):
    @property
    def name(self) -> str:
        return ""


class Modifying(ScriptedMLLM):
    """Changes every reply."""

    def __init__(self, answer: Answer, modify: Modify) -> None:
        super().__init__(lambda question: modify(answer(question), question))


class Reversing(ScriptedMLLM):
    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return super().reply(image, questions)[::-1]


class OtherwiseAsync(ScriptedMLLM):
    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return [replace(reply, text=f"{reply.text} ") for reply in self.reply(image, questions)]


class Batching(ScriptedMLLM):
    """Answers about several images in one call."""

    def reply_batch(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[list[Reply]]:
        return [self.reply(image, questions) for image, questions in batch]


class OtherwiseInABatch(Batching):
    def reply_batch(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[list[Reply]]:
        first, *rest = super().reply_batch(batch)
        return [first, *([replace(reply, text=f"{reply.text} ") for reply in replies] for replies in rest)]


class Uncancellable(ScriptedMLLM):
    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)
        return self.reply(image, questions)


class ForgettingItsLock(ScriptedMLLM):
    """Is locked for ever after a cancelled call."""

    is_locked = False

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        if self.is_locked:
            raise BackendError("another call is running")
        self.is_locked = True
        await asyncio.sleep(0.01)
        self.is_locked = False
        return self.reply(image, questions)


class SharingItsState(ScriptedMLLM):
    """Looks at the image of whichever thread came last."""

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        self.image = image
        time.sleep(0.02)
        return [replace(reply, text=f"{reply.text} {self.image.size}") for reply in super().reply(image, questions)]


class RgbOnly(ScriptedMLLM):
    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        if image.mode != "RGB":
            raise BackendError("expected an RGB image")
        return super().reply(image, questions)


class Blending(ScriptedMLLM):
    """Says how light the image is, without regard to its transparency."""

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        lightness = np.asarray(image.convert("RGBA").convert("RGB")).mean()
        return [replace(reply, text=f"{reply.text} {lightness:.0f}") for reply in super().reply(image, questions)]


class NeedingQuestions(ScriptedMLLM):
    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return super().reply(image, questions) or [Reply("?")]


class DrawingOnTheImage(ScriptedMLLM):
    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        ImageDraw.Draw(image).line((0, 0, 9, 9), fill="red")
        return super().reply(image, questions)


def move_boxes(reply: Reply, _: Question) -> Reply:
    return replace(reply, text=re.sub(r"\d+", lambda match: f"{min(999, int(match[0]) + 5)}", reply.text))


def name_a_box_always(reply: Reply, _: Question) -> Reply:
    return replace(reply, text="[10,10,90,90]") if reply.text == "none" else reply


def keep_one_box(reply: Reply, _: Question) -> Reply:
    return replace(reply, text=reply.text.partition("] ")[0] + "]") if "] " in reply.text else reply


def tidy_up(reply: Reply, _: Question) -> Reply:
    return replace(reply, text="none") if reply.text.startswith("Somewhere") else reply


def exchange_labels(reply: Reply, question: Question) -> Reply:
    if reply.label_probabilities is None:
        return reply
    assert isinstance(question.answer, Labels)
    words = question.answer.words
    return Reply(words[1 - words.index(reply.text)], tuple(row[::-1] for row in reply.label_probabilities))


def inflate_probabilities(reply: Reply, _: Question) -> Reply:
    rows = reply.label_probabilities
    return replace(reply, label_probabilities=tuple(tuple(p * 1.2 for p in row) for row in rows)) if rows else reply


BROKEN_MLLMS: dict[str, tuple[Callable[[Answer], MLLM], str]] = {
    "test_backend_has_a_name": (Nameless, "got an empty one"),
    "test_known_box_comes_back": (lambda answer: Modifying(answer, move_boxes), "expected a box near"),
    "test_absent_object_gets_no_box": (lambda answer: Modifying(answer, name_a_box_always), "expected 0 boxes"),
    "test_several_boxes_come_back": (lambda answer: Modifying(answer, keep_one_box), "expected 2 boxes"),
    "test_malformed_reply_becomes_a_reply_error": (lambda answer: Modifying(answer, tidy_up), "'none' is read as ()"),
    "test_backend_works_in_the_pipeline": (lambda answer: Modifying(answer, move_boxes), "expected a box near"),
    "test_points_get_their_labels": (lambda answer: Modifying(answer, exchange_labels), "expected Yes to"),
    "test_probabilities_sum_to_one": (lambda answer: Modifying(answer, inflate_probabilities), "sum to 1"),
    "test_no_questions_get_no_replies": (NeedingQuestions, "expected no replies"),
    "test_replies_come_in_the_order_of_the_questions": (Reversing, "scripted gave reply 1"),
    "test_async_replies_are_the_same": (OtherwiseAsync, "by reply and areply"),
    "test_batch_gives_each_image_its_own_replies": (OtherwiseInABatch, "alone and in a batch"),
    "test_cancelled_call_leaves_the_backend_usable": (Uncancellable, "a cancelled call went on"),
    "test_threads_get_their_own_replies": (SharingItsState, "in one thread and in several"),
    "test_every_image_mode_is_read_as_its_rgb": (RgbOnly, "an image of mode '1' fails: BackendError"),
    "test_image_is_left_as_it_was": (DrawingOnTheImage, "the backend changed the image"),
}


def check_mllm(make: Callable[[Answer], MLLM], check: str) -> None:
    class Suite(MLLMConformance):
        def make_backend(self) -> MLLM:
            return make(self.oracle.answer)

    getattr(Suite(), check)()


@pytest.mark.parametrize("check", list_checks(MLLMConformance))
def test_every_check_of_mllms_passes_a_sound_one_and_fails_a_broken_one(check: str) -> None:
    make, message = BROKEN_MLLMS[check]
    check_mllm(Batching, check)
    with pytest.raises((AssertionError, BackendError), match=re.escape(message)):
        check_mllm(make, check)


def test_an_mllm_that_drops_transparency_fails() -> None:
    with pytest.raises(AssertionError, match="an image of mode 'LA' and to its RGB"):
        check_mllm(Blending, "test_every_image_mode_is_read_as_its_rgb")


def test_an_mllm_that_stays_locked_after_a_cancelled_call_fails() -> None:
    with pytest.raises(BackendError, match="another call is running"):
        check_mllm(ForgettingItsLock, "test_cancelled_call_leaves_the_backend_usable")


# Segmenters -----------------------------------------------------------------------------------------------------------

Objects = list[SegmentedObject]


class Changing(BoxSegmenter):
    """Changes every result, by the number of the call."""

    def __init__(self, change: Callable[[Objects, int], Objects]) -> None:
        super().__init__()
        self._change = change

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        return self._change(super().segment(image, prompts), len(self.calls))


class NamelessSegmenter(BoxSegmenter):
    @property
    def name(self) -> str:
        return ""


class OtherwiseAsyncSegmenter(BoxSegmenter):
    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        return shrink_masks(self.segment(image, prompts), 0)


class UncancellableSegmenter(BoxSegmenter):
    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.1)
        return self.segment(image, prompts)


class SharingSegmenter(BoxSegmenter):
    """Segments the image of whichever thread came last."""

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        self.image = image
        time.sleep(0.01)
        return super().segment(self.image, prompts)


class RgbSegmenter(BoxSegmenter):
    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        if image.mode != "RGB":
            raise BackendError("expected an RGB image")
        return super().segment(image, prompts)


class StrictSegmenter(BoxSegmenter):
    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        if any(prompt.box != prompt.box.clip(Size(*image.size)) for prompt in prompts):
            raise ValueError("expected a box on the image")
        return super().segment(image, prompts)


class DrawingSegmenter(BoxSegmenter):
    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> Objects:
        ImageDraw.Draw(image).line((0, 0, 9, 9), fill="red")
        return super().segment(image, prompts)


def shrink_masks(objects: Objects, count: int) -> Objects:
    """Remove a growing part of each mask."""
    rows = np.arange(objects[0].mask.shape[0])[:, None] if objects else np.zeros((1, 1))
    return [replace(each, mask=each.mask & (rows % 3 != count % 3)) for each in objects]


def as_bytes(objects: Objects, _: int) -> Objects:
    changed: list[Any] = [replace(each, mask=each.mask.astype(np.uint8)) for each in objects]
    return changed


BROKEN_SEGMENTERS: dict[str, tuple[Callable[[], Segmenter], str]] = {
    "test_backend_has_a_name": (NamelessSegmenter, "got an empty one"),
    "test_masks_and_scores_are_valid": (lambda: Changing(as_bytes), "uint8: expected (434, 658) bool"),
    "test_known_object_gets_its_mask": (BoxSegmenter, "expected an IoU of at least 0.9"),
    "test_the_same_prompt_gets_the_same_mask": (lambda: Changing(shrink_masks), "in two calls"),
    "test_no_prompts_get_no_masks": (
        lambda: Changing(
            lambda objects, _: objects or [SegmentedObject(np.zeros((1, 1), bool), ObjectPrompt(Box(0, 0, 1, 1)), 1)]
        ),
        "expected no objects",
    ),
    "test_masks_come_in_the_order_of_the_prompts": (lambda: Changing(lambda objects, _: objects[::-1]), "with its prompt"),
    "test_points_alone_are_a_prompt": (
        lambda: Changing(lambda objects, _: [replace(each, prompt=ObjectPrompt(Box(0, 0, 1, 1))) for each in objects]),
        "expected the box around the mask",
    ),
    "test_prompts_at_the_border_get_masks": (StrictSegmenter, "at the border fails: ValueError"),
    "test_async_masks_are_the_same": (OtherwiseAsyncSegmenter, "by segment and asegment"),
    "test_cancelled_call_leaves_the_backend_usable": (UncancellableSegmenter, "a cancelled call went on"),
    "test_threads_get_their_own_masks": (SharingSegmenter, "boxes gave object 1 a mask of"),
    "test_every_image_mode_is_read_as_its_rgb": (RgbSegmenter, "an image of mode '1' fails: BackendError"),
    "test_image_is_left_as_it_was": (DrawingSegmenter, "the backend changed the image"),
}


def check_segmenter(make: Callable[[], Segmenter], check: str, least: float = 0.0) -> None:
    class Suite(SegmenterConformance):
        least_iou: ClassVar[float] = least

        def make_backend(self) -> Segmenter:
            return make()

    getattr(Suite(), check)()


@pytest.mark.parametrize("check", list_checks(SegmenterConformance))
def test_every_check_of_segmenters_passes_a_sound_one_and_fails_a_broken_one(check: str) -> None:
    make, message = BROKEN_SEGMENTERS[check]
    if check != "test_known_object_gets_its_mask":
        check_segmenter(BoxSegmenter, check)
    with pytest.raises((AssertionError, BackendError), match=re.escape(message)):
        check_segmenter(make, check, least=0.9)


# Without pytest -------------------------------------------------------------------------------------------------------


def test_a_suite_runs_without_pytest() -> None:
    class Suite(MLLMConformance):
        is_prepared: ClassVar[bool] = False

        def make_backend(self) -> MLLM:
            return NeedingQuestions(self.oracle.answer)

    outcomes = run_checks(Suite)
    assert set(outcomes) == set(BROKEN_MLLMS)
    assert outcomes.pop("test_no_questions_get_no_replies").startswith("failed: AssertionError: expected no replies")
    assert outcomes.pop("test_malformed_reply_becomes_a_reply_error").startswith("skipped: a trained model")
    assert set(outcomes.values()) == {"passed"}


def test_a_suite_without_a_backend_says_what_to_define() -> None:
    outcomes = run_checks(type("Suite", (MLLMConformance,), {}))
    assert outcomes["test_backend_has_a_name"] == "failed: NotImplementedError: Suite has to define make_backend"


def test_prepared_answers_are_found_in_what_a_server_receives() -> None:
    suite = MLLMConformance()
    case = suite.cases[0]
    request = f'{{"role": "user", "content": "{suite.dialect.ask_boxes(case.expression).turns[-1].text}"}}'
    assert suite.oracle.answer_text(request) == suite.dialect.format_boxes(case.boxes, case.size)
    with pytest.raises(LookupError, match="no question of the suite"):
        suite.oracle.answer_text("what is this?")
