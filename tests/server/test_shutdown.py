"""`sam4mllm serve` as a process: it starts, answers, and on SIGTERM finishes what it began."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sam4mllm_tool.client import Client
from sam4mllm_tool.errors import ServiceError
from tests.server.server_process import run_server

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
EXPRESSIONS = ("the ring below the orange circle", "the orange circle", "all rings", "the red ring")


@pytest.mark.slow
def test_what_was_begun_is_answered_after_a_signal_to_end() -> None:
    with run_server() as (process, url):
        with Client(url) as client, ThreadPoolExecutor(8) as pool:
            handle = client.embed(SCENE)
            pending = [pool.submit(client.segment, handle, EXPRESSIONS[i % 4], method="pqpp") for i in range(24)]
            pending[0].result()  # the others are in work, in the queue or on their way
            process.send_signal(signal.SIGTERM)
            outcomes = [future.exception() or future.result() for future in pending]
        answered = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all(result.turns for result in answered)
        assert len(answered) >= 8
        assert all(isinstance(outcome, ServiceError) for outcome in refused)  # those that came after the signal
        assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn raises the signal again when all is done
