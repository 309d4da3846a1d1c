"""A server about two rings over a real socket, in a thread of this process; its models are scripted."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.server.app import create_app
from sam4mllm_tool.server.settings import load_settings
from sam4mllm_tool.types import Question, Reply
from tests.server.mcp.mcp_servers import reply_about_rings

__all__ = ["create_ring_models", "serve"]


def create_ring_models(reply: Callable[[Question], Reply] = reply_about_rings) -> Sam4Mllm:
    """Create models that know two rings."""
    return Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=JOINT)


@contextmanager
def serve(models: Sam4Mllm | Callable[[], Sam4Mllm], **settings: Any) -> Iterator[str]:
    """Serve models at a free port of this machine; yield the URL."""
    config = uvicorn.Config(create_app(models, load_settings(**settings)), port=0, log_level="warning", lifespan="on")
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
