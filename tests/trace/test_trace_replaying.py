"""Replay: the real pipeline on what was recorded, to the same result, and whatever was tampered with is found out."""

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
from sam4mllm_tool.trace.schema import Asked, Prompted
from sam4mllm_tool.types import Reply
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_saved_run_replays_to_the_same_result(tmp_path: Path, method: Method, seed: int) -> None:
    image, expressions = scene(seed)
    for expression in expressions:
        trace = traced(embedded(), image, expression, method)
        save(trace, tmp_path / "it.json.gz", picture=False)
        again = replay(load(tmp_path / "it.json.gz"))
        assert again.difference == ""
        assert again.result is not None
        assert trace.result is not None
        assert again.result.to_dict() | {"seconds": 0} == dict(trace.result) | {"seconds": 0}


def test_what_was_asked_again_comes_in_its_order() -> None:
    trace = traced(scripted("hmm", "[1,2", BOX, "no idea", SURE))
    assert replay(trace).difference == ""


def test_a_replay_asks_by_question_and_not_by_order() -> None:
    trace = traced(replace_dialect(scripted(BOX, *["Yes", "No", "No", "Yes"])))
    ask, points, prompt = trace.steps
    assert isinstance(points, Asked)
    turned = replace(points, exchanges=tuple(reversed(points.exchanges)))
    assert replay(replace(trace, steps=(prompt, turned, ask))).difference == ""


def replace_dialect(models: Any) -> Any:
    models.dialect = replace(PLAIN)
    return models


async def test_async_replays_too() -> None:
    trace = traced(scripted(BOX, SURE))
    result = await replaying(trace).asegment(GREY, "a cat")
    assert trace.result is not None
    assert first_difference(trace.result, result.to_dict(), "result") == ""


# What no longer fits ------------------------------------------------------------------------------------------------


def test_another_wording_is_told_with_the_nearest_question() -> None:
    trace = traced(scripted(BOX, SURE))
    dialect = replace(trace.settings.dialect, ask_boxes_text="Where is {expression}?")
    told = replay(replace(trace, settings=replace(trace.settings, dialect=dialect))).difference
    assert "the model was not asked 'Where is a cat?' when this was recorded" in told
    assert "the nearest that was recorded is 'Please provide the bounding box" in told


def test_a_question_that_was_asked_after_other_turns_is_another_one() -> None:
    trace = traced(scripted(BOX, SURE))
    dialect = replace(trace.settings.dialect, system="Be brief.")
    told = replay(replace(trace, settings=replace(trace.settings, dialect=dialect))).difference
    assert told.endswith(", after other turns")


def test_replies_that_nobody_asks_for_any_more_are_told() -> None:
    trace = traced(scripted(BOX, SURE))
    ask, points, prompt = trace.steps
    assert isinstance(ask, Asked)
    twice = replace(ask, exchanges=ask.exchanges * 2)
    told = replay(replace(trace, steps=(twice, points, prompt))).difference
    assert told.startswith("1 questions of the trace were not asked this time, the first: 'Please provide")


def test_a_question_asked_more_often_than_recorded_is_told() -> None:
    trace = traced(scripted("hmm", "hmm", BOX, SURE))
    told = replay(replace(trace, steps=(*trace.steps[:2], *trace.steps[3:]))).difference
    assert "comes once more than the 2 times that were recorded" in told


def test_a_trace_of_no_method_is_refused() -> None:
    trace = traced(scripted(BOX, SURE))
    for other in (replace(trace, expression=None, method=None), replace(trace, method="psychic")):
        with pytest.raises(TraceError, match="replaying"):
            replay(other)


def change(told: dict[str, Any], *path: Any, to: Any) -> None:
    *way, last = path
    for step in way:
        told = told[step]
    assert told[last] != to, "nothing is changed"
    told[last] = to


@pytest.mark.parametrize(
    ("tamper", "found"),
    [
        pytest.param(lambda told: change(told, "result", "objects", 0, "score", to=0.5), "objects[0].score", id="a score"),
        pytest.param(lambda told: change(told, "result", "turns", 2, "text", to="hi"), "turns[2].text", id="a turn"),
        pytest.param(lambda told: change(told, "result", "notes", to=["all well"]), "result.notes", id="a note"),
        pytest.param(lambda told: change(told, "result", "objects", to=[]), "result.objects: 0 were", id="no objects"),
        pytest.param(lambda told: told["result"].pop("questions"), "result.questions: 'nothing' was", id="a count left out"),
        pytest.param(
            lambda told: change(told, "result", "objects", 0, "mask", "counts", to=told["tampered"]),
            "the masks differ in",
            id="a mask of the result",
        ),
        pytest.param(
            lambda told: change(told, "steps", 2, "found", 0, "mask", "counts", to=told["tampered"]),
            "the masks differ in",
            id="a mask that the segmenter gave",
        ),
        pytest.param(
            lambda told: change(told, "steps", 0, "exchanges", 0, "reply", "text", to="[100,100,500,601]"),
            "was not asked",
            id="a box said",
        ),
        pytest.param(
            lambda told: change(told, "steps", 1, "exchanges", 0, "reply", "label_probabilities", 0, to=[0.05, 0.95]),
            "no prompt",
            id="an answer turned round",
        ),
        pytest.param(
            lambda told: change(told, "steps", 1, "exchanges", 0, "reply", "label_probabilities", 2, to=[0.41, 0.59]),
            "seal",
            id="a probability of a dropped point",
        ),
        pytest.param(lambda told: change(told, "expression", to="a dog"), "was not asked", id="the expression"),
        pytest.param(lambda told: change(told, "settings", "thresholds", "on", to=0.97), "no prompt", id="a threshold"),
        pytest.param(lambda told: change(told, "began", to="1999"), "seal", id="the date"),
        pytest.param(lambda told: change(told, "seal", to="0" * 64), "seal", id="the seal"),
    ],
)
def test_a_tampered_file_is_found_out(tmp_path: Path, tamper: Callable[[dict[str, Any]], object], found: str) -> None:
    path = tmp_path / "it.json"
    save(traced(scripted(BOX, SURE)), path)
    told = json.loads(path.read_text())
    told["tampered"] = json.loads(json.dumps(other_mask()))
    tamper(told)
    del told["tampered"]
    path.write_text(json.dumps(told))
    assert found in replay(load(path)).difference


def other_mask() -> str:
    trace = traced(scripted("[100,100,500,700]", Reply("YesYesYesYes")))
    (step,) = (step for step in trace.steps if isinstance(step, Prompted))
    return step.found[0].mask.counts


def test_what_another_version_did_not_record_is_passed_over() -> None:
    trace = traced(scripted(BOX, SURE))
    assert trace.result is not None
    older = {name: one for name, one in trace.result.items() if name != "questions"}
    assert replay(replace(trace, result=older)).difference == "result.questions: 'nothing' was recorded, it is 2 this time"
    assert replay(replace(trace, result=older, written_by="0.0.1")).difference == ""


def test_one_and_true_differ() -> None:
    assert first_difference({"a": 1}, {"a": True}, "x") == "x.a: 1 was recorded, it is True this time"
    assert first_difference([1.0], [1], "x") == ""
