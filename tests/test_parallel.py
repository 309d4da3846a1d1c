"""Work in several processes: order, bounded memory, errors, and the end of every process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.parallel import QUEUED_PER_PROCESS, map_in_processes

_offset = 0


def set_offset(offset: int) -> None:
    global _offset
    _offset = offset


def add_offset(item: int) -> int:
    if item < 0:
        raise ValueError(f"{item} is negative")
    return item + _offset


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def test_results_come_in_order_and_items_are_read_as_results_are_taken() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(20):
            read.append(item)
            yield item

    results = map_in_processes(add_offset, items(), 2, prepare=set_offset, given=(100,), task="test")
    assert next(results) == 100
    assert len(read) == 2 * QUEUED_PER_PROCESS + 1
    assert list(results) == list(range(101, 120))


def test_an_error_of_the_work_passes_unchanged() -> None:
    with pytest.raises(ValueError, match="-1 is negative"):
        list(map_in_processes(add_offset, iter([1, -1, 2]), 1, prepare=set_offset, given=(0,), task="test"))


def test_a_process_that_dies_is_a_backend_error_that_names_the_task() -> None:
    with pytest.raises(BackendError, match=r"a process of the build died, .* run the same command again to resume"):
        list(map_in_processes(die, iter([1]), 1, prepare=set_offset, given=(0,), task="build"))


PARENT = """
import os, sys, time
from pathlib import Path
from sam4mllm_tool.parallel import map_in_processes

def announce(file):
    Path(file).write_text(str(os.getpid()))

def sleep(_):
    time.sleep(600)

if __name__ == "__main__":
    list(map_in_processes(sleep, iter([1]), 1, prepare=announce, given=(sys.argv[1],), task="test"))
"""


def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    file = tmp_path / "pid"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(file)], env=environment) as parent:
        while not (file.exists() and file.read_text()):
            assert parent.poll() is None
            time.sleep(0.02)
        child = int(file.read_text())
        parent.kill()
    while is_running(child):
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has exited may stay in the table until it is reaped."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
