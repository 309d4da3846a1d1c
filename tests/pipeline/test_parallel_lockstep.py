"""Many images in several threads: the same results in the same order, and errors, streams and threads as with one."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from sam4mllm_tool.errors import BackendError, ImageError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.pipeline.lockstep import Outcome
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import FreeText, Image, Question, Reply, Segmentation, Turn
from tests.pipeline.test_lockstep import PAIRS
from tests.replicated_models import ReplicatedBoxSegmenter, compute_on_two_cores
from tests.results import assert_equal_but_for_rounding

THREAD = "sam4mllm-images"


@pytest.fixture(autouse=True)
def two_cores() -> Iterator[None]:
    with compute_on_two_cores():
        yield


class ShadeReader:
    """Answers with a box as wide as the image is dark; notes the thread of each call. Copies answer independently."""

    name, greedy = "shade reader", True

    def __init__(self, threads: set[str] | None = None) -> None:
        self.threads = set() if threads is None else threads

    def replicate(self, count: int) -> list["ShadeReader"]:
        return [self, *(ShadeReader(self.threads) for _ in range(count - 1))]

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        self.threads.add(threading.current_thread().name)
        shade = int(np.asarray(image)[0, 0, 0])
        if shade == 255:
            raise BackendError("out of memory")
        return [Reply(f"[{shade},100,900,900]") for _ in questions]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


def draw_shades(shades: Sequence[int]) -> list[tuple[np.ndarray, list[str]]]:
    return [(np.full((100, 1000, 3), shade, np.uint8), ["a cat"]) for shade in shades]


def read_shades(outcomes: Sequence[object]) -> list[int]:
    return [int(each[0].objects[0].prompt.box.x1) for each in outcomes if isinstance(each, list)]


@pytest.fixture
def models() -> Sam4Mllm:
    return Sam4Mllm(ShadeReader(), ReplicatedBoxSegmenter())


def test_the_embedded_pair_gives_the_results_of_one_thread() -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    together = models.segment_many(PAIRS)
    assert torch.get_num_threads() == 2, "they are given back"
    torch.set_num_threads(1)
    for result, expected in zip(together, models.segment_many(PAIRS), strict=True):
        assert_equal_but_for_rounding(result, expected)


def test_outcomes_come_in_order_from_two_threads(models: Sam4Mllm) -> None:
    shades = [(37 * number) % 250 for number in range(60)]
    outcomes = list(models.segment_groups(draw_shades(shades), images_at_once=4, method="box"))
    assert read_shades(outcomes) == shades
    assert models.mllm.threads == {THREAD}  # type: ignore[attr-defined]


def test_a_single_image_is_segmented_in_the_callers_thread(models: Sam4Mllm) -> None:
    assert read_shades(list(models.segment_groups(draw_shades([7]), method="box"))) == [7]
    assert models.mllm.threads == {threading.current_thread().name}  # type: ignore[attr-defined]


def test_an_error_of_a_model_is_raised_in_its_place_or_returned(models: Sam4Mllm) -> None:
    groups = [*draw_shades([1, 2, 3, 255, 5, 6]), (Path("nowhere.png"), ["a cat"]), *draw_shades([8])]
    outcomes = list(models.segment_groups(groups, images_at_once=2, method="box", on_error="return"))
    assert [type(each) for each in outcomes[5:]] == [list, ImageError, list]
    assert [type(each[0]) for each in outcomes[2:5] if isinstance(each, list)] == [Segmentation, BackendError, Segmentation]
    yielded: list[list[Outcome] | ImageError] = []
    with pytest.raises(BackendError, match="out of memory"):
        yielded.extend(models.segment_groups(groups, images_at_once=2, method="box"))
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_images_are_taken_as_they_are_needed_and_closing_ends_the_threads(models: Sam4Mllm) -> None:
    taken: list[int] = []

    def take() -> Iterator[tuple[np.ndarray, list[str]]]:
        for number, group in enumerate(draw_shades(range(200))):
            taken.append(number)
            yield group

    results = models.segment_groups(take(), images_at_once=2, method="box")
    assert read_shades([next(results), next(results)]) == [0, 1]
    assert len(taken) <= 6
    results.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]
    assert len(taken) <= 6


def test_what_the_images_source_raises_is_raised(models: Sam4Mllm) -> None:
    def take() -> Iterator[tuple[np.ndarray, list[str]]]:
        yield from draw_shades([1, 2, 3])
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(models.segment_groups(take(), method="box"))
    assert not [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_replicas_are_kept_with_what_they_read() -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    mllm = models.mllm
    assert isinstance(mllm, TransformersMLLM)
    assert len(mllm.replicate(3)) == len(models._server.replicate(3)) == 3
    assert mllm.replicate(3) == mllm.replicate(3)


def test_replicas_forget_with_the_model_that_they_are_of() -> None:
    mllm = Sam4Mllm.load("embedded", "embedded").mllm
    assert isinstance(mllm, TransformersMLLM)
    replica = mllm.replicate(2)[1]
    replica.reply(PILImage.fromarray(PAIRS[0][0]), [Question((Turn("user", "where is it ?"),), FreeText(2))])
    assert len(replica._images) == 1
    mllm.forget()
    assert len(replica._images) == 0


def test_a_model_that_keeps_something_about_the_latest_image_has_no_replicas() -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    models.mllm._runner.model.rope_deltas = None  # type: ignore[attr-defined]
    assert models.mllm.replicate(3) == [models.mllm]  # type: ignore[attr-defined]
    assert len(models._server.replicate(3)) == 1


def test_a_model_whose_adapters_take_turns_has_no_replicas() -> None:
    mllm = TransformersMLLM.load(embedded_folder("mllm"))
    assert mllm.replicate(2) == [mllm]


def test_a_segmenter_with_a_concept_head_has_no_replicas() -> None:
    segmenter = Sam4Mllm.load("embedded", "embedded").segmenter
    assert isinstance(segmenter, TransformersSegmenter)
    segmenter._concept_source = "sam3"
    assert segmenter.replicate(2) == [segmenter]
