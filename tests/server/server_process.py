"""`sam4mllm serve` as a process of its own, for tests and benchmarks that need one."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx

__all__ = ["run_server"]


@contextmanager
def run_server(*options: str, **environment: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """Run the command at a free port; yield it and its URL once its models are loaded.

    Args:
        options: Of the command.
        environment: Variables of the process, besides those of this one.
    """
    command = [sys.executable, "-m", "sam4mllm_tool", "serve", "--port", "0", *options]
    with NamedTemporaryFile() as log:  # not a pipe, which would fill up: the server logs every run
        variables = {**os.environ, **environment}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=variables)
        try:
            url = _wait_for_url(process, Path(log.name))
            while httpx.get(f"{url}/readyz").status_code != httpx.codes.OK:
                time.sleep(0.2)
            yield process, url
        finally:
            process.kill()
            process.wait()


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    while process.poll() is None:
        if match := re.search(r"running on (http://\S+)", log.read_text(encoding="utf-8")):
            return match[1]
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8')}")
