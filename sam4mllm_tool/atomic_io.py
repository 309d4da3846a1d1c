"""Write files atomically: write a temporary file beside the target, then rename it, so that no reader finds half a file."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from glob import escape
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from sam4mllm_tool.errors import DataError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "atomic_path",
    "file_sha256",
    "require_new_file",
    "set_default_permissions",
    "write_bytes",
    "write_files",
    "write_json",
    "write_text",
]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that belong together into an existing folder: all of them are written beside their targets, then renamed.

    Where the system has `flock`, an exclusive lock on the folder is held meanwhile. Writers then follow one another, so that a
    folder holds files of one call, not one file of each; and what an earlier call left behind when it was killed is removed.

    Raises:
        OSError: A file can't be written; none is replaced then.
    """
    with ExitStack() as stack:
        if stack.enter_context(_locked(folder)):
            _remove_leftovers(folder, files)
        parts = [(stack.enter_context(_part_of(folder / name)), folder / name) for name in files]
        for (part, _), content in zip(parts, files.values(), strict=True):
            part.write_bytes(content)
            set_default_permissions(part)
        for part, target in parts:
            part.replace(target)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a folder; yield whether it could be had."""
    if sys.platform == "win32":
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_locked = True
        except OSError:  # a network's file system without locks
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)  # which unlocks it


def _remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    for name in map(Path, names):
        for leftover in folder.glob(f".{escape(name.stem)}.*.part{escape(name.suffix)}"):
            leftover.unlink(missing_ok=True)


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it to `target` when the block ends, remove it when the block raises.

    The temporary name is unique, so concurrent writers of one target never share a file, and it keeps the target's suffix,
    from which some libraries infer the format. The file gets the permissions of an ordinary new file.

    Raises:
        OSError: The folder is not writable, or the target is a folder, a device or a pipe, which a rename would replace.
    """
    with _part_of(target) as part:
        yield part
        set_default_permissions(part)  # mkstemp makes the file readable by its owner only
        part.replace(target)


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """Yield a new temporary file beside `target`; remove it at the end, unless it was renamed."""
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(target))
    descriptor, name = mkstemp(dir=target.parent, prefix=f".{target.stem}.", suffix=f".part{target.suffix}")
    os.close(descriptor)
    part = Path(name)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)


def set_default_permissions(path: Path) -> None:
    """Give a file, or all files of a folder, the permissions of an ordinary new file.

    safetensors makes the files that it writes readable by their owner only. Raises OSError.
    """
    for file in path.rglob("*") if path.is_dir() else (path,):
        if file.is_file():
            file.chmod(0o666 & ~_umask())


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically. Raises OSError."""
    with atomic_path(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 and without translating newlines. Raises OSError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any, *, ensure_ascii: bool = False) -> None:
    """Write `value` to `path` atomically, as indented JSON. Raises OSError; TypeError if `value` is not serialisable."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=ensure_ascii) + "\n")


def require_new_file(path: Path, *, overwrite: bool) -> None:
    """Raise DataError if `path` exists and must not be replaced."""
    if not overwrite and (path.exists() or path.is_symlink()):
        raise DataError(f"{path} exists already: choose another place, or replace it with --overwrite")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the file's content as hexadecimal digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    """Return the process's umask, from /proc where possible: elsewhere it can only be read by setting it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("Umask:")[2].split(maxsplit=1)[0], 8)
    except (OSError, IndexError, ValueError):
        mask = os.umask(0o022)
        os.umask(mask)
        return mask
