"""`sam4mllm serve --engine ray`: the same answers, and no accepted request is lost where a replica is killed or replaced."""

import io
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sam4mllm_tool.types import Segmentation
from tests.cluster.ray_cluster import list_actors, serve_on_cluster, wait_until
from tests.results import assert_equal_but_for_rounding
from tests.trace.traced import SEEDS, embedded, scene

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Using extra keyword:DeprecationWarning")]  # Ray's schema


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


def test_many_expressions_in_one_request_are_all_answered(url: str) -> None:
    image, texts = scene(SEEDS[0])
    content = io.BytesIO()
    image.save(content, "PNG")
    many = [texts[number % len(texts)] for number in range(24)]  # more calls than a replica takes at a time
    response = httpx.post(f"{url}/v1/segment", files={"image": content.getvalue()}, data={"expressions": many}, timeout=180)
    assert response.is_success, response.text
    assert [result["expression"] for result in response.json()["results"]] == many


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


def test_no_request_is_lost_while_a_changed_setting_is_rolled_out(url: str, address: str) -> None:
    import ray
    from ray import serve

    from sam4mllm_tool.server.ray_app import build_app

    before = list_actors("ServeReplica:default:")
    pool = {"min_replicas": 2, "max_replicas": 2, "cpus_per_replica": 0.25}
    application = build_app({"mllm": "embedded", "segmenter": "embedded", "method": "box", "max_batch": 8, **pool})
    questions = [(seed, text) for seed in SEEDS for text in scene(seed)[1][:2]] * 4
    ray.init(address=address, log_to_driver=False)
    try:
        with ThreadPoolExecutor(4) as clients:
            answers = [clients.submit(_segment, url, *question) for question in questions]
            serve.run(application, name="default")
            results = [answer.result() for answer in answers]
    finally:
        ray.shutdown()
    assert [result["expression"] for result in results] == [text for _, text in questions]
    assert not set(before) & set(list_actors("ServeReplica:default:"))


def test_the_kuberay_file_is_what_serve_takes() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    from sam4mllm_tool.server.ray_app import build_app

    service = yaml.safe_load((Path(__file__).parents[2] / "deploy" / "kuberay.yml").read_text(encoding="utf-8"))
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (application,) = config.applications
    assert build_app(application.args) is not None
