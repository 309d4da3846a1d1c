"""Read an image's file, of any folder or of allowed ones, without being led astray.

A path is checked and then opened, and between the two somebody who can write to the folder may put a link or a pipe in its
place. So what is checked is what was opened: below an allowed folder each part of the resolved path is opened from the one
before it and without following links, and whether it is a regular file is asked of the open file.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sam4mllm_tool.errors import ImageError, quote_text

__all__ = ["read_image_file"]

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""A pipe is opened without waiting for its writer. Windows has only the last one."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_PROC = Path("/proc")


def read_image_file(path: Path, what: str, *, max_bytes: int, roots: Sequence[str | os.PathLike[str]] | None = None) -> bytes:
    """Return the content of a file: one byte more than `max_bytes` at most, so that a file over the limit is recognized.

    Args:
        path: Of a regular file. With `roots`, a relative one is looked up in each of them.
        what: Names the image in error messages.
        max_bytes: The limit.
        roots: The folders that the file must lie in once links are resolved; None for any.

    Raises:
        ImageError: The file is outside the folders, which doesn't reveal whether it exists, or it can't be read.
    """
    try:
        return _read(path, what, max_bytes, None if roots is None else [Path(root).resolve() for root in roots])
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{what} does not exist") from error
    except OSError as error:
        raise ImageError(f"{what} cannot be opened: {error.strerror or error}") from error
    except (ValueError, RuntimeError) as error:  # a null character, a loop of links
        raise ImageError(f"{what} cannot be opened: {error}") from error


def _read(path: Path, what: str, max_bytes: int, roots: Sequence[Path] | None) -> bytes:
    if roots is not None:
        path, root = _resolve_inside(path, roots)
    _require_regular(path.stat(), what)  # opening a device could do something
    descriptor = os.open(path, _FLAGS) if roots is None else _open_below(root, path.relative_to(root))
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status, what)
        if _PROC.exists() and status.st_dev == _PROC.stat().st_dev:
            raise ImageError(f"{what} cannot be opened: it is the system's, not an image")
        return file.read(max_bytes + 1)


def _require_regular(status: os.stat_result, what: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{what} is a folder; give one of the images in it")
    if not stat.S_ISREG(status.st_mode):  # a pipe or a device could block, or never end
        raise ImageError(f"{what} is not a regular file")


def _resolve_inside(path: Path, roots: Sequence[Path]) -> tuple[Path, Path]:
    """Resolve the links of a path that must lie in one of `roots`; return it and that root."""
    places = [*roots, *(root.parent for root in roots), Path()]  # "scene.png" and "examples/scene.png" of the root "examples"
    candidates = [(place / path).resolve() for place in places]  # an absolute path replaces the place
    allowed = [(candidate, root) for candidate in candidates for root in roots if candidate.is_relative_to(root)]
    if not allowed:
        raise ImageError(f"the image {quote_text(str(path))} is not in a folder that images may be opened from")
    return next((each for each in allowed if each[0].exists()), allowed[0])


def _open_below(root: Path, path: Path) -> int:
    """Open a file below a folder, where no part of the path may be a link."""
    if os.open not in os.supports_dir_fd:  # Windows
        return os.open(root / path, _FLAGS)
    folder = os.open(root, _FLAGS)
    for part in path.parts:
        try:
            opened = os.open(part, _FLAGS | _NO_LINKS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = opened
    return folder
