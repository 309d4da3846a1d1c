"""The toolkit over a server: the same texts, artifacts, events and errors as with models of the agent's own process."""

import asyncio
import json
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import ToolException

from sam4mllm_tool import ReasonTool, ReplyError, Sam4MllmToolkit, SegmentTool
from sam4mllm_tool.client import AsyncClient
from sam4mllm_tool.errors import QueueFullError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.tools.server_calls import BusyRetries, ToolCall, ToolServer
from sam4mllm_tool.types import Question, Reply
from tests import openai_servers
from tests.openai_servers import Exchange, Response
from tests.results import assert_equal_json
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI, reply_about_rings

CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("propose_boxes", {"expression": "the left ring"}),
    ("check_points", {"grid": [2, 2]}),
    ("check_points", {"points": [[20, 20]]}),
    ("segment_prompt", {"drop": [1], "points": [{"x": 12, "y": 12, "label": 0}]}),
    ("segment_prompt", {"box": [10, 10, 40, 40]}),
    ("segment_image", {"expression": "the left ring; the zebra"}),
    ("refine_segmentation", {"clicks": [{"x": 70, "y": 20, "label": 1}]}),
    ("refine_segmentation", {"instruction": "undo"}),
    ("describe_image_region", {}),
    ("describe_image_region", {"box": [10, 10, 40, 40]}),
)
WRONG_CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("refine_segmentation", {"instruction": "bigger"}),
    ("propose_boxes", {"expression": "the ring", "image": "img-0123456789ab"}),
    ("segment_image", {"expression": " "}),
    ("segment_image", {"expression": "gibberish"}),
    ("segment_image", {}),
    ("propose_boxes", {"expression": "the left ring"}),
    ("check_points", {"points": [[5000, 10]]}),
    ("segment_prompt", {"drop": [99]}),
    ("segment_prompt", {"box": [0, 0, 0, 0]}),
    ("segment_prompt", {"box": [0, 0, 9, 9], "dialogue": "seg-0123456789abcdef"}),
    ("refine_segmentation", {"result": "seg-0123456789abcdef"}),
)


def reply(question: Question) -> Reply:
    return Reply("hmm") if "gibberish" in question.turns[0].text else reply_about_rings(question)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_ring_models(reply), auth_token="secret,other") as url:
        yield url


@pytest.fixture(scope="module")
def served(url: str) -> Sam4MllmToolkit:
    return Sam4MllmToolkit(server=url, server_token="secret")


def run_calls(toolkit: Sam4MllmToolkit, calls: tuple[tuple[str, dict[str, Any]], ...]) -> list[dict[str, Any]]:
    """Call tools one after another in a conversation about an image; return what came of each, without handles and timings."""
    tools, events = {tool.name: tool for tool in toolkit.get_tools()}, []
    messages: list[Any] = [HumanMessage([{"type": "image_url", "image_url": {"url": IMAGE_URI}}])]
    runtime = SimpleNamespace(state={"messages": messages}, stream_writer=events.append, tool_call_id="call")
    for name, arguments in calls:
        args = {**arguments, "runtime": runtime}
        messages.append(tools[name].invoke({"name": name, "args": args, "id": "call", "type": "tool_call"}))
    answers = [vars(message) | {"artifact": message.artifact} for message in messages[1:]]
    for answer in answers:
        (answer["artifact"] or {}).pop("seconds", None)
    return json.loads(re.sub(r"seg-[0-9a-f]{16}", "seg-", json.dumps([*answers, *events])))


def test_every_tool_gives_on_a_server_what_it_gives_here(served: Sam4MllmToolkit) -> None:
    expected = run_calls(Sam4MllmToolkit(sam4mllm=create_ring_models(reply)), CALLS)
    assert [answer["status"] for answer in expected[: len(CALLS)]] == ["success"] * len(CALLS)
    assert_equal_json(run_calls(served, CALLS), expected)


def test_every_error_of_a_server_is_the_message_that_it_is_here(served: Sam4MllmToolkit) -> None:
    toolkits = (Sam4MllmToolkit(sam4mllm=create_ring_models(reply)), served)
    here, there = (
        [(answer["status"], answer["content"]) for answer in run_calls(toolkit, WRONG_CALLS)[: len(WRONG_CALLS)]]
        for toolkit in toolkits
    )
    assert [status for status, _ in here].count("error") == len(WRONG_CALLS) - 1
    assert there == here


async def test_an_error_of_a_server_has_its_type_where_a_program_turned_messages_off(url: str) -> None:
    tool = SegmentTool(server=url, server_token="secret", handle_tool_error=False)
    with pytest.raises(ToolException) as caught:
        await tool.ainvoke({"image": IMAGE_URI, "expression": "gibberish"})
    assert isinstance(caught.value.__cause__, ReplyError)


