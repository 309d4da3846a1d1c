"""Files that are whole or not there, and known by what is in them."""

import hashlib
import json
from pathlib import Path
from typing import Any

__all__ = ["file_sha256", "write_json"]


def write_json(path: Path, value: Any, *, ensure_ascii: bool = False) -> None:
    """Written beside, then renamed: a cut never leaves half of it. Raises OSError."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=ensure_ascii) + "\n", encoding="utf-8")
    beside.replace(path)


def file_sha256(path: Path) -> str:
    """The hash of its content, as hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
