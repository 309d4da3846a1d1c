"""The tools in real agents: `create_agent`, a scripted chat model, the embedded pair; in one process and over restarts."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.trace import Recorder
from sam4mllm_tool.trace.page import page
from tests.agents.scripted_model import call
from tests.embedded_world import EverydayScene
from tests.grouped_scenes import PAIR, SECOND_PAIR
from tests.tool_suites import load_embedded_models
from tests.tools.conversations import (
    CONVERSATIONS,
    FIRST,
    FIRST_NAME,
    OTHER,
    SECOND,
    TARGET,
    UserTurn,
    create_scripted_agent,
    find_pixel_inside,
    list_tool_outputs,
    run_conversation,
)


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


def run_tools(name: str, models: Sam4Mllm) -> list[ToolMessage]:
    messages = run_conversation(CONVERSATIONS[name], models, ImageStore(), InMemorySaver(), "thread")
    return [message for message in messages if isinstance(message, ToolMessage)]


def covers(artifact: dict[str, Any], scene: EverydayScene, *indices: int) -> bool:
    """Whether the masks are those of the objects, in any order."""
    masks: list[np.ndarray[Any, Any]] = [rle.decode(fields["mask"]) for fields in artifact["objects"]]
    return len(masks) == len(indices) and all(any(mask_iou(mask, scene.mask(i)) > 0.8 for mask in masks) for i in indices)


def test_one_call_gives_the_mask_and_a_region_can_be_described(models: Sam4Mllm) -> None:
    segmented, described = run_tools("one call", models)
    assert covers(segmented.artifact, PAIR.scene, FIRST)
    assert segmented.artifact["kind"] == "result"
    assert described.status == "success"
    (region,) = described.artifact["regions"]
    assert region["expression"] == FIRST_NAME
    assert region["text"]


def test_the_protocol_runs_one_turn_a_call_with_points_dropped_and_overruled(models: Sam4Mllm) -> None:
    proposed, checked, again, segmented = run_tools("turn by turn", models)
    assert [message.artifact["kind"] for message in (proposed, checked, again)] == ["dialogue"] * 3
    assert len({message.artifact["handle"] for message in (proposed, checked, again)}) == 3
    (box,) = proposed.artifact["boxes"]
    assert len(checked.artifact["points"][0]) == 9
    assert len(again.artifact["points"][0]) == 10, "earlier answers stay"
    x, y = find_pixel_inside(PAIR.scene, FIRST)
    *_, overruled = again.artifact["points"][0]
    assert (overruled["label"], abs(overruled["x"] - x) < 2, abs(overruled["y"] - y) < 2) == (1, True, True), (
        "the MLLM says it is on it"
    )
    (segmented_object,) = segmented.artifact["objects"]
    assert segmented_object["box"] == box["box"]
    first = checked.artifact["points"][0][0]
    assert first not in segmented_object["points"]
    assert {"x": x, "y": y, "label": 0, "confidence": None} in segmented_object["points"]
    assert overruled not in segmented_object["points"], "it was overruled"


def test_words_refine(models: Sam4Mllm) -> None:
    second, first, both = run_tools("refined by words", models)
    assert covers(second.artifact, PAIR.scene, SECOND)
    assert covers(first.artifact, PAIR.scene, FIRST)
    assert first.artifact["expression"] == FIRST_NAME
    assert f"understood: a new description, '{FIRST_NAME}'" in first.content
    assert covers(both.artifact, PAIR.scene, FIRST, OTHER)
    assert [prompt["box"] for prompt in both.artifact["state"]["rejected"]] == [second.artifact["objects"][0]["box"]]


@pytest.mark.slow
def test_a_recorder_traces_every_tool_call(models: Sam4Mllm) -> None:
    recorder = Recorder(models)
    artifacts = [message.artifact for message in run_tools("refined by words", recorder.models)]
    traces = recorder.traces
    assert len(traces) == len(artifacts)
    for trace, artifact in zip(traces, artifacts, strict=True):
        assert trace.result is not None
        assert [fields["mask"] for fields in trace.result["objects"]] == [fields["mask"] for fields in artifact["objects"]]
    assert "1 object" in page(traces[0])


def test_clicks_refine(models: Sam4Mllm) -> None:
    second, first, both = run_tools("refined by clicks", models)
    assert covers(second.artifact, PAIR.scene, SECOND)
    assert covers(first.artifact, PAIR.scene, FIRST)
    assert covers(both.artifact, PAIR.scene, FIRST, OTHER)
    assert len(both.artifact["state"]["clicks"]) == 2, "earlier clicks are kept"


def test_tools_work_on_the_image_that_the_call_names(models: Sam4Mllm) -> None:
    first, second, third = run_tools("two images", models)
    assert covers(first.artifact, PAIR.scene, FIRST)
    assert covers(second.artifact, SECOND_PAIR.scene, TARGET)
    assert covers(third.artifact, PAIR.scene, OTHER)
    assert first.artifact["picture"] == third.artifact["picture"] != second.artifact["picture"]


def test_a_model_recovers_from_its_mistakes(models: Sam4Mllm) -> None:
    *wrong, segmented, outside, junk, refined = run_tools("recovering", models)
    assert [message.status for message in wrong] == ["error"] * 3
    assert "call segment_image first" in wrong[0].content
    assert "latest" in wrong[1].content
    assert "call propose_boxes first" in wrong[2].content
    assert covers(segmented.artifact, PAIR.scene, FIRST)
    assert (outside.status, junk.status) == ("error", "error")
    assert "outside the" in outside.content
    assert "clicks" in junk.content
    assert all(message.artifact is None for message in (*wrong, outside, junk)), "no state comes of an error"
    assert covers(refined.artifact, PAIR.scene, OTHER)


NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?")
"""A number that is no part of an image id."""


def is_same(actual: Any, expected: Any) -> bool:
    """Whether two processes returned the same: handles are new in each, and figures differ in their last digits."""
    match expected:
        case {"counts": _}:
            return mask_iou(rle.decode(actual), rle.decode(expected)) > 0.98
        case dict():
            compared = expected.keys() - {"handle", "seconds"}
            return actual.keys() == expected.keys() and all(is_same(actual[key], expected[key]) for key in compared)
        case list():
            return len(actual) == len(expected) and all(map(is_same, actual, expected))
        case float():
            return bool(actual == pytest.approx(expected, abs=0.01))
        case str():
            words = [re.sub(r"seg-[0-9a-f]{16}", "seg-", text) for text in (actual, expected)]
            if NUMBER.sub("", words[0]) != NUMBER.sub("", words[1]):
                return False
            numbers = [[float(digits.replace(",", "")) for digits in NUMBER.findall(text)] for text in words]
            return bool(numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02))
    return bool(actual == expected)


@pytest.mark.slow
def test_conversations_go_on_in_another_process(tmp_path: Path, models: Sam4Mllm) -> None:
    database, folder, expected = str(tmp_path / "db"), tmp_path / "images", {}
    for name, turns in CONVERSATIONS.items():
        expected[name] = list_tool_outputs(run_conversation(turns, models, ImageStore(), InMemorySaver(), name))
        with SqliteSaver.from_conn_string(database) as saver:
            run_conversation(turns[:1], models, ImageStore(folder=folder), saver, name)
    program = [sys.executable, "-m", "tests.tools.conversations", database, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    outputs = json.loads(done.stdout)
    assert [name for name in CONVERSATIONS if not is_same(outputs[name], expected[name])] == []


def test_artifacts_survive_the_checkpointer_as_they_were(tmp_path: Path, models: Sam4Mllm) -> None:
    store = ImageStore()
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        before = list_tool_outputs(run_conversation(CONVERSATIONS["turn by turn"], models, store, saver, "thread"))
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = create_scripted_agent((), models, store, saver)
        after = list_tool_outputs(graph.get_state({"configurable": {"thread_id": "thread"}}).values["messages"])
    assert after == before
    assert json.loads(json.dumps(after)) == after, "plain JSON"


def test_a_handle_is_worthless_in_another_thread(models: Sam4Mllm) -> None:
    store, saver = ImageStore(), InMemorySaver()
    (segmented, _) = list_tool_outputs(run_conversation(CONVERSATIONS["one call"], models, store, saver, "mine"))
    handle = segmented["artifact"]["handle"]
    stolen = (
        UserTurn("Refine.", (call("refine_segmentation", result=handle, instruction="bigger"), "Failed."), SECOND_PAIR.scene),
        UserTurn("Look.", (call("segment_image", expression=PAIR.singular, image=segmented["artifact"]["picture"]), "Failed.")),
    )
    refused, unknown = list_tool_outputs(run_conversation(stolen, models, store, saver, "yours"))
    assert (refused["status"], unknown["status"]) == ("error", "error")
    assert "there is no result in this conversation yet" in refused["text"]
    assert "no image" in unknown["text"]


def test_a_branch_of_the_conversation_goes_on_from_its_own_result(models: Sam4Mllm) -> None:
    turns = CONVERSATIONS["refined by words"]
    store, saver = ImageStore(), InMemorySaver()
    graph = create_scripted_agent((turns[0], turns[1], turns[2]), models, store, saver)
    config: Any = {"configurable": {"thread_id": "thread"}}
    graph.invoke({"messages": [turns[0].message()]}, config)
    fork = graph.get_state(config).config
    graph.invoke({"messages": [turns[1].message()]}, config)
    graph.invoke({"messages": [turns[2].message()]}, fork)  # the third turn, where the second never was
    last = list_tool_outputs(graph.get_state(config).values["messages"])[-1]
    assert covers(last["artifact"], PAIR.scene, SECOND, OTHER)


def collect_events(name: str, models: Sam4Mllm) -> list[dict[str, Any]]:
    graph = create_scripted_agent(CONVERSATIONS[name], models, ImageStore(), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread"}}
    return [
        event
        for turn in CONVERSATIONS[name]
        for event in graph.stream({"messages": [turn.message()]}, config, stream_mode="custom")
    ]


def test_progress_arrives_in_order_boxes_points_mask(models: Sam4Mllm) -> None:
    whole = collect_events("one call", models)
    assert [event["event"] for event in whole] == ["boxes", "points", "mask"]
    assert {event["tool"] for event in whole} == {"segment_image"}
    assert mask_iou(rle.decode(whole[-1]["objects"][0]["mask"]), PAIR.scene.mask(FIRST)) > 0.8
    stepwise = collect_events("turn by turn", models)
    assert [event["event"] for event in stepwise] == ["boxes", "points", "points", "mask"]
    assert [len(event["points"]) for event in stepwise[1:3]] == [9, 1], "an event has the points of its own round"
    assert [event["event"] for event in collect_events("refined by clicks", models)] == ["boxes", "points", "mask"] * 3
    assert json.loads(json.dumps(whole)) == whole


async def test_progress_arrives_in_order_where_the_agent_awaits_too(models: Sam4Mllm) -> None:
    (turn, _) = CONVERSATIONS["one call"]
    graph = create_scripted_agent([turn], models, ImageStore(), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread"}}
    stream = graph.astream({"messages": [turn.message()]}, config, stream_mode="custom")
    assert [event["event"] async for event in stream] == ["boxes", "points", "mask"]
