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
from sam4mllm_tool.embedded.scenes import Scene
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.tools.image_store import PictureStore
from sam4mllm_tool.trace import Recorder
from sam4mllm_tool.trace.page import page
from tests.agents.scripted_model import call
from tests.tools.conversations import (
    CONVERSATIONS,
    GREEN_SQUARE,
    RED_RING,
    RINGS,
    SQUARES,
    TRIANGLE,
    WHITE_RING,
    Said,
    agent,
    hold,
    inside,
    told,
)


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return Sam4Mllm.load()


def held(name: str, models: Sam4Mllm) -> list[ToolMessage]:
    messages = hold(CONVERSATIONS[name], models, PictureStore(), InMemorySaver(), "thread")
    return [message for message in messages if isinstance(message, ToolMessage)]


def masked(artifact: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    return [rle.decode(thing["mask"]) for thing in artifact["objects"]]


def shows(artifact: dict[str, Any], scene: Scene, *indices: int) -> bool:
    """Whether the masks are those of the objects, in any order."""
    masks = masked(artifact)
    return len(masks) == len(indices) and all(any(mask_iou(mask, scene.mask(i)) > 0.8 for mask in masks) for i in indices)


def test_one_call_gives_the_mask_and_a_region_can_be_described(models: Sam4Mllm) -> None:
    segmented, described = held("one call", models)
    assert shows(segmented.artifact, RINGS, RED_RING)
    assert segmented.artifact["kind"] == "result"
    assert described.status == "success"
    (region,) = described.artifact["regions"]
    assert region["expression"] == "the red ring"
    assert region["text"]


def test_the_protocol_runs_one_turn_a_call_with_points_dropped_and_overruled(models: Sam4Mllm) -> None:
    proposed, checked, again, segmented = held("turn by turn", models)
    assert [message.artifact["kind"] for message in (proposed, checked, again)] == ["dialogue"] * 3
    assert len({message.artifact["handle"] for message in (proposed, checked, again)}) == 3
    (box,) = proposed.artifact["boxes"]
    assert len(checked.artifact["points"][0]) == 9
    assert len(again.artifact["points"][0]) == 10, "earlier answers stay"
    x, y = inside(RINGS, RED_RING)
    *_, asked = again.artifact["points"][0]
    assert (asked["label"], abs(asked["x"] - x) < 2, abs(asked["y"] - y) < 2) == (1, True, True), "the MLLM says it is on it"
    (thing,) = segmented.artifact["objects"]
    assert thing["box"] == box["box"]
    first = checked.artifact["points"][0][0]
    assert first not in thing["points"]
    assert {"x": x, "y": y, "label": 0, "confidence": None} in thing["points"]
    assert asked not in thing["points"], "it was overruled"


def test_words_refine(models: Sam4Mllm) -> None:
    white, red, both = held("refined by words", models)
    assert shows(white.artifact, RINGS, WHITE_RING)
    assert shows(red.artifact, RINGS, RED_RING)
    assert red.artifact["expression"] == "the red ring"
    assert "understood: a new description, 'the red ring'" in red.content
    assert shows(both.artifact, RINGS, RED_RING, TRIANGLE)
    assert [prompt["box"] for prompt in both.artifact["state"]["rejected"]] == [white.artifact["objects"][0]["box"]]


def test_what_the_tools_do_leaves_traces_of_their_results(models: Sam4Mllm) -> None:
    recorder = Recorder(models)
    artifacts = [message.artifact for message in held("refined by words", recorder.models)]
    traces = recorder.traces
    assert len(traces) == len(artifacts)
    for trace, artifact in zip(traces, artifacts, strict=True):
        assert trace.result is not None
        assert [one["mask"] for one in trace.result["objects"]] == [one["mask"] for one in artifact["objects"]]
    assert "1 object" in page(traces[0])


def test_clicks_refine(models: Sam4Mllm) -> None:
    white, red, both = held("refined by clicks", models)
    assert shows(white.artifact, RINGS, WHITE_RING)
    assert shows(red.artifact, RINGS, RED_RING)
    assert shows(both.artifact, RINGS, RED_RING, TRIANGLE)
    assert len(both.artifact["state"]["clicks"]) == 2, "earlier clicks are kept"


def test_two_pictures_are_told_apart(models: Sam4Mllm) -> None:
    first, second, third = held("two pictures", models)
    assert shows(first.artifact, RINGS, RED_RING)
    assert shows(second.artifact, SQUARES, GREEN_SQUARE)
    assert shows(third.artifact, RINGS, TRIANGLE)
    assert first.artifact["picture"] == third.artifact["picture"] != second.artifact["picture"]


def test_a_model_recovers_from_what_it_did_wrong(models: Sam4Mllm) -> None:
    *wrong, segmented, outside, junk, refined = held("recovering", models)
    assert [message.status for message in wrong] == ["error"] * 3
    assert "call segment_image first" in wrong[0].content
    assert "latest" in wrong[1].content
    assert "call propose_boxes first" in wrong[2].content
    assert shows(segmented.artifact, RINGS, RED_RING)
    assert (outside.status, junk.status) == ("error", "error")
    assert "outside the picture of 256 x 256 pixels" in outside.content
    assert "clicks" in junk.content
    assert all(message.artifact is None for message in (*wrong, outside, junk)), "no state comes of an error"
    assert shows(refined.artifact, RINGS, TRIANGLE)


NUMBER = re.compile(r"(?<![\w.-])\d[\d,]*(?:\.\d+)?")
"""A number, and not a part of a picture's id."""


def same(found: Any, expected: Any) -> bool:
    """Whether two processes told the same: handles are new in each, and what is computed differs in its last digits."""
    match expected:
        case {"counts": _}:
            return mask_iou(rle.decode(found), rle.decode(expected)) > 0.98
        case dict():
            compared = expected.keys() - {"handle", "seconds"}
            return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in compared)
        case list():
            return len(found) == len(expected) and all(map(same, found, expected))
        case float():
            return bool(found == pytest.approx(expected, abs=0.01))
        case str():
            words = [re.sub(r"seg-[0-9a-f]{16}", "seg-", text) for text in (found, expected)]
            if NUMBER.sub("", words[0]) != NUMBER.sub("", words[1]):
                return False
            numbers = [[float(digits.replace(",", "")) for digits in NUMBER.findall(text)] for text in words]
            return bool(numbers[0] == pytest.approx(numbers[1], rel=0.02, abs=0.02))
    return bool(found == expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation_goes_on_in_another_process(name: str, tmp_path: Path, models: Sam4Mllm) -> None:
    said, database = CONVERSATIONS[name], str(tmp_path / "db")
    expected = told(hold(said, models, PictureStore(), InMemorySaver(), "thread"))
    with SqliteSaver.from_conn_string(database) as saver:
        hold(said[:1], models, PictureStore(folder=tmp_path / "pictures"), saver, "thread")
    program = [sys.executable, "-m", "tests.tools.conversations", database, str(tmp_path / "pictures"), name, "1"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert same(json.loads(done.stdout), expected)


def test_artifacts_survive_the_checkpointer_as_they_were(tmp_path: Path, models: Sam4Mllm) -> None:
    store = PictureStore()
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        before = told(hold(CONVERSATIONS["turn by turn"], models, store, saver, "thread"))
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as saver:
        graph = agent((), models, store, saver)
        after = told(graph.get_state({"configurable": {"thread_id": "thread"}}).values["messages"])
    assert after == before
    assert json.loads(json.dumps(after)) == after, "plain JSON"


def test_a_handle_is_worthless_in_another_thread(models: Sam4Mllm) -> None:
    store, saver = PictureStore(), InMemorySaver()
    (segmented, _) = told(hold(CONVERSATIONS["one call"], models, store, saver, "mine"))
    handle = segmented["artifact"]["handle"]
    stolen = (
        Said("Refine.", (call("refine_segmentation", result=handle, instruction="bigger"), "Failed."), SQUARES),
        Said("Look.", (call("segment_image", expression="the ring", image=segmented["artifact"]["picture"]), "Failed.")),
    )
    refused, unseen = told(hold(stolen, models, store, saver, "yours"))
    assert (refused["status"], unseen["status"]) == ("error", "error")
    assert "there is no result in this conversation yet" in refused["text"]
    assert "no picture" in unseen["text"]


def test_a_branch_of_the_conversation_goes_on_from_its_own_result(models: Sam4Mllm) -> None:
    said = CONVERSATIONS["refined by words"]
    store, saver = PictureStore(), InMemorySaver()
    graph = agent((said[0], said[1], said[2]), models, store, saver)
    config: Any = {"configurable": {"thread_id": "thread"}}
    graph.invoke({"messages": [said[0].message()]}, config)
    fork = graph.get_state(config).config
    graph.invoke({"messages": [said[1].message()]}, config)
    graph.invoke({"messages": [said[2].message()]}, fork)  # "also the triangle", where the red ring was never asked for
    last = told(graph.get_state(config).values["messages"])[-1]
    assert shows(last["artifact"], RINGS, WHITE_RING, TRIANGLE)


def events(name: str, models: Sam4Mllm) -> list[dict[str, Any]]:
    graph = agent(CONVERSATIONS[name], models, PictureStore(), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread"}}
    return [
        event
        for one in CONVERSATIONS[name]
        for event in graph.stream({"messages": [one.message()]}, config, stream_mode="custom")
    ]


def test_progress_arrives_in_order_boxes_points_mask(models: Sam4Mllm) -> None:
    in_one = events("one call", models)
    assert [event["event"] for event in in_one] == ["boxes", "points", "mask"]
    assert {event["tool"] for event in in_one} == {"segment_image"}
    assert mask_iou(rle.decode(in_one[-1]["objects"][0]["mask"]), RINGS.mask(RED_RING)) > 0.8
    stepwise = events("turn by turn", models)
    assert [event["event"] for event in stepwise] == ["boxes", "points", "points", "mask"]
    assert [len(event["points"]) for event in stepwise[1:3]] == [9, 1], "a round tells its own points"
    assert [event["event"] for event in events("refined by clicks", models)] == ["boxes", "points", "mask"] * 3
    assert json.loads(json.dumps(in_one)) == in_one


async def test_progress_arrives_in_order_where_the_agent_awaits_too(models: Sam4Mllm) -> None:
    (said, _) = CONVERSATIONS["one call"]
    graph = agent([said], models, PictureStore(), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "thread"}}
    stream = graph.astream({"messages": [said.message()]}, config, stream_mode="custom")
    assert [event["event"] async for event in stream] == ["boxes", "points", "mask"]
