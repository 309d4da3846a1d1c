"""Traces over HTTP: what happened on the server, as the page and the file of `sam4mllm trace`."""

import json
from collections.abc import Iterator

import httpx
import pytest

from sam4mllm_tool.client import Client, ServerSegmentation
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.trace.files import from_json
from sam4mllm_tool.trace.replaying import replay
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_ring_models(), auth_token="secret,other") as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Client]:
    with Client(url, token="secret") as client:
        yield client


@pytest.fixture(scope="module")
def rings(client: Client) -> list[ServerSegmentation]:
    outcomes = client.segment_group(IMAGE_URI, ["the left ring", " ", "the zebra", "the left ring"], method="box", trace=True)
    return [outcome for outcome in outcomes if isinstance(outcome, ServerSegmentation)]


def test_each_result_has_the_trace_of_its_own_run(client: Client, rings: list[ServerSegmentation]) -> None:
    traces = [from_json(json.loads(client.get_file(ring, "trace.json"))) for ring in rings]
    assert [trace.expression for trace in traces] == ["the left ring", "the zebra", "the left ring"]
    for trace, ring in zip(traces, rings, strict=True):
        assert not trace.altered
        assert replay(trace).difference == ""
        assert trace.result is not None
        assert len(trace.result["objects"]) == len(ring.objects)


def test_the_page_shows_the_run_and_may_do_nothing(rings: list[ServerSegmentation], url: str) -> None:
    answer = httpx.get(f"{url}/v1/results/{rings[0].id}/trace.html", headers={"Authorization": "Bearer secret"})
    assert "the left ring" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_a_correction_has_its_trace(client: Client, rings: list[ServerSegmentation]) -> None:
    corrected = client.refine(rings[0], instruction="the other one", trace=True)
    assert b"50, 8" in client.get_file(corrected, "trace.html")


def test_a_form_asks_for_a_trace(url: str) -> None:
    with httpx.Client(base_url=url, headers={"Authorization": "Bearer secret"}) as http:
        form = {"image": IMAGE_URI, "expressions": "the left ring", "method": "box"}
        result = http.post("/v1/segment", files={name: (None, text) for name, text in {**form, "trace": "true"}.items()}).json()
        assert http.get(f"/v1/results/{result['results'][0]['id']}/trace.html").status_code == 200
        wrong = http.post("/v1/segment", json={"image": IMAGE_URI, "expressions": ["the left ring"], "trace": "yes"})
        assert (wrong.status_code, wrong.json()["detail"]) == (422, "trace: Input should be a valid boolean")


def test_there_is_no_trace_that_nobody_asked_for_or_that_is_another_clients(
    client: Client, rings: list[ServerSegmentation], url: str
) -> None:
    plain = client.segment(IMAGE_URI, "the left ring", method="box")
    with pytest.raises(Sam4MllmError, match='"trace": true'):
        client.get_file(plain, "trace.html")
    with Client(url, token="other") as stranger, pytest.raises(Sam4MllmError, match='"trace": true'):
        stranger.get_file(rings[0], "trace.json")
