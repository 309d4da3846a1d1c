"""Segmenting over HTTP, through a real socket."""

import base64
import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.images.export import mask_image
from sam4mllm_tool.types import Segmentation
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI

BODY = {"image": IMAGE_URI, "expressions": ["the left ring", "the zebra"], "method": "box"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serve(create_ring_models()) as url, httpx.Client(base_url=url) as client:
        yield client


def check_problem(response: httpx.Response, status: int, error: str, detail: str) -> None:
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json"), response.text
    assert response.json()["status"] == status
    assert response.json()["error"] == error
    assert detail in response.json()["detail"]
    assert "Traceback" not in response.text


def test_results_come_in_the_order_of_the_expressions_and_equal_those_in_this_process(client: httpx.Client) -> None:
    answer = client.post("/v1/segment", json=BODY)
    assert answer.status_code == 200
    results = [Segmentation.from_dict(result) for result in answer.json()["results"]]
    expected = create_ring_models().segment(IMAGE_URI, "the left ring", method="box")
    assert [len(result.objects) for result in results] == [1, 0]
    assert np.array_equal(results[0].mask, expected.mask)


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_an_expression_that_fails_has_its_problem_in_its_place(client: httpx.Client, accept: str) -> None:
    body = {**BODY, "expressions": ["the left ring", " ", "the zebra"]}
    answer = client.post("/v1/segment", json=body, headers={"Accept": accept})
    last = answer.text.rpartition("event: result\ndata: ")[2]
    ring, problem, zebra = json.loads(last)["results"]
    assert (answer.status_code, len(ring["objects"]), zebra["objects"]) == (200, 1, [])
    assert problem.keys() == {"type", "title", "status", "detail", "error"}
    assert (problem["status"], problem["error"]) == (422, "ExpressionError")


def test_a_form_with_a_file_is_answered_as_json_is(client: httpx.Client) -> None:
    file = base64.b64decode(IMAGE_URI.partition(",")[2])
    form = {"expressions": BODY["expressions"], "method": "box"}
    by_form = client.post("/v1/segment", data=form, files={"image": ("a.png", file, "image/png")}).json()["results"]
    by_json = client.post("/v1/segment", json=BODY).json()["results"]
    assert [result["objects"] for result in by_form] == [result["objects"] for result in by_json]


def test_an_image_is_sent_once_for_many_requests(client: httpx.Client) -> None:
    kept = client.post("/v1/embed", json={"image": IMAGE_URI}).json()
    assert (kept["width"], kept["height"]) == (100, 80)
    answer = client.post("/v1/segment", json={**BODY, "image": kept["image"]})
    assert answer.json()["results"][0]["image"] == kept["image"]


def test_outputs_are_the_files_of_the_command(client: httpx.Client) -> None:
    answer = client.post("/v1/segment", json={**BODY, "outputs": ["mask", "coco"]}).json()["results"][0]
    assert list(answer["outputs"]) == ["mask.png", "coco.json"]
    mask = Image.open(BytesIO(base64.b64decode(answer["outputs"]["mask.png"].partition(",")[2])))
    assert np.array_equal(np.asarray(mask), np.asarray(mask_image(Segmentation.from_dict(answer))))


@pytest.mark.parametrize(
    ("change", "status", "error", "detail"),
    [
        ({"method": "magic"}, 422, "BadRequestError", "'pqpp', 'ppg', 'box', 'points' or 'adaptive'"),
        ({"outputs": ["gif"]}, 422, "OutputFormatError", "mask, instances, overlay"),
        ({"expressions": []}, 422, "BadRequestError", "expressions: List should have at least 1 item"),
        ({"expressions": [" "]}, 422, "ExpressionError", "the expression is empty"),
        ({"image": "img-0123456789ab"}, 404, "UnknownImageError", "no image img-0123456789ab was given before"),
        ({"image": "/etc/hostname"}, 404, "UnknownImageError", "--image-root"),
        ({"image": "http://example.org/a.png"}, 422, "ImageError", "this server opens no URLs"),
        ({"image": "data:image/png;base64,AAAA"}, 422, "ImageError", "in none of the formats"),
        ({"colour": "red"}, 422, "BadRequestError", "colour: Extra inputs are not permitted"),
        ({"expressions": ["crash"]}, 502, "BackendError", "failed with RuntimeError, which was logged"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_a_request_is_said(
    client: httpx.Client, change: dict[str, object], status: int, error: str, detail: str
) -> None:
    check_problem(client.post("/v1/segment", json={**BODY, **change}), status, error, detail)


def test_a_connection_outlives_an_unexpected_error(client: httpx.Client) -> None:
    connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port or 80)
    with closing(connection):
        for expression, status in (("crash", 502), ("the left ring", 200), ("crash", 502)):
            body = json.dumps({**BODY, "expressions": [expression]})
            connection.request("POST", "/v1/segment", body, {"Content-Type": "application/json"})
            first = connection.sock
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, connection.sock is first) == (status, True)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"--x", "multipart/form-data; boundary=y", 400),
        (b"--y\r\n\r\n", "multipart/form-data", 400),
        (b"image=a", "text/plain", 415),
    ],
)
def test_a_body_that_cannot_be_read_is_a_problem(client: httpx.Client, content: bytes, kind: str, status: int) -> None:
    answer = client.post("/v1/segment", content=content, headers={"Content-Type": kind})
    check_problem(answer, status, "BadRequestError", "")


def test_paths_and_methods_that_do_not_exist_are_problems(client: httpx.Client) -> None:
    check_problem(client.get("/v2"), 404, "BadRequestError", "/openapi.json")
    check_problem(client.get("/v1/segment"), 405, "BadRequestError", "/openapi.json")


def test_metrics_count_requests_batches_and_errors(client: httpx.Client) -> None:
    client.post("/v1/segment", json=BODY)
    client.post("/v1/segment", json={**BODY, "expressions": [" "]})
    text = client.get("/metrics").text
    for line in (
        'sam4mllm_requests_total{path="/v1/segment",status="200"}',
        'sam4mllm_errors_total{kind="ExpressionError"}',
        'sam4mllm_stage_seconds_count{stage="mllm"}',
        "sam4mllm_batch_images_count",
        "sam4mllm_queue_waiting 0.0",
    ):
        assert line in text
