"""Artifacts that a model or a program wrote itself: what a tool makes of them inside an agent and outside of one."""

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.tools import Sam4MllmToolkit
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.tools.test_toolkit import IMAGE_URI, TOOLS, dialogue, in_agent, result, use

DIALOGUE, RESULT = dialogue(), result()
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("check_points", {"dialogue": DIALOGUE, "points": [[20, 20]]}),
    ("segment_prompt", {"dialogue": DIALOGUE}),
    ("refine_segmentation", {"result": RESULT, "clicks": [[20, 20, 1]]}),
    ("describe_image_region", {"result": RESULT}),
]
IDS = [name for name, _ in CALLS]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=IDS)
def test_an_agent_refuses_artifacts_that_the_model_wrote(name: str, arguments: dict[str, Any]) -> None:
    """The image of another thread is in the store that both threads share."""
    assert use(name, **arguments).status == "success"
    for messages in ([], [HumanMessage("hi")], [ToolMessage("", artifact=DIALOGUE, tool_call_id="1")]):
        message = use(name, in_agent(*messages), **arguments)
        assert message.status == "error"
        assert "expected the handle of a" in message.content
        assert message.artifact is None


@pytest.mark.parametrize("forged", [DIALOGUE, {**DIALOGUE, "picture": RESULT["picture"]}], ids=["whole", "another image"])
def test_a_thread_of_a_real_agent_reads_no_image_of_another_thread(forged: dict[str, Any]) -> None:
    tools = Sam4MllmToolkit(sam4mllm=TOOLS["check_points"].sam4mllm, image_store=TOOLS["check_points"].image_store).get_tools()
    model = ScriptedChatModel(answers=[call("check_points", dialogue=forged, runtime=None), "Done."])
    graph = create_agent(model, tools, checkpointer=InMemorySaver())
    messages = graph.invoke({"messages": ["check it"]}, {"configurable": {"thread_id": "1"}})["messages"]
    (answer,) = [message for message in messages if isinstance(message, ToolMessage)]
    assert answer.status == "error"
    assert RESULT["picture"] not in answer.text


BOMB = {"size": [8000, 8000], "counts": rle.encode(rle.decode({"size": [8000, 8000], "counts": [64_000_000]}))["counts"]}


def resize_artifact(artifact: dict[str, Any], width: Any, height: Any) -> dict[str, Any]:
    size = {"width": width, "height": height}
    (segmented,) = RESULT["objects"]
    objects = [{**segmented, "mask": BOMB}] * 2_000
    return {**artifact, "size": size, "objects": objects, "state": {**artifact["state"], "size": size}}


@pytest.mark.parametrize(
    ("width", "height"), [(8000, 8000), (80, 100), (-1, -1), (None, 3), (float("inf"), 1), ([], {})], ids=repr
)
@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=IDS)
def test_an_artifact_of_another_size_than_its_image_is_refused_before_a_mask_is_decoded(
    name: str, arguments: dict[str, Any], width: Any, height: Any
) -> None:
    """Decoded, the masks of one such artifact would take 128 GB."""
    arguments = {
        key: resize_artifact(value, width, height) if isinstance(value, dict) else value for key, value in arguments.items()
    }
    message = use(name, **arguments)
    assert message.status == "error"
    assert "is not of an image of 100 x 80 pixels" in message.content


@pytest.mark.parametrize("kind", [[], {}, None, 3], ids=repr)
def test_an_artifact_of_no_kind_is_refused(kind: Any) -> None:
    message = use("check_points", dialogue={**DIALOGUE, "kind": kind})
    assert "not the artifact of a dialogue" in message.content
    forged = ToolMessage("", artifact={**DIALOGUE, "kind": kind}, tool_call_id="1")
    assert "call propose_boxes first" in use("check_points", in_agent(forged)).content


def test_an_agent_finds_the_latest_result_by_its_handle() -> None:
    runtime = in_agent(ToolMessage("", artifact=RESULT, tool_call_id="1"))
    for handle in ("latest", RESULT["handle"]):
        assert use("describe_image_region", runtime, result=handle).status == "success"


def test_an_image_id_is_looked_up_in_the_conversation_alone() -> None:
    foreign_id = use("propose_boxes", image=IMAGE_URI, expression="the ring").artifact["picture"]
    for name in ("segment_prompt", "describe_image_region"):
        message = use(name, in_agent(HumanMessage("hi")), box=[1, 1, 20, 20], image=foreign_id)
        assert message.status == "error"
        assert "no image in this conversation yet" in message.content
