"""A server that loads its models: what it answers until they are there, and how to have none until then."""

import threading
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.server.app import create_app
from sam4mllm_tool.server.settings import ServerSettings
from tests.server.http_servers import create_ring_models


class SlowLoading:
    """Loads the models once it is let go."""

    def __init__(self) -> None:
        self.may_end, self.has_begun = threading.Event(), threading.Event()

    def __call__(self) -> Sam4Mllm:
        self.has_begun.set()
        assert self.may_end.wait(60)
        return create_ring_models()


@pytest.fixture
def loading() -> Iterator[SlowLoading]:
    loading = SlowLoading()
    yield loading
    loading.may_end.set()


def ask_whether_ready(client: httpx.Client) -> int:
    return client.get("/readyz", headers={"Host": "127.0.0.1"}).status_code


def test_requests_are_refused_while_models_load(loading: SlowLoading) -> None:
    with TestClient(create_app(loading, ServerSettings())) as client:
        assert loading.has_begun.wait(60)
        assert ask_whether_ready(client) == 503


def test_an_application_that_waits_for_its_models_begins_with_them(loading: SlowLoading) -> None:
    client = TestClient(create_app(loading, ServerSettings(), waits_for_models=True))
    statuses: list[int] = []

    def begin() -> None:
        with client:
            statuses.append(ask_whether_ready(client))

    thread = threading.Thread(target=begin)
    thread.start()
    assert loading.has_begun.wait(60)
    assert statuses == []
    loading.may_end.set()
    thread.join(60)
    assert statuses == [200]
