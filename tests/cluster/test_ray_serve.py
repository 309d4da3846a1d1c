"""`sam4mllm serve --engine ray`: the same answers, and no accepted request is lost where a replica is killed."""

import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from sam4mllm_tool.types import Segmentation
from tests.cluster.ray_cluster import list_actors, serve_on_cluster, wait_until
from tests.results import assert_equal_but_for_rounding
from tests.trace.traced import SEEDS, embedded, scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(address: str) -> Iterator[str]:
    """The URL of a server with two replicas of each model, at which nothing answers after its end."""
    with serve_on_cluster(address, "--min-replicas", "2", "--method", "box") as served:
        yield served
    with pytest.raises(httpx.ConnectError):
        httpx.get(served)


def _segment(url: str, seed: int, expression: str) -> dict[str, Any]:
    content = io.BytesIO()
    scene(seed)[0].save(content, "PNG")
    response = httpx.post(
        f"{url}/v1/segment", files={"image": content.getvalue()}, data={"expressions": expression}, timeout=180
    )
    assert response.is_success, response.text
    (result,) = response.json()["results"]
    return dict(result)


def test_answers_are_those_of_the_library(url: str) -> None:
    image, texts = scene(SEEDS[0])
    result = Segmentation.from_dict(_segment(url, SEEDS[0], texts[0]))
    assert_equal_but_for_rounding(result, embedded().segment(image, texts[0], method="box"))
    assert len(list_actors("ServeReplica:default:MLLM")) == len(list_actors("ServeReplica:default:Segmenter")) == 2


def test_no_request_is_lost_where_replicas_are_killed(url: str) -> None:
    questions = [(seed, text) for seed in SEEDS for text in scene(seed)[1][:2]] * 6
    with ThreadPoolExecutor(8) as clients:
        answers = [clients.submit(_segment, url, *question) for question in questions]
        for done, model in ((4, "MLLM"), (12, "Segmenter")):
            wait_until(lambda done=done: sum(answer.done() for answer in answers) >= done)  # type: ignore[misc]
            os.kill(list_actors(f"ServeReplica:default:{model}")[0], signal.SIGKILL)
        results = [answer.result() for answer in answers]
    assert len(results) == 36
    for (seed, text), result in zip(questions, results, strict=True):
        first = results[questions.index((seed, text))]
        assert result["expression"] == text
        assert [each["mask"] for each in result["objects"]] == [each["mask"] for each in first["objects"]]
