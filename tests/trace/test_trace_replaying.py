"""Replay: the real pipeline gives the recorded result outcome, and every edit of a file is detected."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.trace import TraceError, load, replay, replaying, save
from sam4mllm_tool.trace.replaying import first_difference
from sam4mllm_tool.trace.schema import MLLMStep, SegmentStep
from sam4mllm_tool.types import Reply
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_run_replays_to_the_same_result(tmp_path: Path, method: Method) -> None:
    image, expressions = scene(SEEDS[0])
    for expression in expressions:
        trace = traced(embedded(), image, expression, method)
        save(trace, tmp_path / "it.json.gz", include_image=False)
        outcome = replay(load(tmp_path / "it.json.gz"))
        assert outcome.difference == ""
        assert outcome.result is not None
        assert trace.result is not None
        assert outcome.result.to_dict() | {"seconds": 0} == dict(trace.result) | {"seconds": 0}


def test_repeated_questions_get_their_replies_in_order() -> None:
    trace = traced(scripted("hmm", "[1,2", BOX, "no idea", SURE))
    assert replay(trace).difference == ""


def test_replies_are_looked_up_by_question_and_not_by_order() -> None:
    trace = traced(replace_dialect(scripted(BOX, *["Yes", "No", "No", "Yes"])))
    ask, points, prompt = trace.steps
    assert isinstance(points, MLLMStep)
    reordered = replace(points, exchanges=tuple(reversed(points.exchanges)))
    assert replay(replace(trace, steps=(prompt, reordered, ask))).difference == ""


def replace_dialect(models: Any) -> Any:
    models.dialect = replace(PLAIN)
    return models


async def test_a_replay_may_be_async() -> None:
    trace = traced(scripted(BOX, SURE))
    result = await replaying(trace).asegment(GREY, "a cat")
    assert trace.result is not None
    assert first_difference(trace.result, result.to_dict(), "result") == ""


# Differences --------------------------------------------------------------------------------------------------------


def test_a_changed_wording_is_reported_with_the_nearest_question() -> None:
    trace = traced(scripted(BOX, SURE))
    dialect = replace(trace.settings.dialect, ask_boxes_text="Where is {expression}?")
    difference = replay(replace(trace, settings=replace(trace.settings, dialect=dialect))).difference
    assert "the model was not asked 'Where is a cat?' when this was recorded" in difference
    assert "the nearest that was recorded is 'Please provide the bounding box" in difference


def test_a_question_after_other_turns_is_not_the_recorded_one() -> None:
    trace = traced(scripted(BOX, SURE))
    dialect = replace(trace.settings.dialect, system="Be brief.")
    difference = replay(replace(trace, settings=replace(trace.settings, dialect=dialect))).difference
    assert difference.endswith(", after other turns")


def test_unused_replies_are_reported() -> None:
    trace = traced(scripted(BOX, SURE))
    ask, points, prompt = trace.steps
    assert isinstance(ask, MLLMStep)
    doubled = replace(ask, exchanges=ask.exchanges * 2)
    difference = replay(replace(trace, steps=(doubled, points, prompt))).difference
    assert difference.startswith("1 questions of the trace were not asked this time, the first: 'Please provide")


def test_a_question_asked_more_often_than_recorded_is_reported() -> None:
    trace = traced(scripted("hmm", "hmm", BOX, SURE))
    difference = replay(replace(trace, steps=(*trace.steps[:2], *trace.steps[3:]))).difference
    assert "comes once more than the 2 times that were recorded" in difference


def test_a_trace_that_is_not_of_a_method_is_refused() -> None:
    trace = traced(scripted(BOX, SURE))
    for other in (replace(trace, expression=None, method=None), replace(trace, method="psychic")):
        with pytest.raises(TraceError, match="replaying"):
            replay(other)


def edit(content: dict[str, Any], *path: Any, to: Any) -> None:
    *parents, last = path
    for key in parents:
        content = content[key]
    assert content[last] != to, "nothing is changed"
    content[last] = to


@pytest.mark.parametrize(
    ("tamper", "expected"),
    [
        pytest.param(lambda content: edit(content, "result", "objects", 0, "score", to=0.5), "objects[0].score", id="a score"),
        pytest.param(lambda content: edit(content, "result", "turns", 2, "text", to="hi"), "turns[2].text", id="a turn"),
        pytest.param(lambda content: edit(content, "result", "notes", to=["all well"]), "result.notes", id="a note"),
        pytest.param(lambda content: edit(content, "result", "objects", to=[]), "result.objects: 0 were", id="no objects"),
        pytest.param(
            lambda content: content["result"].pop("questions"), "result.questions: 'nothing' was", id="a count left out"
        ),
        pytest.param(
            lambda content: edit(content, "result", "objects", 0, "mask", "counts", to=content["tampered"]),
            "the masks differ in",
            id="a mask of the result",
        ),
        pytest.param(
            lambda content: edit(content, "steps", 2, "found", 0, "mask", "counts", to=content["tampered"]),
            "the masks differ in",
            id="a mask that the segmenter gave",
        ),
        pytest.param(
            lambda content: edit(content, "steps", 0, "exchanges", 0, "reply", "text", to="[100,100,500,601]"),
            "was not asked",
            id="a box in a reply",
        ),
        pytest.param(
            lambda content: edit(content, "steps", 1, "exchanges", 0, "reply", "label_probabilities", 0, to=[0.05, 0.95]),
            "no prompt",
            id="a flipped answer",
        ),
        pytest.param(
            lambda content: edit(content, "steps", 1, "exchanges", 0, "reply", "label_probabilities", 2, to=[0.41, 0.59]),
            "point_answers[2].confidence",
            id="a probability of a dropped point",
        ),
        pytest.param(lambda content: edit(content, "expression", to="a dog"), "was not asked", id="the expression"),
        pytest.param(lambda content: edit(content, "settings", "thresholds", "on", to=0.97), "no prompt", id="a threshold"),
        pytest.param(lambda content: edit(content, "began", to="1999"), "seal", id="the date"),
        pytest.param(lambda content: edit(content, "seal", to="0" * 64), "seal", id="the seal"),
    ],
)
def test_an_edited_file_is_detected(tmp_path: Path, tamper: Callable[[dict[str, Any]], object], expected: str) -> None:
    path = tmp_path / "it.json"
    save(traced(scripted(BOX, SURE)), path)
    content = json.loads(path.read_text())
    content["tampered"] = json.loads(json.dumps(other_mask()))
    tamper(content)
    del content["tampered"]
    path.write_text(json.dumps(content))
    assert expected in replay(load(path)).difference


def other_mask() -> str:
    trace = traced(scripted("[100,100,500,700]", Reply("YesYesYesYes")))
    (step,) = (step for step in trace.steps if isinstance(step, SegmentStep))
    return step.objects[0].mask.counts


def test_keys_that_another_version_did_not_write_are_ignored() -> None:
    trace = traced(scripted(BOX, SURE))
    assert trace.result is not None
    older = {key: value for key, value in trace.result.items() if key != "questions"}
    assert replay(replace(trace, result=older)).difference == "result.questions: 'nothing' was recorded, it is 2 this time"
    assert replay(replace(trace, result=older, written_by="0.0.1")).difference == ""


def test_the_number_1_and_true_differ() -> None:
    assert first_difference({"a": 1}, {"a": True}, "x") == "x.a: 1 was recorded, it is True this time"
    assert first_difference([1.0], [1], "x") == ""
