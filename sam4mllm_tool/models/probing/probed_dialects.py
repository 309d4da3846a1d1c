"""The dialects that were measured, kept in the user's cache folder: one file for each model, server and version.

The folder is `$SAM4MLLM_CACHE`, else `$XDG_CACHE_HOME/sam4mllm-tool`, else `~/.cache/sam4mllm-tool`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from sam4mllm_tool.atomic_io import write_text
from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.protocol import Dialect

__all__ = ["cache_folder", "has_probed_dialects", "load_probed_dialect", "save_probed_dialect"]


def cache_folder() -> Path:
    """Return the folder of everything that this package keeps between runs."""
    if own := os.environ.get("SAM4MLLM_CACHE"):
        return Path(own).expanduser()
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "sam4mllm-tool"  # XDG: a relative one is invalid


def has_probed_dialects() -> bool:
    """Return whether any model's dialect is kept; finding out a model's identity may take a query to the hub."""
    return _folder().is_dir()


def load_probed_dialect(identity: Mapping[str, str | None]) -> Dialect | None:
    """Return the dialect that was measured for a model, or None.

    Args:
        identity: What tells models and their versions apart, as `metadata.identify_mllm` returns it.

    Raises:
        SpecError: The file can't be read.
    """
    file = _file(identity)
    try:
        return Dialect.from_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SpecError(f"{file}: {error}; delete the file, or run 'sam4mllm probe' again") from error


def save_probed_dialect(identity: Mapping[str, str | None], dialect: Dialect) -> Path:
    """Keep the dialect that was measured for a model, and return the file. Raises OSError."""
    file = _file(identity)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, dialect.to_json())
    return file


def _folder() -> Path:
    return cache_folder() / "dialects"


def _file(identity: Mapping[str, str | None]) -> Path:
    key = json.dumps(dict(identity), sort_keys=True)
    return _folder() / hashlib.sha256(key.encode()).hexdigest()[:24] / "dialect.json"
