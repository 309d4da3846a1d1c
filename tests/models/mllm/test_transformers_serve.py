"""`transformers serve`, a real server, with the embedded MLLM: the answers are those of the model loaded here."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from sam4mllm_tool import Sam4Mllm, load_image
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.protocol import Grid
from sam4mllm_tool.training.merge_adapter import export
from tests.example_scene import EXAMPLE_IMAGE, EXPRESSION

pytestmark = pytest.mark.slow
SERVE = "from transformers.cli.transformers import main; main()"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = export("embedded", tmp_path_factory.mktemp("served") / "pair", dtype="float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        yield f"openai:{folder}@http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    while server.poll() is None:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError("the server ended")


@pytest.mark.parametrize("method", ["box", "pqpp"])
def test_it_gives_the_same_boxes_and_point_answers_as_the_model_loaded_here(spec: str, method: str) -> None:
    local = Sam4Mllm.load("embedded", "embedded", sampler=Grid(3, 3))
    mllm = load_mllm(spec, dialect=local.dialect)
    remote = Sam4Mllm(mllm, local.segmenter, dialect=local.dialect, config=local.config)
    image = load_image(EXAMPLE_IMAGE)
    expected, segmented = (models.segment(image, EXPRESSION, method=method) for models in (local, remote))
    assert [each.prompt.box for each in segmented.objects] == [each.prompt.box for each in expected.objects] != []
    assert [answer.point.label for answer in segmented.point_answers] == [
        answer.point.label for answer in expected.point_answers
    ]
    assert {answer.point.confidence for answer in segmented.point_answers} <= {None}, "it gives no probabilities"
    if method == "box":
        assert np.array_equal(segmented.mask, expected.mask)
    assert segmented.usage.tokens is not None
