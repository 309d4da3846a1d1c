"""Recording: nothing changes but that a trace is left, whoever drives the run."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool.errors import BackendError, ExpressionError, ReplyError
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.pipeline.requests import Flow, Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED, BoxOnly, PointsByBox
from sam4mllm_tool.trace import Recorder, load, recorded, replay, replaying, save
from sam4mllm_tool.trace.schema import Asked, Failure, Prompted, Trace
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Point, Question, Reply, Segmentation, SegmentedObject, Size
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced


def timeless(result: Segmentation) -> dict[str, Any]:
    return {name: one for name, one in result.to_dict().items() if name != "seconds"}


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_run_gives_what_the_models_give(method: Method) -> None:
    image, expressions = scene(SEEDS[0])
    recorder = Recorder(embedded())
    for expression in expressions[:3]:
        plain = embedded().segment(image, expression, method=method)
        assert timeless(recorder.models.segment(image, expression, method=method)) == timeless(plain)
    assert [trace.expression for trace in recorder.traces] == expressions[:3]


def test_a_trace_holds_all_that_was_asked_and_given() -> None:
    models = scripted("hmm", BOX, SURE)
    trace = traced(models)
    first, second, third, fourth = trace.steps
    assert [type(step) for step in trace.steps] == [Asked, Asked, Asked, Prompted]
    assert [one.question for one in trace.exchanges] == models.mllm.questions  # type: ignore[attr-defined]
    assert [one.reply for one in trace.exchanges] == [Reply("hmm"), Reply(BOX), SURE]
    assert isinstance(fourth, Prompted)
    assert [fourth.prompts] == models.segmenter.calls  # type: ignore[attr-defined]
    assert fourth.found[0].mask.mask().sum() > 0
    assert trace.result is not None
    assert trace.result["notes"]
    assert (trace.expression, trace.method, trace.error) == ("a cat", "pqpp", None)
    assert (trace.settings.dialect, trace.settings.mllm, trace.settings.segmenter) == (RELEASED, "scripted", "boxes")
    assert (trace.picture.size, trace.picture.image) == (Size(100, 80), GREY)
    assert all(step.seconds >= 0 for step in (first, second, third))
    assert trace.seconds >= sum(step.seconds for step in trace.steps)


async def test_async_and_group_leave_the_traces_that_blocking_leaves() -> None:
    image, expressions = scene(SEEDS[1])
    blocking, waiting, together = (Recorder(embedded()) for _ in range(3))
    for expression in expressions:
        blocking.models.segment(image, expression)
    await asyncio.gather(*(waiting.models.asegment(image, expression) for expression in expressions))
    together.models.segment_group(image, expressions)
    single = {trace.expression: trace for trace in blocking.traces}
    assert len(single) == len(expressions)
    for other in (waiting, together):
        assert {trace.expression for trace in other.traces} == set(expressions)
        for trace in other.traces:
            assert shape(trace) == shape(single[trace.expression])
            assert replay(trace).difference == ""


def shape(trace: Trace) -> list[Any]:
    """What was asked and prompted, and what was said; a batch may give other digits."""
    return [
        [(one.question, one.reply.text) for one in step.exchanges] if isinstance(step, Asked) else len(step.prompts)
        for step in trace.steps
    ]


def test_equal_expressions_of_a_group_keep_their_own_replies() -> None:
    recorder = Recorder(scripted(BOX, "No object found.", SURE))
    recorder.models.segment_group(GREY, ["a cat", "a cat"])
    assert sorted(len(trace.result["objects"]) for trace in recorder.traces if trace.result) == [0, 1]
    assert [replay(trace).difference for trace in recorder.traces] == ["", ""]


def test_threads_don_t_mix_their_traces() -> None:
    image, expressions = scene(SEEDS[2])
    recorder = Recorder(embedded())
    threads = [threading.Thread(target=recorder.models.segment, args=(image, text)) for text in expressions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(trace.expression) for trace in recorder.traces) == sorted(expressions)
    assert [replay(trace).difference for trace in recorder.traces] == [""] * len(expressions)
    assert len({id(trace.picture.image) for trace in recorder.traces}) == 1, "one copy of one picture"


# Runs that fail -----------------------------------------------------------------------------------------------------


def test_a_run_without_a_readable_box_leaves_a_trace_that_replays_to_the_same_error() -> None:
    recorder = Recorder(scripted("hmm", "hmm", "hm"))
    with pytest.raises(ReplyError) as caught:
        recorder.models.segment(GREY, "a cat")
    (trace,) = recorder.traces
    assert (trace.result, trace.error) == (None, Failure("ReplyError", str(caught.value)))
    assert replay(trace).difference == ""


def test_a_backend_that_fails_midway_leaves_what_came_before() -> None:
    for drive in (lambda models: models.segment(GREY, "a cat"), lambda models: models.segment_group(GREY, ["a cat"])):
        recorder = Recorder(scripted(BOX))
        with pytest.raises(BackendError):
            drive(recorder.models)
        (trace,) = recorder.traces
        assert [one.reply.text for one in trace.exchanges] == [BOX]
        assert trace.error is not None
        assert trace.error.type == "BackendError"
        assert replay(trace).difference == ""


def test_an_expression_that_is_none_leaves_a_trace_too() -> None:
    recorder = Recorder(scripted())
    with pytest.raises(ExpressionError):
        recorder.models.segment(GREY, " ")
    assert recorder.traces[0].error is not None
    assert recorder.traces[0].steps == ()
    assert replay(recorder.traces[0]).difference == ""


async def test_a_cancelled_run_leaves_none() -> None:
    class Waiting(BoxSegmenter):
        async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
            await asyncio.sleep(60)
            return self.segment(image, prompts)

    recorder = Recorder(Sam4Mllm(scripted(BOX, SURE).mllm, Waiting(), dialect=RELEASED))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(recorder.models.asegment(GREY, "a cat", method="box"), 0.05)
    assert recorder.traces == ()


async def test_a_run_that_is_cancelled_while_its_own_work_is_done_leaves_none() -> None:
    begun, free = threading.Event(), threading.Event()

    def slow(models: Sam4Mllm) -> Flow[str]:
        yield from models.flows.settle(BoxOnly.start("a cat", Size(100, 80), dialect=models.dialect), Transcript())
        begun.set()
        free.wait(10)
        return "done"

    recorder = Recorder(scripted(BOX))
    task = asyncio.create_task(recorder.models.arun(GREY, slow(recorder.models)))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()
    await asyncio.sleep(0.1)
    assert recorder.traces == ()


# What is shown ------------------------------------------------------------------------------------------------------


def test_a_trace_says_what_was_shown_and_comes_back_from_its_file(tmp_path: Path) -> None:
    recorder = Recorder(embedded())
    image, expressions = scene(SEEDS[0])
    found = recorder.models.segment(image, expressions[0], method="adaptive")
    (trace,) = recorder.traces
    close = [step for step in trace.steps if step.shown]
    assert found.objects
    assert len(close) == 3 * len(found.objects)
    for step in close:
        assert isinstance(step, Prompted)
        assert step.view is not None
        assert step.shown == step.view.words
        assert step.found[0].mask.mask().shape == (step.view.shown.height, step.view.shown.width)
    save(trace, tmp_path / "t.json")
    assert load(tmp_path / "t.json").steps == trace.steps
    assert replay(load(tmp_path / "t.json")).difference == ""


# Flows and settings of one's own ------------------------------------------------------------------------------------


def test_a_flow_of_ones_own_leaves_a_trace_and_runs_again_on_it() -> None:
    def boxes_alone(models: Sam4Mllm) -> Flow[tuple[Box, ...]]:
        dialogue = yield from models.flows.settle(BoxOnly.start("a cat", Size(100, 80), dialect=models.dialect), Transcript())
        return tuple(prompt.box for prompt in dialogue.prompts)

    recorder = Recorder(scripted(BOX))
    found = recorder.models.run(GREY, boxes_alone(recorder.models))
    (trace,) = recorder.traces
    assert (trace.expression, trace.method, trace.result) == (None, None, None)
    again = replaying(trace)
    assert again.run(GREY, boxes_alone(again)) == found
    assert again.left_over() == ""


def test_a_flow_that_takes_a_method_as_its_part_leaves_one_trace() -> None:
    def cat(models: Sam4Mllm) -> Flow[Segmentation]:
        return (yield from models.flows.segment("a cat", Size(100, 80)))

    recorder = Recorder(scripted(BOX, SURE))
    result = recorder.models.run(GREY, cat(recorder.models))
    (trace,) = recorder.traces
    assert trace.result == result.to_dict()


def test_a_sampler_of_ones_own_is_kept_as_the_points_that_it_gave() -> None:
    models = scripted(BOX, Reply("Yes", ((0.95, 0.05),)))
    models.sampler = lambda box: (Point(box.x1 + 3, box.y1 + 4),)
    trace = traced(models)
    assert isinstance(trace.settings.sampler, PointsByBox)
    assert replay(trace).difference == ""


def test_settings_changed_on_the_recorded_models_are_those_of_the_trace() -> None:
    recorder = Recorder(scripted("hmm", BOX))
    recorder.models.retries = 0
    with pytest.raises(ReplyError):
        recorder.models.segment(GREY, "a cat")
    assert recorder.traces[0].settings.retries == 0


def test_drawing_on_a_picture_afterwards_changes_no_trace() -> None:
    def ask(models: Sam4Mllm) -> Flow[list[Reply]]:
        question = Question(models.dialect.ask_boxes("a cat").turns, models.dialect.ask_boxes("a cat").answer)
        return (yield from models.flows.ask([question], Transcript()))

    image = GREY.copy()
    recorder = Recorder(scripted(BOX))
    recorder.models.run(image, ask(recorder.models))
    image.paste("red", (0, 0, 50, 50))
    kept = recorder.traces[0].picture.image
    assert kept is not None
    assert np.array_equal(np.asarray(kept), np.asarray(GREY))


def test_keep_is_told_each_trace(tmp_path: Any) -> None:
    recorder = Recorder(scripted(BOX, SURE), keep=lambda trace: save(trace, tmp_path / "it.json"))
    recorder.models.segment(GREY, "a cat")
    assert recorder.traces == ()
    assert load(tmp_path / "it.json").expression == "a cat"


def test_recorded_saves_the_last_run_a_failed_one_too(tmp_path: Any) -> None:
    with pytest.raises(ReplyError), recorded(scripted("hm", "hm", "hm"), tmp_path / "it.json.gz") as models:
        models.segment(GREY, "a cat")
    assert load(tmp_path / "it.json.gz").error is not None
    plain = scripted()
    with recorded(plain, None) as models:
        assert models is plain
