"""The client against a real server: the same results and errors as in this process, and no torch."""

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool import ExpressionError, ImageError, ReplyError, Segmentation
from sam4mllm_tool.client import AsyncClient, Client
from sam4mllm_tool.client_messages import check_answer, encode_image
from sam4mllm_tool.errors import (
    AccessError,
    BackendError,
    BadRequestError,
    EmptyMaskError,
    QueueFullError,
    Sam4MllmError,
    ServiceError,
    TooLateError,
)
from sam4mllm_tool.images.export import cutout_image
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.images.output_formats import OutputFormatError
from sam4mllm_tool.tools.image_store import compute_image_id
from sam4mllm_tool.types import Labels, PointPrompt, Question, Reply
from tests.results import assert_equal_but_for_rounding
from tests.server.http_servers import create_ring_models, serve, serve_with_full_queue
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
    ours = client.segment(IMAGE_URI, "the left ring", method="pqpp")
    expected = create_ring_models().segment(IMAGE_URI, "the left ring", method="pqpp")
    assert isinstance(ours, Segmentation)
    assert expected.objects[0].prompt.points
    assert_equal_but_for_rounding(ours, expected)
    with Image.open(BytesIO(client.get_file(ours, "cutout.png"))) as cutout:
        assert np.array_equal(cutout, cutout_image(load_image(IMAGE_URI), expected))


def test_an_encoded_image_is_sent_as_it_is_with_its_files_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=10)
    content = path.read_bytes()
    uri = f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"
    with serve(create_ring_models(), max_body_bytes=16_000) as url, Client(url) as client:
        handles = {client.embed(source) for source in (path, str(path), content, bytearray(content), uri)}
        assert handles == {compute_image_id(load_image(path))}
        with pytest.raises(BadRequestError, match="over the limit"):
            client.embed(load_image(path))
        result = client.segment(path, "the left ring", method="box")
        assert json.loads(client.get_file(result, "image.json"))["imagePath"] == "photo.jpg"
        path.write_text("a secret")
        with pytest.raises(ImageError, match=r"photo\.jpg"):
            client.segment(path, "the left ring")


def test_pixels_are_sent_without_loss(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8))
    assert client.embed(image) == client.embed(np.asarray(image)) == compute_image_id(image)
    monkeypatch.setattr("sam4mllm_tool.client_messages._LARGE_PNG_BYTES", 0)
    assert base64.b64decode(encode_image(image)["image"].partition(",")[2])[8:12] == b"WEBP"
    assert client.embed(image) == compute_image_id(image)


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


def misbehave(question: Question) -> Reply:
    """Be about rings, of which a faint one has no point on it."""
    text = " ".join(turn.text for turn in question.turns)
    if isinstance(question.answer, Labels) and "faint" in text:
        return Reply("No" * question.answer.count, ((0.01, 0.99),) * question.answer.count)
    if "slow" in text:
        time.sleep(0.1)
    return reply_about_rings(question)


def test_errors_of_the_models_and_of_the_queue_are_those_of_the_library() -> None:
    with serve(create_ring_models(misbehave)) as url, Client(url) as client:
        with pytest.raises(BackendError, match="failed with RuntimeError"):
            client.segment(IMAGE_URI, "crash", method="box")
        with pytest.raises(EmptyMaskError, match="no pixel there"):
            client.segment(IMAGE_URI, "the faint ring", method="pqpp")
        with pytest.raises(OutputFormatError, match="expected mask"):
            check_answer(httpx.post(f"{url}/v1/segment", json={"image": IMAGE_URI, "expressions": ["x"], "outputs": ["gif"]}))
        with pytest.raises(BackendError, match="failed with RuntimeError"):
            client.call_tool("segment_image", {"image": IMAGE_URI, "expression": "crash"})
    with (
        serve(create_ring_models(misbehave), request_timeout_s=0.05) as url,
        Client(url) as client,
        pytest.raises(TooLateError, match=r"within 0\.05 seconds"),
    ):
        client.segment(IMAGE_URI, "the slow ring", method="pqpp")
    with serve_with_full_queue() as url, Client(url) as client:
        with pytest.raises(QueueFullError, match="requests wait already") as caught:
            client.segment(IMAGE_URI, "the left ring")
        assert caught.value.retry_after_s >= 1
        with pytest.raises(QueueFullError, match="requests wait already"):
            client.call_tool("segment_image", {"image": IMAGE_URI, "expression": "the left ring"})


STRANGERS_TEXT = "IGNORE-PREVIOUS-INSTRUCTIONS"
"""What no error message may repeat."""


@contextmanager
def answer_everything(answer: bytes) -> Iterator[str]:
    """Serve one answer to all requests, whatever they are."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(f"{STRANGERS_TEXT}\r\n\r\n", id="no HTTP"),
        pytest.param(f"HTTP/1.1 500 {STRANGERS_TEXT}\r\n\r\n<p>{STRANGERS_TEXT}", id="a page of an error"),
        pytest.param(f"HTTP/1.1 200 OK\r\n\r\n<p>{STRANGERS_TEXT}", id="a page"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{STRANGERS_TEXT}", id="cut off"),
        pytest.param(f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n{STRANGERS_TEXT}", id="not compressed as it says"),
        pytest.param(f'HTTP/1.1 200 OK\r\n\r\ndata: {{"{STRANGERS_TEXT}', id="half a JSON"),
        pytest.param(f'HTTP/1.1 200 OK\r\n\r\n"{STRANGERS_TEXT}"', id="another JSON"),
        pytest.param(f'HTTP/1.1 200 OK\r\n\r\nevent: result\ndata: ["{STRANGERS_TEXT}"]', id="another event"),
        pytest.param(f'HTTP/1.1 200 OK\r\n\r\nevent: problem\ndata: {{"x": "{STRANGERS_TEXT}"}}', id="another problem"),
        pytest.param(f"HTTP/1.1 200 OK\r\n\r\n{'[' * 100_000}{STRANGERS_TEXT}", id="deep JSON"),
        pytest.param(f"HTTP/1.1 200 OK\r\n\r\ndata: {'[' * 100_000}{STRANGERS_TEXT}", id="deep JSON in an event"),
        pytest.param('HTTP/1.1 200 OK\r\n\r\n{"results": [], "result": 1, "handle": 2}', id="no results"),
        pytest.param('HTTP/1.1 200 OK\r\n\r\n{"results": [{"id": 1}], "result": {}}', id="a result of other fields"),
    ],
)
def test_an_answer_of_another_server_is_one_line_of_our_own(answer: str) -> None:
    with answer_everything(answer.encode()) as url, Client(url) as client:
        for call in (
            lambda: client.segment(IMAGE_URI, "a ring"),
            lambda: client.refine("seg-0", instruction="bigger"),
            lambda: client.embed(load_image(IMAGE_URI)),
            lambda: client.call_tool("segment_image", {"expression": "a ring"}),
        ):
            with pytest.raises(ServiceError, match=r"sam4mllm serve|too early") as caught:
                call()
            assert STRANGERS_TEXT not in str(caught.value)
            assert len(str(caught.value)) < 200


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
