"""The OpenAPI description: complete, with examples that hold, and kept to by the server whatever schemathesis sends."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.server.api_results import EXAMPLE_IMAGE, EXAMPLE_RESULT
from sam4mllm_tool.types import Segmentation
from tests.server.http_servers import create_ring_models, serve
from tests.tool_suites import load_embedded_models

ROOT = Path(__file__).parents[2]
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with serve(create_ring_models(), auth_token=("secret",)) as url, httpx.Client(base_url=url, headers=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def description(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def list_operations(description: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, each) for path, methods in description["paths"].items() for method, each in methods.items()]


def check_example(content: dict[str, Any], description: dict[str, Any]) -> Any:
    """Return the example of a content, which its schema has to allow."""
    schema, components = content["schema"], description["components"]
    model = components["schemas"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    example = content["example"] if "example" in content else model["examples"][0]
    jsonschema.validate(example, {**model, "components": components})
    return example


def test_every_problem_is_described_with_an_example(description: dict[str, Any]) -> None:
    for path, method, operation in list_operations(description):
        assert operation["summary"], (path, method)
        for status, response in operation["responses"].items():
            if status != "200":
                problem = description["components"]["responses"][response["$ref"].rpartition("/")[2]]
                assert list(problem["content"]) == ["application/problem+json"]
                content = problem["content"]["application/problem+json"]
                check_example(content, description)
                assert content["example"]["status"] == int(status)
        assert ("401" in operation["responses"]) == (path not in ("/healthz", "/readyz"))
        assert ("security" in operation) == ("401" in operation["responses"])


def test_every_body_has_an_example_that_is_answered(client: httpx.Client, description: dict[str, Any]) -> None:
    bodies = {
        path: operation["requestBody"]["content"]
        for path, _, operation in list_operations(description)
        if "requestBody" in operation
    }
    assert set(bodies) == {"/v1/segment", "/v1/embed", "/v1/refine", "/v1/dialogue", "/v1/tools/{tool}", "/v1/chat"}
    result = client.post("/v1/segment", json=bodies["/v1/segment"]["application/json"]["example"]).json()["results"][0]
    for path, content in bodies.items():
        example = check_example(content["application/json"], description)
        answer = client.post(
            path.replace("{tool}", "segment_image"),
            json={**example, "result": result["id"]} if "result" in example else example,
        )
        assert answer.status_code == 200, answer.text


def test_every_answer_has_an_example_of_what_the_server_answers(client: httpx.Client, description: dict[str, Any]) -> None:
    for path, method, operation in list_operations(description):
        contents = operation["responses"]["200"]["content"]
        assert contents, (path, method)
        if contents.get("application/json"):
            example = check_example(contents["application/json"], description)
            if "{" not in path and method == "get":
                assert set(client.get(path).json()) == set(example)


def test_the_examples_are_an_image_and_its_result() -> None:
    image = np.asarray(load_image(EXAMPLE_IMAGE))
    result = Segmentation.from_dict(EXAMPLE_RESULT)
    assert result.to_dict() == {name: value for name, value in EXAMPLE_RESULT.items() if name not in ("id", "image", "outputs")}
    assert np.array_equal(result.mask, (image == (215, 40, 40)).all(axis=-1))


def test_a_server_without_tokens_describes_none() -> None:
    with serve(create_ring_models()) as url:
        description = httpx.get(f"{url}/openapi.json").json()
    assert "securitySchemes" not in description["components"]


@pytest.mark.slow
def test_schemathesis_finds_nothing() -> None:
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
    options = ["--header", "Authorization: Bearer secret", "--max-examples", "12", "--seed", "1", "--no-shrink", "--no-color"]
    settings = ["--generation-database", "none", "--request-timeout", "300", "--continue-on-failure"]
    with serve(load_embedded_models(), auth_token=("secret",)) as url:
        run = [*command, "run", f"{url}/openapi.json", *options, *settings]
        done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Tested: +14", done.stdout), done.stdout
