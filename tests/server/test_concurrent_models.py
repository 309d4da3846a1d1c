"""Models that run elsewhere: requests don't wait for one another, up to the server's limits."""

import asyncio
from collections.abc import Sequence

import pytest

from sam4mllm_tool.errors import ExpressionError, QueueFullError, ReplyError, ServiceBusyError, TooLateError
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.server.concurrent_models import ConcurrentModels
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits
from sam4mllm_tool.types import Image, Question, Reply, Size
from tests.trace.traced import BOX, GREY


class _GatheringMLLM:
    """Answers once it was asked `count` times, so only if those calls go on together."""

    name, greedy = "gathering", True

    def __init__(self, count: int) -> None:
        self.calls, self._count, self._all_there = 0, count, asyncio.Event()

    async def areply(self, _: Image, questions: Sequence[Question]) -> list[Reply]:
        self.calls += 1
        if self.calls >= self._count:
            self._all_there.set()
        await self._all_there.wait()
        return [Reply("nonsense" if "odd" in question.turns[-1].text else BOX) for question in questions]


def make_models(mllm: _GatheringMLLM, **limits: float) -> ConcurrentModels:
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=RELEASED, method="box")  # type: ignore[arg-type]
    return ConcurrentModels(models, SchedulerLimits(**limits), {"base": "abc"})  # type: ignore[arg-type]


async def ask(models: ConcurrentModels, *expressions: str) -> list[object]:
    runs = [models.start_run(Size(*GREY.size), text, "box") for text in expressions]
    return await models.arun_group(
        GREY, [(segment_expression(run, text, "box"), run) for run, text in zip(runs, expressions, strict=True)]
    )


async def test_requests_and_their_expressions_go_on_together() -> None:
    models = make_models(_GatheringMLLM(2), timeout_s=10)
    (first,), (second, third) = await asyncio.gather(ask(models, "a cat"), ask(models, "an odd one", ""))
    assert len(first.objects) == 1  # type: ignore[attr-defined]
    assert first.usage.weights == {"base": "abc"}  # type: ignore[attr-defined]
    assert isinstance(second, ReplyError)
    assert isinstance(third, ExpressionError)


async def test_too_many_requests_are_refused_and_late_ones_dropped() -> None:
    models = make_models(_GatheringMLLM(5), images_at_once=1, queue_size=1, timeout_s=0.2)
    waiting = [asyncio.create_task(ask(models, "a cat")) for _ in range(2)]
    await asyncio.sleep(0)
    assert (models.scheduler.in_work, models.scheduler.waiting) == (1, 1)
    with pytest.raises(QueueFullError):
        await ask(models, "a dog")
    assert {type(error) for error in await asyncio.gather(*waiting, return_exceptions=True)} == {TooLateError}
    models.close(1)
    with pytest.raises(ServiceBusyError):
        await ask(models, "a dog")
