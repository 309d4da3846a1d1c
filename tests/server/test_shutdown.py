"""`sam4mllm serve` as a process: it starts, answers, and on SIGTERM finishes what it began."""

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from sam4mllm_tool.client import Client
from sam4mllm_tool.errors import ServiceError

SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
EXPRESSIONS = ("the ring below the orange circle", "the orange circle", "all rings", "the red ring")


def start_process() -> tuple["subprocess.Popen[str]", str]:
    """Start the command at a free port; return it and its URL once it listens."""
    command = [sys.executable, "-m", "sam4mllm_tool", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"running on (http://\S+)", line):
            return process, match[1]
    raise AssertionError("the server did not start")


@pytest.mark.slow
def test_what_was_begun_is_answered_after_a_signal_to_end() -> None:
    process, url = start_process()
    try:
        with Client(url) as client, ThreadPoolExecutor(8) as pool:
            while httpx.get(f"{url}/readyz").status_code != 200:  # the models are being loaded
                time.sleep(0.2)
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
    finally:
        process.kill()
        process.communicate()
