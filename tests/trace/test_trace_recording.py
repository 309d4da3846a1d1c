"""Recording: runs give what they give without it, and each leaves a trace, whichever driver serves it."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sam4mllm_tool.errors import BackendError, ExpressionError, ReplyError
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.methods import METHODS, Method, segment_expression
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED, BoxOnly, PointsByBox
from sam4mllm_tool.trace import Recorder, load, recorded, replay, replaying, save
from sam4mllm_tool.trace.schema import Failure, MLLMStep, SegmentStep, Trace
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Point, Question, Reply, Segmentation, SegmentedObject, Size
from tests.results import assert_equal_but_for_rounding
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced


@pytest.mark.parametrize("method", METHODS)
def test_a_recorded_run_gives_what_the_models_give(method: Method) -> None:
    image, expressions = scene(SEEDS[0])
    recorder = Recorder(embedded())
    for expression in expressions[:3]:
        plain = embedded().segment(image, expression, method=method)
        assert_equal_but_for_rounding(recorder.models.segment(image, expression, method=method), plain)
    assert [trace.expression for trace in recorder.traces] == expressions[:3]


def test_a_trace_holds_all_requests_and_responses() -> None:
    models = scripted("hmm", BOX, SURE)
    trace = traced(models)
    first, second, third, fourth = trace.steps
    assert [type(step) for step in trace.steps] == [MLLMStep, MLLMStep, MLLMStep, SegmentStep]
    assert [exchange.question for exchange in trace.exchanges] == models.mllm.questions  # type: ignore[attr-defined]
    assert [exchange.reply for exchange in trace.exchanges] == [Reply("hmm"), Reply(BOX), SURE]
    assert isinstance(fourth, SegmentStep)
    assert [fourth.prompts] == models.segmenter.calls  # type: ignore[attr-defined]
    assert fourth.objects[0].mask.mask().sum() > 0
    assert trace.result is not None
    assert trace.result["notes"]
    assert (trace.expression, trace.method, trace.error) == ("a cat", "pqpp", None)
    assert (trace.settings.dialect, trace.settings.mllm, trace.settings.segmenter) == (RELEASED, "scripted", "boxes")
    assert (trace.image.size, trace.image.pixels) == (Size(100, 80), GREY)
    assert all(step.seconds >= 0 for step in (first, second, third))
    assert trace.seconds >= sum(step.seconds for step in trace.steps)


@pytest.mark.slow
async def test_async_and_group_runs_leave_the_same_traces_as_blocking_runs() -> None:
    image, expressions = scene(SEEDS[1])
    blocking, concurrent, grouped = (Recorder(embedded()) for _ in range(3))
    for expression in expressions:
        blocking.models.segment(image, expression)
    await asyncio.gather(*(concurrent.models.asegment(image, expression) for expression in expressions))
    grouped.models.segment_group(image, expressions)
    single = {trace.expression: trace for trace in blocking.traces}
    assert len(single) == len(expressions)
    for other in (concurrent, grouped):
        assert {trace.expression for trace in other.traces} == set(expressions)
        for trace in other.traces:
            assert shape(trace) == shape(single[trace.expression])
            assert replay(trace).difference == ""


def shape(trace: Trace) -> list[Any]:
    """Questions, reply texts and numbers of prompts; probabilities may differ in a batch."""
    return [
        [(exchange.question, exchange.reply.text) for exchange in step.exchanges]
        if isinstance(step, MLLMStep)
        else len(step.prompts)
        for step in trace.steps
    ]


def test_equal_expressions_of_a_group_keep_their_own_replies() -> None:
    recorder = Recorder(scripted(BOX, "No object found.", SURE))
    recorder.models.segment_group(GREY, ["a cat", "a cat"])
    assert sorted(len(trace.result["objects"]) for trace in recorder.traces if trace.result) == [0, 1]
    assert [replay(trace).difference for trace in recorder.traces] == ["", ""]


def test_runs_in_threads_do_not_mix_their_traces() -> None:
    image, expressions = scene(SEEDS[2])
    recorder = Recorder(embedded())
    threads = [threading.Thread(target=recorder.models.segment, args=(image, text)) for text in expressions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(str(trace.expression) for trace in recorder.traces) == sorted(expressions)
    assert [replay(trace).difference for trace in recorder.traces] == [""] * len(expressions)
    assert len({id(trace.image.pixels) for trace in recorder.traces}) == 1, "one copy of the image"


# RunLengthMask that fail -----------------------------------------------------------------------------------------------------


def test_a_run_without_a_readable_box_replays_to_the_same_error() -> None:
    recorder = Recorder(scripted("hmm", "hmm", "hm"))
    with pytest.raises(ReplyError) as caught:
        recorder.models.segment(GREY, "a cat")
    (trace,) = recorder.traces
    assert (trace.result, trace.error) == (None, Failure("ReplyError", str(caught.value)))
    assert replay(trace).difference == ""


def test_a_run_whose_backend_fails_leaves_its_earlier_steps() -> None:
    for drive in (lambda models: models.segment(GREY, "a cat"), lambda models: models.segment_group(GREY, ["a cat"])):
        recorder = Recorder(scripted(BOX))
        with pytest.raises(BackendError):
            drive(recorder.models)
        (trace,) = recorder.traces
        assert [exchange.reply.text for exchange in trace.exchanges] == [BOX]
        assert trace.error is not None
        assert trace.error.type == "BackendError"
        assert replay(trace).difference == ""


def test_an_empty_expression_leaves_a_trace() -> None:
    recorder = Recorder(scripted())
    with pytest.raises(ExpressionError):
        recorder.models.segment(GREY, " ")
    assert recorder.traces[0].error is not None
    assert recorder.traces[0].steps == ()
    assert replay(recorder.traces[0]).difference == ""


async def test_a_cancelled_run_leaves_no_trace() -> None:
    class Waiting(BoxSegmenter):
        async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
            await asyncio.sleep(60)
            return self.segment(image, prompts)

    recorder = Recorder(Sam4Mllm(scripted(BOX, SURE).mllm, Waiting(), dialect=RELEASED))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(recorder.models.asegment(GREY, "a cat", method="box"), 0.05)
    assert recorder.traces == ()


async def test_a_run_cancelled_during_its_own_work_leaves_no_trace() -> None:
    started, resume, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(models: Sam4Mllm) -> Flow[str]:
        yield from models.start_run(Size(100, 80)).run_dialogue(BoxOnly.start("a cat", Size(100, 80), dialect=models.dialect))
        started.set()
        resume.wait(10)
        ended.set()
        return "done"

    recorder = Recorder(scripted(BOX))
    task = asyncio.create_task(recorder.models.arun(GREY, slow(recorder.models)))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    resume.set()
    await asyncio.to_thread(ended.wait, 10)
    assert recorder.traces == ()


# Crops ---------------------------------------------------------------------------------------------------------------


def test_a_trace_holds_the_crops_that_were_shown(tmp_path: Path) -> None:
    recorder = Recorder(embedded())
    image, expressions = scene(SEEDS[0])
    result = recorder.models.segment(image, expressions[0], method="adaptive")
    (trace,) = recorder.traces
    crop_steps = [step for step in trace.steps if step.transform]
    assert result.objects
    assert len(crop_steps) == 3 * len(result.objects)
    for step in crop_steps:
        assert isinstance(step, SegmentStep)
        assert step.crop is not None
        assert step.transform == step.crop.description
        assert step.objects[0].mask.mask().shape == (step.crop.output_size.height, step.crop.output_size.width)
    save(trace, tmp_path / "t.json")
    assert load(tmp_path / "t.json").steps == trace.steps
    assert replay(load(tmp_path / "t.json")).difference == ""


# Custom flows and settings ------------------------------------------------------------------------------------------


def test_a_custom_flow_leaves_a_trace_on_which_it_runs_again() -> None:
    def find_boxes(models: Sam4Mllm) -> Flow[tuple[Box, ...]]:
        dialogue = yield from models.start_run(Size(100, 80)).run_dialogue(
            BoxOnly.start("a cat", Size(100, 80), dialect=models.dialect)
        )
        return tuple(prompt.box for prompt in dialogue.prompts)

    recorder = Recorder(scripted(BOX))
    result = recorder.models.run(GREY, find_boxes(recorder.models))
    (trace,) = recorder.traces
    assert (trace.expression, trace.method, trace.result) == (None, None, None)
    again = replaying(trace)
    assert again.run(GREY, find_boxes(again)) == result
    assert again.describe_unused() == ""


def test_a_custom_flow_with_a_method_in_it_leaves_one_trace() -> None:
    def segment_cat(models: Sam4Mllm) -> Flow[Segmentation]:
        return (yield from segment_expression(models.start_run(Size(100, 80)), "a cat", "pqpp"))

    recorder = Recorder(scripted(BOX, SURE))
    result = recorder.models.run(GREY, segment_cat(recorder.models))
    (trace,) = recorder.traces
    assert trace.result == result.to_dict()


def test_a_custom_sampler_is_saved_as_the_points_that_it_gave() -> None:
    models = scripted(BOX, Reply("Yes", ((0.95, 0.05),)))
    models.config = replace(models.config, sampler=lambda box: (Point(box.x1 + 3, box.y1 + 4),))
    trace = traced(models)
    assert isinstance(trace.settings.sampler, PointsByBox)
    assert replay(trace).difference == ""


def test_a_custom_sampler_is_saved_where_its_answers_stayed_unreadable() -> None:
    models = scripted(BOX, "hm", "hm", "hm")
    models.config = replace(models.config, sampler=lambda box: (box.center,))
    trace = traced(models)
    box = Box(10.05, 8.04, 50.05, 48.04)
    assert trace.settings.sampler == PointsByBox(((box, (box.center,)),))
    assert replay(trace).difference == ""


def test_a_trace_holds_settings_changed_on_the_recorded_models() -> None:
    recorder = Recorder(scripted("hmm", BOX))
    recorder.models.config = replace(recorder.models.config, retries=0)
    with pytest.raises(ReplyError):
        recorder.models.segment(GREY, "a cat")
    assert recorder.traces[0].settings.retries == 0


def test_drawing_on_an_image_after_the_run_changes_no_trace() -> None:
    def ask(models: Sam4Mllm) -> Flow[list[Reply]]:
        question = Question(models.dialect.ask_boxes("a cat").turns, models.dialect.ask_boxes("a cat").answer)
        return (yield from models.start_run(Size(100, 80)).ask([question]))

    image = GREY.copy()
    recorder = Recorder(scripted(BOX))
    recorder.models.run(image, ask(recorder.models))
    image.paste("red", (0, 0, 50, 50))
    kept = recorder.traces[0].image.pixels
    assert kept is not None
    assert np.array_equal(np.asarray(kept), np.asarray(GREY))


def test_keep_is_called_with_each_trace(tmp_path: Any) -> None:
    recorder = Recorder(scripted(BOX, SURE), keep=lambda trace: save(trace, tmp_path / "it.json"))
    recorder.models.segment(GREY, "a cat")
    assert recorder.traces == ()
    assert load(tmp_path / "it.json").expression == "a cat"


def test_recorded_saves_the_last_run_even_if_it_failed(tmp_path: Any) -> None:
    with pytest.raises(ReplyError), recorded(scripted("hm", "hm", "hm"), tmp_path / "it.json.gz") as models:
        models.segment(GREY, "a cat")
    assert load(tmp_path / "it.json.gz").error is not None
    plain = scripted()
    with recorded(plain, None) as models:
        assert models is plain
