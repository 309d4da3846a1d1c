"""The client against a real server: the same results and errors as in this process, and no torch."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from sam4mllm_tool import ExpressionError, ImageError, ReplyError, Segmentation
from sam4mllm_tool.client import AsyncClient, Client
from sam4mllm_tool.errors import AccessError, BadRequestError, Sam4MllmError, ServiceError
from sam4mllm_tool.images.export import cutout_image
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.types import PointPrompt, Question, Reply
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import IMAGE_URI, reply_about_rings


def reply(question: Question) -> Reply:
    return Reply("[1,2") if "gibberish" in question.turns[0].text else reply_about_rings(question)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_ring_models(reply), auth_token="secret") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, token="secret") as client:
        yield client


def test_results_equal_those_in_this_process(client: Client) -> None:
    ours = client.segment(IMAGE_URI, "the left ring", method="box")
    expected = create_ring_models().segment(IMAGE_URI, "the left ring", method="box")
    assert isinstance(ours, Segmentation)
    assert np.array_equal(ours.mask, expected.mask)
    assert (ours.expression, ours.size, ours.turns) == (expected.expression, expected.size, expected.turns)
    image = load_image(IMAGE_URI)
    assert client.get_file(ours, "cutout.png")[:4] == b"\x89PNG"
    assert cutout_image(image, ours).size == image.size


def test_a_kept_image_serves_several_requests_and_a_result_is_corrected(client: Client) -> None:
    handle = client.embed(load_image(IMAGE_URI))
    first, second = client.segment_group(handle, ["the left ring", "the zebra"], method="box")
    assert first.image == second.image == handle
    assert (len(first.objects), len(second.objects)) == (1, 0)
    x1, y1, x2, y2 = first.objects[0].prompt.box
    corrected = client.refine(first, clicks=[PointPrompt((x1 + x2) / 2, (y1 + y2) / 2, 1)])
    assert corrected.id != first.id
    assert corrected.understood


async def test_the_async_client_answers_alike(url: str, client: Client) -> None:
    async with AsyncClient(url, token="secret") as other:
        ours = await other.segment(IMAGE_URI, "the left ring", method="box")
        assert np.array_equal(ours.mask, client.segment(IMAGE_URI, "the left ring", method="box").mask)
        assert await other.info() == client.info()
        with pytest.raises(ExpressionError):
            await other.segment(IMAGE_URI, " ")


def test_an_expression_that_fails_leaves_the_others_their_results(client: Client) -> None:
    empty, ring, gibberish = client.segment_group(IMAGE_URI, [" ", "the left ring", "gibberish"], method="box")
    assert isinstance(empty, ExpressionError)
    assert isinstance(ring, Segmentation)
    assert isinstance(gibberish, ReplyError)
    ours, *_ = create_ring_models(reply).segment_group(IMAGE_URI, ["gibberish"], method="box")
    assert str(gibberish) == str(ours)
    (alone,) = client.segment_group(IMAGE_URI, ["gibberish"], method="box")
    assert (type(alone), str(alone)) == (ReplyError, str(ours))


def test_errors_are_those_of_the_library(client: Client, url: str) -> None:
    with pytest.raises(ExpressionError, match="empty"):
        client.segment(IMAGE_URI, " ")
    with pytest.raises(ImageError, match="does not exist"):
        client.segment("nowhere.png", "a ring")
    with pytest.raises(BadRequestError, match="pqpp"):
        client.segment(IMAGE_URI, "a ring", method="magic")  # type: ignore[arg-type]
    with pytest.raises(Sam4MllmError, match="no result"):
        client.refine("seg-0", instruction="bigger")
    with pytest.raises(Sam4MllmError, match="img-0123456789ab"):
        client.segment("img-0123456789ab", "a ring")
    with Client(url, token="wrong") as stranger, pytest.raises(AccessError, match="Bearer"):
        stranger.info()
    with Client("http://127.0.0.1:9") as lost, pytest.raises(ServiceError, match="sam4mllm serve"):
        lost.info()


@pytest.mark.slow
def test_a_process_without_torch_segments(url: str) -> None:
    program = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = None
from sam4mllm_tool.client import Client
with Client({url!r}, token="secret") as client:
    print(int(client.segment({IMAGE_URI!r}, "the left ring", method="box").mask.sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) > 0
