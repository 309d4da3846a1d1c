"""`sam4mllm serve` as a process of its own, for tests and benchmarks that need one."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

__all__ = ["run_server"]


@contextmanager
def run_server(*options: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the command at a free port; yield it and its URL once its models are loaded.

    Args:
        options: Of the command.
        environment: Variables of the process, besides those of this one.
    """
    command = [sys.executable, "-m", "sam4mllm_tool", "serve", "--port", "0", *options]
    variables = {**os.environ, **environment}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        url = _read_url(process)
        while httpx.get(f"{url}/readyz").status_code != httpx.codes.OK:
            time.sleep(0.2)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def _read_url(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if match := re.search(r"running on (http://\S+)", line):
            return match[1]
    raise RuntimeError("the server did not start")
