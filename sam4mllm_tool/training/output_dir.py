"""The folder of a run: whose it is, whether it is finished, and how things are written into it.

While it runs, `out` holds checkpoints/ and metrics.jsonl. What is to appear whole is written into a folder aside and moved in,
adapter_config.json last: a folder that has it is whole.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sam4mllm_tool.atomic_io import file_sha256, write_json
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.training.config import TrainingConfig, differences

__all__ = ["is_finished", "order_of", "require_own", "take", "writing"]

CHECKPOINTS, LESSONS, WRITING = "checkpoints", "lessons", "writing"
ADAPTER_FILE, RUN_FILE, TRAINING_FILE, METRICS_FILE = "adapter_config.json", "run.json", "training.json", "metrics.jsonl"


def order_of(config: TrainingConfig, lessons: Path, processes: int) -> dict[str, Any]:
    """What makes two runs the same."""
    digest = file_sha256(lessons / CONVERSATIONS_FILE)
    return {"settings": config.to_dict(), "lessons_sha256": digest, "processes": processes}


def require_own(out: Path) -> None:
    """Raises DataError where `out` holds anything but a training run, before anything is built."""
    ours = (out / ADAPTER_FILE).exists() or (out / CHECKPOINTS / RUN_FILE).exists()
    if not ours and out.is_dir() and any(file.name != LESSONS for file in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no training run: choose another folder")


def _compared(out: Path, file: Path, order: dict[str, Any]) -> None:
    """Raises DataError where the file tells of another run."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        before = known["settings"] | {name: known[name] for name in ("lessons_sha256", "processes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} can't be read ({error}): choose another folder") from error
    now = order["settings"] | {name: order[name] for name in ("lessons_sha256", "processes")}
    if changed := differences(before, now):
        raise DataError(f"{out} holds a run with other settings ({'; '.join(changed)}): keep them or choose another folder")


def is_finished(out: Path, order: dict[str, Any]) -> bool:
    if not (out / ADAPTER_FILE).exists():
        return False
    if not (out / TRAINING_FILE).exists():
        raise DataError(f"{out} holds an adapter that was not trained here: choose another folder")
    _compared(out, out / TRAINING_FILE, order)
    return True


def take(out: Path, order: dict[str, Any]) -> None:
    """Makes `out` this run's, or sees that it is."""
    checkpoints = out / CHECKPOINTS
    if (checkpoints / RUN_FILE).exists():
        _compared(out, checkpoints / RUN_FILE, order)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for left in (checkpoints / WRITING, out / WRITING):
        shutil.rmtree(left, ignore_errors=True)
    write_json(checkpoints / RUN_FILE, order)


@contextmanager
def writing(folder: Path, what: str, stays: str) -> Iterator[None]:
    """Raises OSError saying what can't be written, whichever of the libraries below failed at it, and removes the folder."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"{what} can't be written to {folder.parent}: {reason}; {stays}") from error
