"""ReasonSeg: expressions that take reasoning, one true mask a picture, and pixels that count neither way.

Layout: root/ReasonSeg/<split>/*.json, each beside its jpg, and root/ReasonSeg/explanatory/train.json; the root may be the
ReasonSeg folder itself. A json has shapes [{label, points}], text [...] and is_sentence; most are UTF-8, some cp1252.
The mask, by LISA's rules (`get_mask_from_json`): shapes labelled `flag` are skipped, the others drawn from the largest to
the smallest, inside and outline, each over what was there; a label with `ignore` in it draws pixels that don't count.
The set tells no objects apart, so all of the target is one object.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sam4mllm_tool.data.annotations import RegionError, box_of_region
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.rasterize import fill_outline
from sam4mllm_tool.data.reader import Reader, one_line, picture_size
from sam4mllm_tool.data.sample import Problems, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Mask, Size

__all__ = ["Drawing", "ReasonSeg"]

_TARGET, _IGNORED = 1, 255  # LISA's values
_FARTHEST = 100_000  # pixels; drawing takes memory by how far a corner lies
_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Shape:
    """A drawn outline: corners in whole pixels, and the value that it draws."""

    corners: tuple[tuple[int, int], ...]
    value: int


@dataclass(frozen=True)
class Drawing:
    """The pixels of a value once all shapes are drawn over one another."""

    shapes: tuple[Shape, ...]
    value: int

    def mask(self, size: Size) -> Mask:
        """(H, W) bool."""
        drawn = [(fill_outline(shape.corners, size), shape.value) for shape in self.shapes]
        values = np.zeros((size.height, size.width), np.uint8)
        for mask, value in sorted(drawn, key=lambda one: int(one[0].sum()))[::-1]:  # of equal ones LISA draws the last first
            values[mask] = value
        chosen: Mask = values == self.value
        return chosen


class ReasonSeg(Reader):
    """A sample for each text of each picture, in the order of the files' names. kind: "sentence" or "phrase".

    text: "all", or "first": of each picture the first alone, by which LISA evaluates. images: a folder of the pictures, where
    they are not beside the json files. In the train split `explanation` is the answer that `explanatory` has for the picture.
    Raises DataError where the split's folder is not there, or has no json.
    """

    name = "reasonseg"

    def __init__(
        self,
        root: Path,
        split: str = "train",
        *,
        text: Literal["all", "first"] = "all",
        images: Path | str | None = None,
    ) -> None:
        super().__init__(root, split)
        if text not in ("all", "first"):
            raise DataError(f"expected the option text as 'all' or 'first', got {text!r}")
        self._first_alone = text == "first"
        self._home = root / "ReasonSeg" if (root / "ReasonSeg").is_dir() else root
        self._images = Path(images) if images else self._home / split
        self.paths = tuple(sorted((self._home / split).glob("*.json")))
        if not self.paths:
            there = ", ".join(sorted(path.name for path in self._home.iterdir() if path.is_dir())) or "no folder"
            raise DataError(f"{self._home / split} holds no *.json; {self._home} has {there}")

    def index_files(self) -> tuple[Path, ...]:
        """One a picture."""
        return self.paths

    def units(self) -> int:
        """Annotated pictures of the split, which the published counts count."""
        return len(self.paths)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        explanations = self._explanations()
        for path in self.paths:
            try:
                yield from self._of_picture(path, explanations, problems)
            except RegionError as error:
                problems.add("dropped", error.what, f"{path} ({error.detail})" if error.detail else str(path))

    def _explanations(self) -> dict[str, str]:
        """By the picture's file name, as LISA takes them."""
        path = self._home / "explanatory" / "train.json"
        if self.split != "train" or not path.is_file():
            return {}
        try:
            return {str(record["image"]): str(record["outputs"]) for _, record in stream_arrays(path)}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} has a record without image or outputs: {error!r}") from error

    def _of_picture(self, path: Path, explanations: Mapping[str, str], problems: Problems) -> Iterator[Sample]:
        told = _load(path)
        texts, shapes = _texts(told), _shapes(told)
        image = next(
            (found for suffix in _SUFFIXES if (found := self._image(path, suffix)).is_file()), self._image(path, ".jpg")
        )
        size = picture_size(image)
        if isinstance(size, str):
            raise RegionError(size, str(image))
        target, ignored = Drawing(shapes, _TARGET), Drawing(shapes, _IGNORED)
        box = box_of_region(target, size)
        for number, text in enumerate(texts[:1] if self._first_alone else texts):
            if not text:
                problems.add("dropped", "the expression is empty or not a text", f"{path}, text {number}")
                continue
            yield Sample(
                id=f"reasonseg-{self.split}-{path.stem}-{number}",
                image_path=image,
                expression=text,
                size=size,
                boxes=(box,) if box else (),
                regions=(target,) if box else (),
                ignored=ignored if any(shape.value == _IGNORED for shape in shapes) else None,
                kind="sentence" if told.get("is_sentence") else "phrase",
                split=self.split,
                image_id=f"reasonseg:{path.stem}",
                source=self.name,
                explanation=explanations.get(image.name, ""),
            )

    def _image(self, path: Path, suffix: str) -> Path:
        return self._images / f"{path.stem}{suffix}"


def _load(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        told = json.loads(text)
    except UnicodeDecodeError as error:
        raise RegionError("the json is neither UTF-8 nor cp1252", str(error)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RegionError("the json can't be read", str(error)) from error
    if not isinstance(told, dict):
        raise RegionError("the json is not an object")
    return told


def _texts(told: Mapping[str, Any]) -> list[str]:
    texts = told.get("text")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts:
        raise RegionError("the json has no text")
    return [one_line(text) for text in texts]


def _shapes(told: Mapping[str, Any]) -> tuple[Shape, ...]:
    """Corners are cut to whole pixels, as LISA cuts them."""
    try:
        drawn = [(shape["label"].lower(), shape["points"]) for shape in told["shapes"]]
        shapes = [
            Shape(tuple((int(x), int(y)) for x, y in points), _IGNORED if "ignore" in label else _TARGET)
            for label, points in drawn
            if label != "flag" and points
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RegionError("a shape is malformed", f"{type(error).__name__}: {error}") from error
    for shape in shapes:
        if any(abs(place) > _FARTHEST for corner in shape.corners for place in corner):
            raise RegionError("a polygon has a corner far outside any picture", repr(shape.corners)[:80])
    return tuple(shapes)
