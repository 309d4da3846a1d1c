"""The newest result of each image of a conversation as files, in a folder per image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.export import OUTPUT_NAMES, write_cutout, write_outputs
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ResultFiles"]

_CUTOUT = "cutout.png"
_CLICKED = "clicked on"
"""The label of an object that a click added, without words."""


class ResultFiles:
    """Folders that hold the newest result of each image: overlay.png, mask.png and result.json, each complete at any time.

    Args:
        parent: The folder of the folders. None: beside each image, and in the current folder for images that aren't files.
        points: Whether overlays show the points.
    """

    def __init__(self, parent: Path | None = None, *, points: bool = True) -> None:
        self._parent, self._points = parent, points
        self._folders: dict[str, Path] = {}  # by image id
        self._written: set[Path] = set()

    def assign_folder(self, image_id: str, name: str, source: str = "") -> Path:
        """Return an image's folder, which is chosen at the first call.

        Args:
            image_id: The image.
            name: Its file's name; empty for an image that is no file.
            source: Where it was read from, if that is known.
        """
        if image_id not in self._folders:
            folder = self._choose_folder(name, source)
            taken = set(self._folders.values())
            numbered = (folder.with_name(f"{folder.name}-{number}") for number in range(2, len(taken) + 3))
            self._folders[image_id] = next(each for each in (folder, *numbered) if each not in taken)
        return self._folders[image_id]

    def _choose_folder(self, name: str, source: str) -> Path:
        stem = Path(name).stem or "image"
        if self._parent is not None:
            return self._parent / stem
        is_file = source and not source.strip().lower().startswith(("data:", "http:", "https:"))
        return Path(source).with_name(f"{stem}-chat") if is_file else Path(f"{stem}-chat" if name else "chat")

    def write(self, folder: Path, image: Image, result: Mapping[str, Any], *, cutout: bool) -> list[str]:
        """Replace the files of a folder by those of this result.

        Args:
            folder: As `assign_folder` returned it.
            image: The image of the result, RGB.
            result: The result's artifact, plain JSON.
            cutout: Whether to write cutout.png, too.

        Returns:
            A line on each file to look at, which says whether it is new.

        Raises:
            Sam4MllmError: The result can't be read, or the folder can't be written to.
        """
        names = ["overlay.png", *([_CUTOUT] if cutout else [])]
        verbs = ["updated" if folder / name in self._written else "wrote" for name in names]
        self._write_all(folder, image, result, cutout=cutout)
        self._written |= {folder / name for name in (*OUTPUT_NAMES, *names)}
        return [f"{verb} {folder / name}" for verb, name in zip(verbs, names, strict=True)]

    def _write_all(self, folder: Path, image: Image, result: Mapping[str, Any], *, cutout: bool) -> None:
        segmentation = _read_result(result)
        named = [fields.get("expression", segmentation.expression) for fields in result["objects"]]
        expressions = [str(name or _CLICKED) for name in named]
        write_outputs(folder, image, segmentation, points=self._points, expressions=expressions)
        if cutout:
            write_cutout(folder, image, segmentation)

    def save(self, folder: Path, name: str, image: Image, result: Mapping[str, Any], *, cutout: bool) -> Path:
        """Write the files of a result once more, where later results don't replace them.

        Args:
            folder: The image's folder.
            name: Name of a folder in it, or a path of its own where it has a slash; empty for saved-1, saved-2 and so on.
            image: The image of the result, RGB.
            result: The result's artifact, plain JSON.
            cutout: Whether to write cutout.png, too.

        Returns:
            The folder.

        Raises:
            Sam4MllmError: The result can't be read, or the folder can't be written to.
        """
        target = folder / Path(name).expanduser() if "/" not in name and name != "~" else Path(name).expanduser()
        target = target if name else next(each for n in range(1, 10**6) if not (each := folder / f"saved-{n}").exists())
        self._write_all(target, image, result, cutout=cutout)
        return target

    def export(self, folder: Path, name: str, image: Image, result: Mapping[str, Any], formats: Sequence[str]) -> list[Path]:
        """Write a result in other formats beside the newest files, where they stay until they are written again.

        Args:
            folder: The image's folder.
            name: Name of the image's file; empty for an image that is no file.
            image: The image of the result, RGB.
            result: The result's artifact, plain JSON.
            formats: Keys of `OUTPUT_FORMATS`.

        Raises:
            Sam4MllmError: A format does not exist, the result can't be read, or the folder can't be written to.
        """
        segmentation = _read_result(result)
        return write_outputs(folder, image, segmentation, points=self._points, formats=formats, image_name=name or "image.png")

    def clear(self, folder: Path, *names: str) -> list[Path]:
        """Remove the files that were written in this conversation, and return them. Other files stay.

        Args:
            folder: An image's folder.
            names: Only these files; none for all of them.
        """
        paths = sorted(path for path in self._written if path.parent == folder and (not names or path.name in names))
        for path in paths:
            path.unlink(missing_ok=True)
        self._written -= set(paths)
        return paths


def _read_result(result: Mapping[str, Any]) -> Segmentation:
    try:
        return Segmentation.from_dict(result)
    except ValueError as error:
        raise Sam4MllmError(f"the kept result can't be read ({error}): ask for it once more") from error
