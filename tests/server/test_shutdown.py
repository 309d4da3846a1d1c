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
from tests.embedded_world import TEST_SEEDS, draw_scene
from tests.server.server_process import run_server

COUNT = 24


def count_accepted(url: str) -> int:
    """Return the number of requests that the server has in its queue or in work."""
    metrics = httpx.get(f"{url}/metrics").text
    return sum(int(float(n)) for n in re.findall(r"^sam4mllm_queue_(?:waiting|in_work) (\S+)$", metrics, re.MULTILINE))


@pytest.mark.slow
def test_what_was_begun_is_answered_after_a_signal_to_end() -> None:
    images = [draw_scene(seed).image for seed in range(TEST_SEEDS, TEST_SEEDS + COUNT)]
    with run_server() as (process, url):
        with Client(url) as client, ThreadPoolExecutor(COUNT) as pool:
            pending = [pool.submit(client.segment, image, "all shapes", method="pqpp") for image in images]
            while count_accepted(url) + sum(future.done() for future in pending) < COUNT:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert not all(future.done() for future in pending)
            results = [future.result() for future in pending]
        assert all(result.turns for result in results)
        assert process.wait(60) in (0, -signal.SIGTERM)  # uvicorn raises the signal again when all is done


@pytest.mark.slow
def test_a_server_whose_models_cannot_be_loaded_ends_and_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam4mllm_tool", "serve", "--port", "0", "--mllm", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode not in (0, -signal.SIGTERM)
    assert str(tmp_path) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
