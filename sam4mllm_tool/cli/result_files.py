"""The newest result of a conversation as files in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.export import write_outputs
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ResultFiles", "choose_free_folder"]

_FILES = ("overlay.png", "mask.png", "result.json")


class ResultFiles:
    """A folder that holds the newest result: overlay.png, mask.png and result.json, each complete at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = False

    def write(self, image: Image, result: Mapping[str, Any]) -> list[Path]:
        """Replace the files by those of this result, and return their paths.

        Args:
            image: The image of the result, RGB.
            result: The result's artifact, plain JSON.

        Raises:
            Sam4MllmError: The result can't be read, or the folder can't be written to.
        """
        try:
            segmentation = Segmentation.from_dict(result)
        except ValueError as error:
            raise Sam4MllmError(f"the kept result can't be read ({error}): ask for it once more") from error
        write_outputs(self.folder, image, segmentation)
        self._written = True
        return [self.folder / name for name in _FILES]

    def clear(self) -> None:
        """Remove the files that this object wrote. The folder stays, and files of others in it."""
        for name in _FILES if self._written else ():
            (self.folder / name).unlink(missing_ok=True)
        self._written = False


def choose_free_folder(parent: Path) -> Path:
    """Return the first of saved-1, saved-2 and so on in `parent` that does not exist."""
    return next(folder for n in range(1, 10**6) if not (folder := parent / f"saved-{n}").exists())
