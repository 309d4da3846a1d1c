"""The files of a finished run: the adapter, and beside it how to question it, how it was made and on which images."""

import json
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam4mllm_tool import __version__
from sam4mllm_tool.atomic_io import write_json
from sam4mllm_tool.data.image_hashes import TRAINED_IMAGES_FILE, TrainedImages, hash_image
from sam4mllm_tool.data.training_conversations import MANIFEST_FILE, read_conversations
from sam4mllm_tool.models.checkpoints import find_file
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.training.output_dir import ADAPTER_FILE, TRAINING_FILE, WRITING, move_in, removing_on_failure
from sam4mllm_tool.training.starting_point import StartingPoint
from sam4mllm_tool.training.trainer import ConversationTrainer

__all__ = ["RunResult", "write_result"]


@dataclass(frozen=True)
class RunResult:
    """What is written besides the weights.

    Attributes:
        start: What training started from.
        conversations_dir: The training conversations.
        dialect: How the model is questioned.
        about: The content of training.json, but for what is known only now.
    """

    start: StartingPoint
    conversations_dir: Path
    dialect: Dialect
    about: dict[str, Any]


def write_result(out: Path, trainer: ConversationTrainer, result: RunResult) -> None:
    """Write the adapter and what describes it into a temporary folder, then move them into `out`. Raises OSError."""
    part = out / WRITING
    with removing_on_failure(part, "the adapter", "the last checkpoint stays, and the same command will write the adapter"):
        trainer.save_model(str(part))
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            _describe_adapter(part, result)
            (part / TRAINED_IMAGES_FILE).write_text(_list_trained_images(result).to_json(), encoding="utf-8")
            about = {"steps": trainer.state.global_step, "versions": _list_versions()}
            write_json(part / TRAINING_FILE, {**result.about, **about})
            move_in(part, out, last=ADAPTER_FILE)
    trainer.accelerator.wait_for_everyone()


def _describe_adapter(part: Path, result: RunResult) -> None:
    adapter = json.loads((part / ADAPTER_FILE).read_text(encoding="utf-8"))
    write_json(part / ADAPTER_FILE, adapter | {"base_model_name_or_path": result.start.base})
    (part / "README.md").unlink(missing_ok=True)
    dialect = replace(result.dialect, padded=bool(result.dialect.padded))  # the conversations count the image itself
    (part / "dialect.json").write_text(dialect.to_json(), encoding="utf-8")
    if (result.conversations_dir / MANIFEST_FILE).is_file():
        shutil.copyfile(result.conversations_dir / MANIFEST_FILE, part / MANIFEST_FILE)


def _list_trained_images(result: RunResult) -> TrainedImages:
    """Return the images that this run trained on, and those that the adapter it continues was trained on."""
    folder = result.conversations_dir
    paths = {(folder / conversations.image).resolve() for conversations in read_conversations(folder)}
    images = tqdm(sorted(paths), desc="images", mininterval=2, disable=None)
    trained = TrainedImages(frozenset(map(hash_image, images)))
    earlier = find_file(result.start.adapter, TRAINED_IMAGES_FILE) if result.start.adapter else None
    return trained | TrainedImages.from_json(earlier.read_text(encoding="utf-8")) if earlier else trained


def _list_versions() -> dict[str, str]:
    return {"sam4mllm-tool": __version__} | {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