@pytest.mark.parametrize(
    ("server", "token", "message"),
    [
        ("http://127.0.0.1:9", None, "Is it running (sam4mllm serve)?"),
        ("", "wrong", "Authorization: Bearer TOKEN"),
        ("ftp://127.0.0.1", None, "can't be reached"),
    ],
    ids=["nobody listens", "wrong token", "no URL of HTTP"],
)
def test_a_server_that_does_not_serve_is_an_answer_for_the_agent(url: str, server: str, token: str, message: str) -> None:
    tool = SegmentTool(server=server or url, server_token=token)
    args = {"image": IMAGE_URI, "expression": "the ring"}
    answer = tool.invoke({"name": tool.name, "args": args, "id": "1", "type": "tool_call"})
    assert (answer.status, message in answer.text) == ("error", True), answer.text


def test_a_conversation_goes_on_with_another_server(served: Sam4MllmToolkit) -> None:
    tool, _, _, _, refine, _ = served.get_tools()
    args = {"image": IMAGE_URI, "expression": "the left ring"}
    first = tool.invoke({"name": tool.name, "args": args, "id": "1", "type": "tool_call"}).artifact
    with serve(create_ring_models(reply)) as other:
        moved = pickle.loads(pickle.dumps(refine)).model_copy(update={"server": other, "image_store": refine.image_store})
        args = {"result": first, "instruction": "smaller"}
        answer = moved.invoke({"name": moved.name, "args": args, "id": "1", "type": "tool_call"})
    assert answer.status == "success", answer.text
    assert answer.artifact["picture"] == first["picture"]


def test_a_call_that_a_busy_server_refuses_waits_as_long_as_it_says_or_longer_and_not_for_ever() -> None:
    retries, error = BusyRetries(limit_s=60), QueueFullError("64 requests wait already", 2.0)
    waits = [retries.choose_wait(error) for _ in range(8)]
    assert all(2 <= wait <= 8 for wait in waits), waits
    assert len(set(waits)) > 1, "agents that were refused at once would come back at once"
    with pytest.raises(QueueFullError):
        BusyRetries(limit_s=1).choose_wait(error)


async def test_a_call_that_finds_the_queue_full_is_sent_again() -> None:
    refusals: list[str] = []

    def answer(_: Exchange) -> Response:
        if refusals:
            return 429, {"error": "QueueFullError", "detail": refusals.pop()}, {"Retry-After": "0"}
        return 200, 'event: result\ndata: {"text": "done", "artifact": {}}\n\n', {}

    call = ToolCall("segment_image", {"expression": "the ring"}, load_image(IMAGE_URI), [], "box", None)
    with openai_servers.serve(answer) as scripted:
        server = ToolServer(scripted.url.removesuffix("/v1"))
        refusals += ["64 requests wait already, which is the limit"] * 2
        assert server.run(call) == ("done", {})
        refusals += ["64 requests wait already, which is the limit"] * 2
        assert await server.arun(call) == ("done", {})
    assert len(scripted.exchanges) == 6


def test_files_are_written_where_the_agent_runs(url: str, tmp_path: Path) -> None:
    tool = SegmentTool(server=url, server_token="secret", output_folder=tmp_path)
    args = {"image": IMAGE_URI, "expression": "the left ring", "outputs": ["mask"]}
    answer = tool.invoke({"name": tool.name, "args": args, "id": "1", "type": "tool_call"})
    assert answer.artifact["files"] == [str(tmp_path / answer.artifact["handle"] / "mask.png")]
    assert Path(answer.artifact["files"][0]).exists()


def test_a_tool_has_models_or_a_server_and_shows_no_token(url: str) -> None:
    with pytest.raises(ValueError, match="either server or mllm"):
        SegmentTool(server=url, mllm="embedded")
    with pytest.raises(ValueError, match="either server or sam4mllm"):
        Sam4MllmToolkit(server=url, sam4mllm=create_ring_models())
    with pytest.raises(ValueError, match="ReasonTool doesn't work on a server"):
        ReasonTool(server=url)
    assert "secret" not in repr(SegmentTool(server=url, server_token="secret"))


@pytest.fixture(scope="module")
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}) as client:
        yield client


def test_any_client_calls_tools_one_after_another_by_handles(http: httpx.Client) -> None:
    body = {"arguments": {"image": IMAGE_URI, "expression": "the left ring"}, "method": "box"}
    first = http.post("/v1/tools/segment_image", json=body).json()
    handle = first["artifact"]["handle"]
    assert f"result {handle}" in first["text"]
    second = http.post("/v1/tools/describe_image_region", json={"arguments": {"result": handle}}).json()
    assert "a grey area" in second["text"]
    assert http.get(f"/v1/results/{handle}/mask.png").content[1:4] == b"PNG"


