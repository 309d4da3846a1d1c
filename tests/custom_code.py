"""Copies of checkpoints that need Python code of their own; the code leaves a file behind if it runs."""

import json
import shutil
from pathlib import Path
from typing import Any

CUSTOM_PARTS = ("model", "image processor")
"""Parts of any checkpoint that can need custom code; one with text can also need it for its "tokenizer"."""


def copy_with_custom_code(folder: Path, copy: Path, part: str) -> Path:
    """Copy a checkpoint so that a part of it needs its own code; return the file that the code would write."""
    shutil.copytree(folder, copy)
    marker = copy / "it-ran"
    (copy / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    if part == "model":
        _update_json(copy / "config.json", {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    elif part == "tokenizer":
        custom = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
        _update_json(copy / "tokenizer_config.json", custom)
    else:
        custom = {"image_processor_type": "OwnImageProcessor", "auto_map": {"AutoImageProcessor": "own.OwnImageProcessor"}}
        (copy / "preprocessor_config.json").write_text(json.dumps(custom))
        for path in copy.glob("*.json"):  # transformers then chooses the processor by the model and loads its parts one by one
            settings = json.loads(path.read_text(encoding="utf-8"))
            settings.pop("processor_class", None)
            settings.pop("image_processor", None)
            path.write_text(json.dumps(settings))
    return marker


def _update_json(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings))
