"""Many clients at once on a server process with the embedded pair: the benchmark of serving, for two seconds."""

import asyncio

import pytest

from tests.benchmarks.serving import draw_sessions, format_load, measure_load
from tests.server.server_process import run_server


@pytest.mark.slow
def test_many_clients_at_once_are_answered_from_common_calls() -> None:
    sessions = draw_sessions(32, 256, expressions=1)
    with run_server("--request-timeout-s", "600", OMP_NUM_THREADS="1") as (process, url):
        load = asyncio.run(measure_load(url, process.pid, sessions, clients=32, seconds=2))
        assert set(load.statuses) <= {200, 429}, load.statuses
        assert load.latencies
        assert load.batches["16.0"] > 0, load.batches
        assert "32 clients at once" in format_load(load)


@pytest.mark.slow
def test_a_full_queue_is_answered_by_status_429_and_nothing_else() -> None:
    sessions = draw_sessions(16, 256, expressions=1)
    options = ("--max-batch", "2", "--max-queue", "2", "--request-timeout-s", "600")
    with run_server(*options, OMP_NUM_THREADS="1") as (process, url):
        load = asyncio.run(measure_load(url, process.pid, sessions, clients=16, seconds=3))
    assert set(load.statuses) == {200, 429}, load.statuses
