"""The newest result of a conversation as files beside it, and back from the plain JSON that a conversation keeps it as."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.export import write_outputs
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ResultFiles", "free_folder", "read_segmentation"]

_FILES = ("overlay.png", "mask.png", "result.json")


class ResultFiles:
    """A folder that holds the newest result: overlay.png, mask.png and result.json, each whole at any time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ours = False

    def show(self, picture: Image, result: Mapping[str, Any]) -> list[Path]:
        """Writes them in place of the former. Raises Sam4MllmError where that fails."""
        write_outputs(self.folder, picture, read_segmentation(result))
        self._ours = True
        return [self.folder / name for name in _FILES]

    def clear(self) -> None:
        """Takes back what was written here: there is no result any more. Leaves the folder, and files of another's."""
        for name in _FILES if self._ours else ():
            (self.folder / name).unlink(missing_ok=True)
        self._ours = False


def free_folder(inside: Path) -> Path:
    """The first of saved-1, saved-2 and so on in the folder that is not there yet."""
    return next(place for n in range(1, 10**6) if not (place := inside / f"saved-{n}").exists())


def read_segmentation(told: Mapping[str, Any]) -> Segmentation:
    """The segmentation that a result's artifact holds. Raises Sam4MllmError for one that holds none."""
    try:
        return Segmentation.from_dict(told)
    except ValueError as error:
        raise Sam4MllmError(f"the kept result can't be read ({error}): ask for it once more") from error
