"""Models that fail or never answer: what the caller gets, and what becomes of the other results."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import BackendError, ExpressionError, ImageError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline import model_calls
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import Reply, Segmentation

IMAGES = [np.full((40, 40, 3), value, np.uint8) for value in range(8)]


def pair(answer: Callable[[str], str], **settings: Any) -> Sam4Mllm:
    """Models whose MLLM answers a question's text."""
    mllm = ScriptedMLLM(lambda question: answer(question.turns[-1].text))
    return Sam4Mllm(mllm, BoxSegmenter(), dialect=JOINT, method="box", **settings)


def answer_or_fail(text: str) -> str:
    if "broken" in text:
        raise RuntimeError("CUDA error\nin many lines")
    return "[100,100,500,500]"


@pytest.mark.parametrize("bad", ["image", "expression", "call"])
def test_one_failure_leaves_the_other_results(bad: str) -> None:
    pairs: list[tuple[Any, str]] = [(image, "the ring") for image in IMAGES]
    pairs[3] = {"image": ("no/such.png", "the ring"), "expression": (IMAGES[3], " "), "call": (IMAGES[3], "broken")}[bad]
    kind = {"image": ImageError, "expression": ExpressionError, "call": BackendError}[bad]
    results = pair(answer_or_fail).segment_many(pairs, on_error="return")
    assert [type(result) for result in results] == [*[Segmentation] * 3, kind, *[Segmentation] * 4]
    with pytest.raises(kind):
        pair(answer_or_fail).segment_many(pairs)


def test_a_batch_that_fails_as_a_whole_is_asked_image_by_image() -> None:
    class TooSmall(ScriptedMLLM):
        """A model that has no memory for several images."""

        def reply_batch(self, batch: Any) -> list[list[Reply]]:
            raise MemoryError(f"{len(batch)} images")

    models = Sam4Mllm(TooSmall(lambda _: "[100,100,500,500]"), BoxSegmenter(), dialect=JOINT, method="box")
    assert [len(result.objects) for result in models.segment_many([(image, "it") for image in IMAGES])] == [1] * 8


def test_a_mistake_in_a_program_is_raised_even_where_errors_are_returned() -> None:
    def answer(_: str) -> str:
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        pair(answer).segment_many([(IMAGES[0], "it")], on_error="return")
    with pytest.raises(ValueError, match="'raise' or 'return'"):
        pair(answer).segment_many([], on_error="ignore")  # type: ignore[call-overload]


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, OSError, AssertionError, NotImplementedError])
def test_an_error_of_a_models_library_is_wrapped_once(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    def answer(_: str) -> str:
        raise error("CUDA error\nin many lines")

    for timeout_s in (None, 30.0):
        models = pair(answer, timeout_s=timeout_s)
        for call in (models.segment, lambda *args, models=models: asyncio.run(models.asegment(*args))):
            with pytest.raises(BackendError, match=rf"^'scripted' failed with {error.__name__}, which was logged$") as caught:
                call(IMAGES[0], "it")
            assert type(caught.value.__cause__) is error
    assert caplog.text.count(f"'scripted' failed: {error.__name__}: CUDA error\n") == 4


def test_a_segmenters_error_is_wrapped_too() -> None:
    class Failing(BoxSegmenter):
        def segment(self, *_: Any) -> Any:
            raise AssertionError("shape")

    models = Sam4Mllm(ScriptedMLLM(lambda _: "[100,100,500,500]"), Failing(), dialect=JOINT, method="box")
    with pytest.raises(BackendError, match="failed with AssertionError"):
        models.segment(IMAGES[0], "it")


def test_surplus_replies_are_refused_for_groups_as_for_one() -> None:
    class Talkative(ScriptedMLLM):
        def reply(self, image: Any, questions: Any) -> list[Reply]:
            return [*super().reply(image, questions), Reply("[1,1,9,9]")]

    models = Sam4Mllm(Talkative(lambda _: "[100,100,500,500]"), BoxSegmenter(), dialect=JOINT, method="box")
    for call in (lambda: models.segment(IMAGES[0], "it"), lambda: models.segment_group(IMAGES[0], ["it", "them"])):
        with pytest.raises(BackendError, match="replies where"):
            call()


def test_a_call_that_takes_too_long_ends_with_a_backend_error() -> None:
    answered = threading.Event()

    def wait(_: str) -> str:
        answered.wait(60)
        return "[100,100,500,500]"

    models = pair(wait, timeout_s=0.05)
    for call in (models.segment, lambda *args: asyncio.run(models.asegment(*args))):
        with pytest.raises(BackendError, match=r"gave no answer within 0\.05 s"):
            call(IMAGES[0], "it")
    answered.set()
    for thread in list(model_calls._ABANDONED):
        thread.join(30)
    for limit in (0, float("nan"), float("inf"), 1e300):  # the system waits for no longer than some hundred years
        with pytest.raises(ValueError, match="timeout_s"):
            pair(wait, timeout_s=limit)


def test_a_call_within_the_limit_gives_the_same_result() -> None:
    without, within = (pair(answer_or_fail, timeout_s=limit).segment(IMAGES[0], "it") for limit in (None, 60.0))
    assert np.array_equal(without.mask, within.mask)
    assert asyncio.run(pair(answer_or_fail, timeout_s=60.0).asegment(IMAGES[0], "it")).objects


HANGING = """
import sys, threading
import numpy as np
from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline import model_calls
model_calls._EXIT_GRACE_S = 0.2
models = Sam4Mllm(ScriptedMLLM(lambda _: threading.Event().wait()), BoxSegmenter(), timeout_s=0.05)
image = np.zeros((9, 9, 3), np.uint8)
try:
    models.segment(image, "it")
except BackendError:
    print("ended")
sys.exit(3)
"""


def test_a_model_that_hangs_for_ever_does_not_keep_the_program_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ended\n", "", 3)
