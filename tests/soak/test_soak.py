"""One instance and one server called 5,000 times, or for half an hour: nothing grows, and no result changes."""

import pytest

from sam4mllm_tool import Sam4Mllm
from tests.server.server_process import run_server
from tests.soak.soak import CALLS, MINUTES, STORE_BYTES, list_library_calls, list_server_calls, soak

pytestmark = [pytest.mark.slow, pytest.mark.hours]


def test_an_instance_does_not_grow() -> None:
    figures = soak(list_library_calls(Sam4Mllm.load("embedded", "embedded")), CALLS, minutes=MINUTES)
    assert figures.is_flat, str(figures)
    assert figures.threads <= 0
    assert figures.handles <= 0
    assert figures.differences == 0


def test_a_server_does_not_grow() -> None:
    with run_server("--store-bytes", str(STORE_BYTES)) as (process, url):
        figures = soak(list_server_calls(url), CALLS, minutes=MINUTES, pid=process.pid)
    assert figures.is_flat, str(figures)
    assert figures.threads <= 0
    assert figures.handles <= 0
    assert figures.differences == 0
