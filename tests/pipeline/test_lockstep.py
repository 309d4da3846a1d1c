"""Many images at once: each call of the MLLM serves all that wait for it, and a failure stays where it belongs."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sam4mllm_tool.errors import BackendError, ExpressionError, ImageError
from sam4mllm_tool.models.mllm.scripted import ScriptedMLLM
from sam4mllm_tool.models.segmenter.box_segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import Image, Question, Reply, Segmentation
from tests.embedded_world import TEST_SEEDS, draw_scene, list_expressions
from tests.results import assert_equal_but_for_rounding

PAIRS = [
    (scene.image, expression.text)
    for scene in map(draw_scene, range(TEST_SEEDS, TEST_SEEDS + 5))
    for expression in list_expressions(scene)[:2]
]


class BatchCounter:
    """Counts the images of each batch that a real MLLM is asked about."""

    greedy = True

    def __init__(self, models: Sam4Mllm) -> None:
        self._mllm, self.name, self.batches = models.mllm, models.mllm.name, list[int]()

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        self.batches.append(1)
        return self._mllm.reply(image, questions)

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)

    def reply_batch(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[list[Reply]]:
        self.batches.append(len(batch))
        return self._mllm.reply_batch(batch)  # type: ignore[attr-defined, no-any-return]


def wrap(models: Sam4Mllm, mllm: object) -> Sam4Mllm:
    wrapped = copy.copy(models)
    wrapped.mllm = mllm  # type: ignore[assignment]
    return wrapped


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded")


def test_images_in_work_share_each_call_and_get_the_results_that_they_get_alone(models: Sam4Mllm) -> None:
    counter = BatchCounter(models)
    together = wrap(models, counter).segment_many(PAIRS)
    assert counter.batches == [5, 5]
    for result, (image, text) in list(zip(together, PAIRS, strict=True))[::2]:
        assert_equal_but_for_rounding(result, models.segment(image, text))


def test_no_more_images_are_in_work_than_asked_for(models: Sam4Mllm) -> None:
    counter = BatchCounter(models)
    groups = ((image, [text]) for image, text in PAIRS[::2])
    outcomes = list(wrap(models, counter).segment_groups(groups, images_at_once=2))
    assert [len(each) for each in outcomes if isinstance(each, list)] == [1] * 5
    assert max(counter.batches) == 2


def test_an_image_is_taken_when_there_is_room_for_it(models: Sam4Mllm) -> None:
    taken: list[int] = []

    def take() -> object:
        for i, (image, text) in enumerate(PAIRS[::2]):
            taken.append(i)
            yield image, [text]

    results = models.segment_groups(take(), images_at_once=2)  # type: ignore[arg-type]
    next(results)
    assert taken[-1] < 4


def test_an_error_of_one_image_or_expression_leaves_the_others(models: Sam4Mllm) -> None:
    (image, text), (other, word) = PAIRS[0], PAIRS[2]
    groups = [(image, [text, " "]), (Path("nowhere.png"), [text]), (other, [word])]
    first, unreadable, last = models.segment_groups(groups)
    assert isinstance(first, list)
    assert [type(outcome) for outcome in first] == [Segmentation, ExpressionError]
    assert isinstance(unreadable, ImageError)
    assert isinstance(last, list)
    assert_equal_but_for_rounding(last[0], models.segment(other, word))  # type: ignore[arg-type]


def test_a_batch_answered_in_part_is_a_backend_error(models: Sam4Mllm) -> None:
    class Forgetful(BatchCounter):
        def reply_batch(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[list[Reply]]:
            return super().reply_batch(batch)[:-1]

    with pytest.raises(BackendError, match="answered about 4 images, expected 5"):
        wrap(models, Forgetful(models)).segment_many(PAIRS)


def test_a_backend_for_one_image_at_a_time_is_asked_image_by_image() -> None:
    mllm = ScriptedMLLM(["[100,100,300,300]"] * 3)
    images = [np.full((40, 40, 3), shade, np.uint8) for shade in (1, 2, 3)]
    results = Sam4Mllm(mllm, BoxSegmenter()).segment_many([(image, "a cat") for image in images], method="box")
    assert [len(result.objects) for result in results] == [1, 1, 1]
