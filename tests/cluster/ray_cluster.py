"""A Ray cluster on this machine, with a folder and ports of its own, and the processes that work there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

__all__ = ["list_actors", "serve_on_cluster", "start_cluster", "start_command", "wait_until"]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


@contextmanager
def start_cluster(cpus: int = 2) -> Iterator[str]:
    """Start a cluster of one machine, and yield its address."""
    ray = shutil.which("ray", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    words = [str(ray), "start", "--head", "--block", f"--num-cpus={cpus}", "--port=0", "--node-ip-address=127.0.0.1"]
    words += ["--include-dashboard=false", f"--object-store-memory={256 * 2**20}"]
    for is_last in (False, False, True):  # it gives up after 30 seconds where the machine is busy
        folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # the paths of its sockets have to be short
        log = folder / "start.log"
        with log.open("wb") as output:
            head = subprocess.Popen(
                [*words, f"--temp-dir={folder}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | ENVIRONMENT,
                start_new_session=True,
            )
        try:
            wait_until(lambda log=log, head=head: "--address='" in log.read_text() or head.poll() is not None)  # type: ignore[misc]
            if head.poll() is None:
                yield log.read_text().split("--address='")[1].split("'")[0]
                return
            if is_last:
                raise RuntimeError(log.read_text())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)  # its daemons end with it
            head.wait()
            shutil.rmtree(folder, ignore_errors=True)


def start_command(*words: str | Path) -> subprocess.Popen[str]:
    """Start `sam4mllm` in a process of its own."""
    command = [sys.executable, "-m", "sam4mllm_tool", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)


@contextmanager
def serve_on_cluster(address: str, *options: str) -> Iterator[str]:
    """Run `sam4mllm serve --engine ray` with these options, a quarter of a core a replica; yield its URL once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = ("--engine", "ray", "--address", address, "--port", str(port), "--cpus-per-replica", "0.25")
    server = start_command("serve", *place, *options)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_ready(url) or server.poll() is not None, seconds=600)
        if server.poll() is not None:
            raise RuntimeError(server.communicate()[1])
        yield url
    finally:
        server.terminate()
        server.communicate(timeout=60)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.HTTPError:
        return False


def list_actors(name: str) -> list[int]:
    """Return the processes whose title names an actor class."""
    processes = []
    for folder in Path("/proc").iterdir():
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
        except (OSError, NotADirectoryError):
            continue
        if folder.name.isdigit() and title.startswith("ray::") and name in title:
            processes.append(int(folder.name))
    return sorted(processes)


def wait_until(is_true: Callable[[], bool], describe: Callable[[], str] = lambda: "", seconds: float = 120) -> None:
    """Wait for something to become true. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(describe())
        time.sleep(0.05)
