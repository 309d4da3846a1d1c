"""A server about two rings over a real socket, in a thread of this process; its models are scripted."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.server.app import create_app
from sam4mllm_tool.server.header_timeout import limit_header_time
from sam4mllm_tool.server.settings import load_settings
from sam4mllm_tool.types import Question, Reply
from tests.server.mcp.mcp_servers import IMAGE_URI, reply_about_rings

__all__ = ["create_ring_models", "serve", "serve_with_full_queue"]


def create_ring_models(reply: Callable[[Question], Reply] = reply_about_rings) -> Sam4Mllm:
    """Create models that know two rings."""
    return Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=JOINT)


@contextmanager
def serve(models: Sam4Mllm | Callable[[], Sam4Mllm], **settings: Any) -> Iterator[str]:
    """Serve models at a free port of this machine; yield the URL."""
    loaded = load_settings(**settings)
    protocol = limit_header_time(loaded.body_timeout_s)
    config = uvicorn.Config(create_app(models, loaded), port=0, http=protocol, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def serve_with_full_queue() -> Iterator[str]:
    """Serve models that work on one request, while another one fills the queue; yield the URL. Both are answered at the end."""
    gate, is_asked = threading.Event(), threading.Event()

    def reply(question: Question) -> Reply:
        is_asked.set()
        assert gate.wait(30)
        return reply_about_rings(question)

    body = {"image": IMAGE_URI, "expressions": ["the left ring"], "method": "box"}
    with serve(create_ring_models(reply), max_batch=1, max_queue=1) as url, ThreadPoolExecutor(2) as pool:
        try:
            pending = [pool.submit(httpx.post, f"{url}/v1/segment", json=body, timeout=60)]
            assert is_asked.wait(30)
            pending.append(pool.submit(httpx.post, f"{url}/v1/segment", json=body, timeout=60))
            while "sam4mllm_queue_waiting 1.0" not in httpx.get(f"{url}/metrics").text:
                assert not pending[1].done()
                time.sleep(0.01)
            yield url
        finally:
            gate.set()
        assert [future.result().status_code for future in pending] == [200, 200]
