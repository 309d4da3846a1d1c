"""Checkpoints that bring code of their own, which leaves a mark when it runs."""

import json
import shutil
from pathlib import Path
from typing import Any

OWN_CODE = ("model", "image processor")
"""Parts of a checkpoint that can need it."""


def add_own_code(folder: Path, copy: Path, part: str) -> Path:
    """Copy a checkpoint so that a part of it needs its own code; returns the file that the code would write."""
    shutil.copytree(folder, copy)
    marker = copy / "it-ran"
    (copy / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    if part == "model":
        _change(copy / "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
        return marker
    own = {"image_processor_type": "OwnImageProcessor", "auto_map": {"AutoImageProcessor": "own.OwnImageProcessor"}}
    (copy / "preprocessor_config.json").write_text(json.dumps(own))
    for path in copy.glob("*.json"):  # without it, the processor is found by the model, and its parts are asked about
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("processor_class", None)
        settings.pop("image_processor", None)
        path.write_text(json.dumps(settings))
    return marker


def _change(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings))
