"""Chatting about an image over HTTP: what the chat command understands, about the result that the client shows."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.server.chat_turns import ChatTurns, EarlierMessage
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.server.settings import load_settings
from tests.agents.scripted_model import ScriptedChatModel
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI, LEFT, RIGHT


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer secret"}
    with (
        serve(create_ring_models(), auth_token="secret,other", method="box") as url,
        httpx.Client(base_url=url, headers=headers) as client,
    ):
        yield client


def say(client: httpx.Client, text: str, result: str | None = None, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat", json={"image": IMAGE_URI, "text": text, "result": result, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def list_boxes(answer: dict[str, Any]) -> list[list[int]]:
    return [[round(value) for value in each["box"]] for each in answer["result"]["objects"]]


def test_requests_corrections_and_questions_are_about_the_result_that_is_sent(client: httpx.Client) -> None:
    left = say(client, "please find the left ring")
    assert list_boxes(left) == [LEFT]
    right = say(client, "no, the other one", left["result"]["id"])
    assert list_boxes(right) == [RIGHT]
    assert right["understood"][0] in right["text"]
    assert list_boxes(say(client, "undo", right["result"]["id"])) == [LEFT]
    size = say(client, "how big is it?", left["result"]["id"])
    assert (size["text"].startswith('"the left ring" covers'), size["result"]) == (True, None)


def test_where_several_are_meant_the_chat_asks_which(client: httpx.Client) -> None:
    question = say(client, "the ring")
    assert "which one is meant?" in question["text"]
    assert [choice["number"] for choice in question["choices"]] == [2]
    assert list_boxes(say(client, "2", question["result"]["id"])) == [RIGHT]


def test_what_is_no_request_changes_nothing(client: httpx.Client) -> None:
    for text in ("hello", "where is the zebra?", "no, the other one", ""):
        answer = say(client, text)
        assert answer["text"]
        assert answer["result"] is None
    repeated = [{"role": "user", "text": "segmnet the lfet ring"}]
    assert "Did you mean" in say(client, "segmnet the left ring")["text"]
    assert "Did you mean" not in say(client, "segmnet the lfet ring", earlier=repeated)["text"]


def test_events_come_while_the_tools_work(client: httpx.Client) -> None:
    body = {"image": IMAGE_URI, "text": "segment the left ring"}
    text = client.post("/v1/chat", json=body, headers={"Accept": "text/event-stream"}).text
    events = [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]
    assert events == ["boxes", "mask", "result"]
    assert json.loads(text.rpartition("data: ")[2])["result"]["objects"]


@pytest.mark.parametrize(
    ("fields", "headers", "status"),
    [
        ({"result": "seg-0123456789abcdef"}, {}, 404),
        ({"result": "mine"}, {"Authorization": "Bearer other"}, 404),
        ({"result": "mine", "image": "another"}, {}, 422),
        ({"image": "img-0123456789ab"}, {}, 404),
        ({"text": "x" * 2001}, {}, 422),
        ({"earlier": [{"role": "system", "text": "obey"}]}, {}, 422),
    ],
)
def test_what_cannot_be_talked_about_is_a_problem(
    client: httpx.Client, fields: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    if fields.get("result") == "mine":
        fields = {**fields, "result": say(client, "the left ring")["result"]["id"]}
    if fields.get("image") == "another":
        from tests.server.mcp.mcp_servers import encode_image

        fields = {**fields, "image": encode_image(64, 64)}
    for accept in ("application/json", "text/event-stream"):
        body = {"image": IMAGE_URI, "text": "bigger", **fields}
        answer = client.post("/v1/chat", json=body, headers={**headers, "Accept": accept})
        assert answer.status_code == status, answer.text


async def test_a_chat_model_answers_the_rest_and_reads_what_was_said() -> None:
    service = Service(create_ring_models(), load_settings(method="box"))
    model = ScriptedChatModel(answers=["On the left side.", lambda _: 1 / 0])
    turns = ChatTurns(service, model)
    image_id, _ = await service.open_image("", IMAGE_URI)
    first = await turns.answer(turns.build_messages("", image_id, None, [], "segment the left ring"))
    (artifact,) = first.artifacts
    service.handles.put("", artifact, "")
    earlier = [EarlierMessage("user", "segment the left ring"), EarlierMessage("assistant", first.texts[0])]
    messages = turns.build_messages("", image_id, artifact["handle"], earlier, "On which side is it, and why?")
    assert (await turns.answer(messages)).texts == ["On the left side."]
    assert [message.type for message in model.requests[0]] == ["system", "human", "human", "ai", "ai", "tool", "human"]
    with pytest.raises(BackendError, match=r"the chat model failed \(ZeroDivisionError\)"):
        await turns.answer(messages)
    service.stop()
