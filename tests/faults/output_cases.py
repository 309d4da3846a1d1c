"""Faults while results are written, and of the processes that make them."""

import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import PIL.Image

from sam4mllm_tool.images.export import write_outputs
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.types import Segmentation, Size
from tests.faults.fault_case import FaultCase, attempt, describe
from tests.faults.model_faults import IMAGE
from tests.faults.worker_functions import die, double, prepare_nothing

__all__ = ["list_output_cases"]


_EMPTY = Segmentation("the ring", Size(400, 300), ())


def _write(prepare: Callable[[Path], AbstractContextManager[Path]]) -> str:
    """Write a result into a folder that has a fault, and then once more."""
    image = PIL.Image.fromarray(IMAGE)
    with TemporaryDirectory() as above:
        folder = Path(above) / "out"
        with prepare(folder) as target:
            outcome = attempt(lambda: write_outputs(target, image, _EMPTY))
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        assert not names or names == ["mask.png", "overlay.png", "result.json"], names
        paths = write_outputs(Path(above) / "next", image, _EMPTY)
        assert all(path.stat().st_size for path in paths)
    return describe(outcome)


@contextmanager
def _full_disk(folder: Path) -> Iterator[Path]:
    """Let files grow to some bytes alone, as on a disk that has no more room."""
    folder.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@contextmanager
def _file_in_its_place(folder: Path) -> Iterator[Path]:
    folder.write_bytes(b"")
    yield folder


@contextmanager
def _folder_in_a_files_place(folder: Path) -> Iterator[Path]:
    (folder / "mask.png").mkdir(parents=True)
    yield folder
    (folder / "mask.png").rmdir()


_KILLED = """
import os, pathlib, sys
from sam4mllm_tool.atomic_io import write_files
pathlib.Path.replace = lambda *_: os.kill(os.getpid(), {signal})
write_files(pathlib.Path(sys.argv[1]), {{"mask.png": b"half", "result.json": b"half"}})
"""


def _write_and_die(number: int) -> str:
    """Kill the process between writing files and renaming them: the folder holds the result of before."""
    with TemporaryDirectory() as above:
        folder = Path(above)
        paths = write_outputs(folder, PIL.Image.fromarray(IMAGE), _EMPTY)
        before = [path.read_bytes() for path in paths]
        code = subprocess.run([sys.executable, "-c", _KILLED.format(signal=number), above], check=False).returncode
        assert code == -number
        assert [path.read_bytes() for path in paths] == before
        write_outputs(folder, PIL.Image.fromarray(IMAGE), _EMPTY)
        assert sorted(path.name for path in folder.iterdir()) == ["mask.png", "overlay.png", "result.json"]
    return "the earlier result"


def _kill_worker() -> str:
    start: dict[str, Any] = {"prepare": prepare_nothing, "given": (), "task": "test"}
    outcome = attempt(lambda: list(map_in_processes(die, iter([1, 2]), 1, **start)))
    assert list(map_in_processes(double, iter([1, 2]), 1, **start)) == [2, 4]
    return describe(outcome)


def list_output_cases() -> Iterator[FaultCase]:
    yield FaultCase("the disk is full", "write", lambda: _write(_full_disk))
    yield FaultCase("the folder is a file", "write", lambda: _write(_file_in_its_place))
    yield FaultCase("a file's name is taken by a folder", "write", lambda: _write(_folder_in_a_files_place))
    yield FaultCase("the process is ended (SIGTERM)", "write", lambda: _write_and_die(signal.SIGTERM), is_slow=True)
    yield FaultCase("the process is killed (SIGKILL)", "write", lambda: _write_and_die(signal.SIGKILL), is_slow=True)
    yield FaultCase("a worker process is killed", "batch", _kill_worker, is_slow=True)
