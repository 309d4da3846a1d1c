"""Many threads and tasks on one instance: the results of one at a time, places that are freed, and an end of the program."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.mllm.server_options import ServerOptions
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Image, Question, Reply, Segmentation
from tests.embedded_world import TEST_SEEDS, draw_scene, name_object
from tests.openai_servers import Exchange, build_completion, serve
from tests.results import assert_equal_but_for_rounding

COUNT = 64
METHODS: tuple[Any, ...] = ("pqpp", "box", "ppg")


def reply_by_brightness(image: Image, question: Question) -> Reply:
    """Answer so that each image has results of its own."""
    start = int(np.asarray(image)[0, 0, 0])
    text = question.turns[-1].text
    box = f"[{start},100,{start + 300},900]"
    if "Is the" in text:
        share = 0.5 + start / 600
        return Reply("Yes", ((share, 1 - share),))
    return Reply(f"{box} on (200,200) (210,300) off (220,800)" if "points" in text else box)


class BrightnessMLLM(ScriptedMLLM):
    """Answers by the image that it is asked about, after letting other threads run."""

    def __init__(self) -> None:
        super().__init__([])

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        threading.Event().wait(0.0005)
        return [reply_by_brightness(image, question) for question in questions]


CALLS: list[tuple[Any, str, Any]] = [
    (np.full((40 + number, 50, 3), 3 * number, np.uint8), f"ring {number}", METHODS[number % 3]) for number in range(COUNT)
]


@pytest.fixture(scope="module")
def scripted() -> tuple[Sam4Mllm, list[Segmentation]]:
    models = Sam4Mllm(BrightnessMLLM(), BoxSegmenter(), dialect=PLAIN)
    return models, [models.segment(image, text, method=method) for image, text, method in CALLS]


def assert_all_equal(results: Sequence[Segmentation], expected: Sequence[Segmentation]) -> None:
    assert len(results) == len(expected)
    for result, sequential in zip(results, expected, strict=True):
        assert_equal_but_for_rounding(result, sequential)


def segment_in_threads(models: Sam4Mllm, calls: Sequence[tuple[Any, str, Any]]) -> list[Segmentation]:
    """Start all calls at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def work(call: tuple[Any, str, Any]) -> Segmentation:
        barrier.wait(60)
        return models.segment(call[0], call[1], method=call[2])

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(work, calls))


def segment_in_tasks(models: Sam4Mllm, calls: Sequence[tuple[Any, str, Any]]) -> list[Segmentation]:
    async def segment_all() -> list[Segmentation]:
        return await asyncio.gather(*(models.asegment(image, text, method=method) for image, text, method in calls))

    return asyncio.run(segment_all())


@pytest.mark.parametrize("segment", [segment_in_threads, segment_in_tasks])
def test_many_at_once_give_what_one_at_a_time_gives(segment: Any, scripted: tuple[Sam4Mllm, list[Segmentation]]) -> None:
    models, expected = scripted
    assert len({tuple(result.objects[0].prompt.box) for result in expected}) > COUNT / 2
    assert_all_equal(segment(models, CALLS), expected)


@pytest.mark.slow
def test_many_at_once_on_the_embedded_pair_give_what_one_at_a_time_gives() -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    scenes = [draw_scene(TEST_SEEDS + number) for number in range(8)]
    calls: list[tuple[Any, str, Any]] = [
        (scene.image, name_object(scene.objects[0]), "pqpp" if number == 0 else "box") for number, scene in enumerate(scenes)
    ]
    expected = [models.segment(image, text, method=method) for image, text, method in calls] * (COUNT // len(calls))
    calls *= COUNT // len(calls)
    assert_all_equal(segment_in_threads(models, calls), expected)
    assert_all_equal(segment_in_tasks(models, calls), expected)


def test_cancelled_tasks_free_their_places() -> None:
    pytest.importorskip("openai")
    from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM

    begun, gate = threading.Semaphore(0), threading.Event()

    def answer(exchange: Exchange) -> Any:
        if "ring" in exchange.last_text:
            begun.release()
            gate.wait(30)
        return build_completion("[100,100,500,500]")

    async def cancel_all(models: Sam4Mllm) -> Segmentation:
        tasks = [asyncio.create_task(models.asegment(image, "the ring")) for image, _, _ in CALLS]
        for _ in range(2):
            await asyncio.to_thread(begun.acquire)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        return await models.asegment(CALLS[0][0], "the star")  # while the server still works on what was cancelled

    with serve(answer, models=["m"]) as server:
        mllm = OpenAICompatibleMLLM("m", server.url, dialect=PLAIN, options=ServerOptions(concurrency=2, retries=0))
        models = Sam4Mllm(mllm, BoxSegmenter(), dialect=PLAIN, method="box")
        assert len(asyncio.run(cancel_all(models)).objects) == 1
        gate.set()
        assert len(server.chats) <= 4  # two that were cancelled, and the last


ENDING = """
import asyncio, sys, threading
import numpy as np
from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline import model_calls
model_calls._EXIT_GRACE_S = 0.2
begun = threading.Semaphore(0)

def hang(_):
    begun.release()
    threading.Event().wait()

models = Sam4Mllm(ScriptedMLLM(hang), BoxSegmenter(), timeout_s=600)
image = np.zeros((9, 9, 3), np.uint8)

async def main():
    tasks = [asyncio.create_task(models.asegment(image, "it")) for _ in range(64)]
    await asyncio.to_thread(begun.acquire)
    raise KeyboardInterrupt

for _ in range(64):
    threading.Thread(target=models.segment, args=(image, "it"), daemon=True).start()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_calls_that_never_end_do_not_keep_the_program_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted\n", "", 0)