def test_what_one_token_made_another_cannot_use(http: httpx.Client) -> None:
    body = {"arguments": {"image": IMAGE_URI, "expression": "the left ring"}, "method": "box"}
    artifact = http.post("/v1/tools/segment_image", json=body).json()["artifact"]
    other = {"Authorization": "Bearer other"}
    for body in (
        {"arguments": {"result": artifact["handle"]}},
        {"arguments": {"result": artifact["handle"]}, "artifacts": [artifact]},
        {"arguments": {"image": artifact["picture"], "box": [1, 1, 9, 9]}},
        {"arguments": {"box": [1, 1, 9, 9]}, "artifacts": [{**artifact, "origin": "opened"}]},
    ):
        assert http.post("/v1/tools/describe_image_region", json=body, headers=other).status_code == 404


@pytest.mark.parametrize(
    ("tool", "body", "status", "detail"),
    [
        ("segment", {}, 404, "segment_image"),
        ("segment_image", {"arguments": {}}, 422, "expression"),
        ("segment_image", {"arguments": []}, 422, "arguments"),
        ("segment_image", {"arguments": {"expression": "a ring", "image": "/etc/hostname"}}, 404, "--image-root"),
        ("segment_image", {"arguments": {"expression": "a ring", "image": IMAGE_URI}, "method": "magic"}, 422, "pqpp"),
        ("check_points", {"arguments": {"dialogue": {"handle": "seg-0"}}}, 404, "got an object"),
        ("check_points", {"artifacts": [{}] * 21}, 422, "at most 20"),
    ],
)
def test_a_call_that_no_tool_takes_is_a_problem(http: httpx.Client, tool: str, body: Any, status: int, detail: str) -> None:
    for accept in ("application/json", "text/event-stream"):
        answer = http.post(f"/v1/tools/{tool}", json=body, headers={"Accept": accept})
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text


_AGENT_WITHOUT_TORCH = """
import sys, warnings
for name in ("torch", "transformers", "peft", "safetensors", "huggingface_hub", "tokenizers"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
from langchain_core.messages import HumanMessage
from sam4mllm_tool import Sam4MllmToolkit, create_segmentation_agent
from tests.agents.scripted_model import ScriptedChatModel, call

url, image = sys.argv[1:]
calls = [call("segment_image", expression="the left ring"), call("refine_segmentation", instruction="the other one"), "Done."]
agent = create_segmentation_agent(ScriptedChatModel(answers=calls), toolkit=Sam4MllmToolkit(server=url, server_token="secret"))
block = {"type": "image_url", "image_url": {"url": image}}
for message in agent.invoke({"messages": [HumanMessage([block])]})["messages"]:
    print(message.text)
assert not [name for name in ("torch", "transformers") if sys.modules.get(name)]
"""


@pytest.mark.slow
def test_an_agent_in_a_process_without_torch_segments_and_corrects(url: str) -> None:
    command = [sys.executable, "-c", _AGENT_WITHOUT_TORCH, url, IMAGE_URI]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"the left ring": 1 object in the image' in done.stdout
    assert "understood: " in done.stdout
    assert done.stdout.rstrip().endswith("Done.")


async def test_a_call_that_is_cancelled_is_dropped_on_the_server() -> None:
    gate, is_asked, questions = threading.Event(), threading.Event(), list[str]()

    def wait(question: Question) -> Reply:
        questions.append(question.turns[-1].text)
        is_asked.set()
        assert gate.wait(30)
        return reply_about_rings(question)

    with serve(create_ring_models(wait), max_batch=1) as url:
        try:
            async with asyncio.timeout(60), AsyncClient(url) as client:
                image = await client.embed(load_image(IMAGE_URI))
                arguments = {"image": image, "expression": "the left ring"}
                first = asyncio.create_task(client.call_tool("segment_image", arguments))
                assert await asyncio.to_thread(is_asked.wait, 30)
                second = asyncio.create_task(client.call_tool("segment_image", arguments | {"expression": "the purple ring"}))
                while "sam4mllm_queue_waiting 1.0" not in httpx.get(f"{url}/metrics").text:
                    await asyncio.sleep(0.01)
                second.cancel()
                await asyncio.wait([second])
                await asyncio.sleep(0.2)  # the server hears of the closed connection
                gate.set()
                await first
                await client.call_tool("segment_image", arguments)
        finally:
            gate.set()
        metrics = httpx.get(f"{url}/metrics").text
    assert 'sam4mllm_dropped_total{reason="cancelled"} 1.0' in metrics
    assert not [question for question in questions if "purple" in question]
