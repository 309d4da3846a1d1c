"""ReasonSeg: expressions that take reasoning, one true mask per image, and pixels that evaluation ignores.

Layout: root/ReasonSeg/<split>/*.json, each beside its jpg, and root/ReasonSeg/explanatory/train.json; the root may also be the
ReasonSeg folder itself. A json has shapes [{label, points}], text [...] and is_sentence; most are UTF-8, some cp1252.
The mask follows LISA's rules (`get_mask_from_json`): shapes labelled `flag` are skipped, the others are drawn from the largest
to the smallest, inside and outline, each over the ones before; a label that contains `ignore` draws ignored pixels.
The dataset doesn't separate objects, so that the whole target is one object.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sam4mllm_tool.data.annotations import MAX_COORDINATE, RegionError, region_box
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.rasterize import fill_outline
from sam4mllm_tool.data.reader import Reader, find_image, normalize_expression, read_image_size
from sam4mllm_tool.data.sample import Problems, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Mask, Size

__all__ = ["OverlappingShapes", "ReasonSeg"]

_TARGET, _IGNORED = 1, 255  # LISA's values


@dataclass(frozen=True)
class LabelledOutline:
    """A polygon with corners in whole pixels, and the value that it draws."""

    corners: tuple[tuple[int, int], ...]
    value: int


@dataclass(frozen=True)
class OverlappingShapes:
    """The pixels that have `value` once all shapes are drawn over one another."""

    shapes: tuple[LabelledOutline, ...]
    value: int

    def mask(self, size: Size) -> Mask:
        """Return the (H, W) bool mask."""
        drawn = [(fill_outline(shape.corners, size), shape.value) for shape in self.shapes]
        values = np.zeros((size.height, size.width), np.uint8)
        for mask, value in sorted(drawn, key=lambda pair: int(pair[0].sum()))[::-1]:  # of equal areas LISA draws the last first
            values[mask] = value
        chosen: Mask = values == self.value
        return chosen


class ReasonSeg(Reader):
    """One sample per text of each image, in the order of the files' names. The kinds are "sentence" and "phrase".

    In the train split, `Sample.explanation` is the answer that `explanatory` has for the image.

    Args:
        root: The folder that holds ReasonSeg/, or that folder itself.
        split: The split's name.
        text: "all", or "first" for the first text of each image only, by which LISA evaluates.
        images: The folder of the images, where they are not beside the json files.

    Raises:
        DataError: The split's folder does not exist or has no json.
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
        self._first_only = text == "first"
        self._home = root / "ReasonSeg" if (root / "ReasonSeg").is_dir() else root
        self._images = Path(images) if images else self._home / split
        self.paths = tuple(sorted((self._home / split).glob("*.json")))
        if not self.paths:
            folders = ", ".join(sorted(path.name for path in self._home.iterdir() if path.is_dir())) or "no folder"
            raise DataError(f"{self._home / split} holds no *.json; {self._home} has {folders}")

    def index_files(self) -> tuple[Path, ...]:
        """Return one file per image."""
        return self.paths

    def units(self) -> int:
        """Return the number of annotated images in the split, which is what the published counts count."""
        return len(self.paths)

    def _samples(self, problems: Problems) -> Iterator[Sample]:
        explanations = self._read_explanations()
        for path in self.paths:
            try:
                yield from self._image_samples(path, explanations, problems)
            except RegionError as error:
                problems.add("dropped", error.what, str(path), error.detail)

    def _read_explanations(self) -> dict[str, str]:
        """Read the explanations by the image's file name, as LISA does."""
        path = self._home / "explanatory" / "train.json"
        if self.split != "train" or not path.is_file():
            return {}
        try:
            return {str(record["image"]): str(record["outputs"]) for _, record in stream_arrays(path)}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} has a record without image or outputs: {error!r}") from error

    def _image_samples(self, path: Path, explanations: Mapping[str, str], problems: Problems) -> Iterator[Sample]:
        annotation = _load_annotation(path)
        texts, shapes = _read_texts(annotation), _read_shapes(annotation)
        image = find_image(self._images, path.stem) or self._images / f"{path.stem}.jpg"
        size = read_image_size(image)
        if isinstance(size, str):
            raise RegionError(size, str(image))
        target, ignored = OverlappingShapes(shapes, _TARGET), OverlappingShapes(shapes, _IGNORED)
        box = region_box(target, size)
        for number, text in enumerate(texts[:1] if self._first_only else texts):
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
                kind="sentence" if annotation.get("is_sentence") else "phrase",
                split=self.split,
                image_id=f"reasonseg:{path.stem}",
                source=self.name,
                explanation=explanations.get(image.name, ""),
            )


def _load_annotation(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        annotation = parse_json(text)
    except UnicodeDecodeError as error:
        raise RegionError("the json is neither UTF-8 nor cp1252", str(error)) from error
    except (OSError, ValueError) as error:
        raise RegionError("the json can't be read", str(error)) from error
    if not isinstance(annotation, dict):
        raise RegionError("the json is not an object")
    return annotation


def _read_texts(annotation: Mapping[str, Any]) -> list[str]:
    texts = annotation.get("text")
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts:
        raise RegionError("the json has no text")
    return [normalize_expression(text) for text in texts]


def _read_shapes(annotation: Mapping[str, Any]) -> tuple[LabelledOutline, ...]:
    """Read the shapes with their corners truncated to whole pixels, as LISA does."""
    try:
        labelled = [(shape["label"].lower(), shape["points"]) for shape in annotation["shapes"]]
        shapes = [
            LabelledOutline(tuple((int(x), int(y)) for x, y in points), _IGNORED if "ignore" in label else _TARGET)
            for label, points in labelled
            if label != "flag" and points
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RegionError("a shape is malformed", f"{type(error).__name__}: {error}") from error
    for shape in shapes:
        if any(abs(coordinate) > MAX_COORDINATE for corner in shape.corners for coordinate in corner):
            raise RegionError("a polygon has a corner far outside the image", repr(shape.corners)[:80])
    return tuple(shapes)
