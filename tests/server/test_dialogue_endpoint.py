"""The dialogue turn by turn, and a segmentation's events, over a real socket with the embedded pair."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.types import FreeText, Labels, Question, Segmentation, Turn
from tests.example_scene import EXAMPLE_IMAGE, EXPRESSION, OTHER
from tests.results import assert_equal_json
from tests.server.http_servers import serve
from tests.tool_suites import load_embedded_models

DIALOGUE = {"expression": EXPRESSION, "size": {"width": 512, "height": 512}}


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


@pytest.fixture(scope="module")
def client(models: Sam4Mllm) -> Iterator[httpx.Client]:
    with serve(models, image_root=(EXAMPLE_IMAGE.parent,)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def read_question(fields: dict[str, Any]) -> Question:
    answer = fields["answer"]
    kind = FreeText(answer["max_tokens"]) if answer["kind"] == "FreeText" else Labels(answer["count"], tuple(answer["words"]))
    return Question(tuple(Turn(**turn) for turn in fields["turns"]), kind)


def test_a_dialogue_led_by_the_client_comes_to_the_same_prompts(client: httpx.Client, models: Sam4Mllm) -> None:
    image, rounds = load_image(EXAMPLE_IMAGE), []
    while not (state := client.post("/v1/dialogue", json={**DIALOGUE, "replies": rounds}).json())["done"]:
        replies = models.mllm.reply(image, [read_question(question) for question in state["questions"]])
        rounds.append([{"text": reply.text, "label_probabilities": reply.label_probabilities} for reply in replies])
    assert len(rounds) == 2
    expected = models.segment(image, EXPRESSION, method="pqpp").to_dict()["objects"]
    assert expected
    assert_equal_json(state["prompts"], [{"box": each["box"], "points": each["points"]} for each in expected])


@pytest.mark.parametrize(
    ("change", "status", "detail"),
    [
        ({"expression": ""}, 422, "empty"),
        ({"method": "adaptive"}, 422, "'pqpp', 'ppg', 'box' or 'points'"),
        ({"replies": [[]]}, 422, "replies of round 1: 1 questions are pending, got 0"),
        ({"replies": [[{"text": "no idea"}]]}, 422, "no idea"),
        ({"size": {"width": 0, "height": 1}}, 422, "size.width"),
    ],
)
def test_a_dialogue_that_cannot_go_on_says_why(client: httpx.Client, change: dict[str, Any], status: int, detail: str) -> None:
    response = client.post("/v1/dialogue", json={**DIALOGUE, **change})
    assert response.status_code == status, response.text
    assert detail in response.json()["detail"]


def read_events(client: httpx.Client, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    headers = {"Accept": "text/event-stream"}
    with client.stream("POST", "/v1/segment", json=body, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        blocks = "".join(response.iter_text()).strip().split("\n\n")
    lines = [block.split("\n") for block in blocks]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in lines]


def test_events_tell_boxes_and_points_before_the_result(client: httpx.Client) -> None:
    body = {"image": "scene.png", "expressions": [EXPRESSION, OTHER], "method": "pqpp"}
    events = read_events(client, body)
    for index in (0, 1):
        assert [name for name, event in events if event.get("index") == index] == ["boxes", "points"]
    name, answer = events[-1]
    assert name == "result"
    results = [Segmentation.from_dict(fields) for fields in answer["results"]]
    assert [result.expression for result in results] == body["expressions"]
    boxes = {event["index"]: event["boxes"] for name, event in events if name == "boxes"}
    assert_equal_json(boxes[0], [list(each.prompt.box) for each in results[0].objects])
