"""The output folder of a run: which run it belongs to, whether that is finished, and how files are written into it.

During a run, `out` holds checkpoints/ and metrics.jsonl. The result is written into a temporary folder and then moved in,
adapter_config.json last, so that a folder with that file is complete.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sam4mllm_tool.atomic_io import file_sha256, set_default_permissions, write_json
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.training.config import TrainingConfig, list_differences

__all__ = ["claim_output_dir", "describe_run", "is_finished", "move_in", "removing_on_failure", "require_training_dir"]

CHECKPOINTS, CONVERSATIONS, WRITING = "checkpoints", "lessons", "writing"
ADAPTER_FILE, RUN_FILE, TRAINING_FILE, METRICS_FILE = "adapter_config.json", "run.json", "training.json", "metrics.jsonl"


def describe_run(config: TrainingConfig, conversations_dir: Path, processes: int) -> dict[str, Any]:
    """Describe what decides the result of a run, as run.json and training.json hold it."""
    digest = file_sha256(conversations_dir / CONVERSATIONS_FILE)
    return {"settings": config.to_dict(), "lessons_sha256": digest, "processes": processes}


def require_training_dir(out: Path) -> None:
    """Raise DataError if `out` holds anything but a training run or its training conversations."""
    is_run = (out / ADAPTER_FILE).exists() or (out / CHECKPOINTS / RUN_FILE).exists()
    if not is_run and out.is_dir() and any(file.name != CONVERSATIONS for file in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no training run: choose another folder")


def is_finished(out: Path, description: dict[str, Any]) -> bool:
    """Return whether `out` holds the result of this run. Raises DataError if it holds another run's."""
    if not (out / ADAPTER_FILE).exists():
        return False
    if not (out / TRAINING_FILE).exists():
        raise DataError(f"{out} holds an adapter that was not trained here: choose another folder")
    _require_same_run(out, out / TRAINING_FILE, description)
    return True


def claim_output_dir(out: Path, description: dict[str, Any]) -> None:
    """Make `out` the folder of this run and remove what an interruption left. Raises DataError if it is another run's."""
    checkpoints = out / CHECKPOINTS
    if (checkpoints / RUN_FILE).exists():
        _require_same_run(out, checkpoints / RUN_FILE, description)
    checkpoints.mkdir(parents=True, exist_ok=True)
    for part in (checkpoints / WRITING, out / WRITING):
        shutil.rmtree(part, ignore_errors=True)
    write_json(checkpoints / RUN_FILE, description)


def _require_same_run(out: Path, file: Path, description: dict[str, Any]) -> None:
    try:
        before = _flatten(parse_json(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} can't be read ({error}): choose another folder") from error
    if changed := list_differences(before, _flatten(description)):
        raise DataError(f"{out} holds a run with other settings ({'; '.join(changed)}): keep them or choose another folder")


def _flatten(description: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = description["settings"] | {name: description[name] for name in ("lessons_sha256", "processes")}
    return flat


def move_in(part: Path, out: Path, last: str) -> None:
    """Move all files of `part` into `out`, the one named `last` last, and remove `part`.

    They get the permissions of ordinary new files.
    """
    set_default_permissions(part)
    for path in sorted(part.iterdir(), key=lambda path: path.name == last):
        path.replace(out / path.name)
    part.rmdir()


@contextmanager
def removing_on_failure(part: Path, content: str, consequence: str) -> Iterator[None]:
    """Remove the temporary folder if writing into it fails.

    Args:
        part: The temporary folder.
        content: What is being written, for the message.
        consequence: What remains valid, for the message.

    Raises:
        OSError: Any of the libraries below could not write.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"{content} can't be written to {part.parent}: {reason}; {consequence}") from error
