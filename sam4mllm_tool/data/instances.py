"""COCO's instances.json: the pictures and annotations that someone refers to, and no others.

The file is streamed, so of RefCOCO's 200 MB only what is referred to is held, polygons as arrays.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, agreed_box, box_xyxy, read_segmentation
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.sample import Problems, Region
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["Annotation", "Instances", "Picture", "read_annotation", "read_instances"]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture's file name and its size in pixels."""

    file_name: str
    size: Size


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """An annotated object. region: or why it can't be read. box: None where the annotation has none that is one."""

    id: int
    image_id: int
    region: Region | RegionError
    box: Box | None
    crowd: bool = False

    def placed(self, size: Size, problems: Problems, where: str) -> tuple[Box, Region]:
        """Its box, mended and counted where it disagrees with the mask, and its region. where: the file.

        Raises RegionError where it can't be used: a crowd, an empty mask, a malformed one.
        """
        if self.crowd:
            raise RegionError("the annotation is of a crowd", f"annotation {self.id}")
        if isinstance(self.region, RegionError):
            raise RegionError(self.region.what, f"annotation {self.id}; {self.region.detail}")
        try:
            return agreed_box(self.region, self.box, size, problems, f"{where}, annotation {self.id}"), self.region
        except RegionError as error:
            raise RegionError(error.what, f"annotation {self.id}; {error.detail}") from error


@dataclass(frozen=True)
class Instances:
    """What is referred to of an instances.json, by id."""

    path: Path
    pictures: Mapping[int, Picture]
    annotations: Mapping[int, Annotation]

    def picture(self, image_id: int) -> Picture:
        """Raises RegionError where the file has no such picture."""
        try:
            return self.pictures[image_id]
        except KeyError:
            raise RegionError(f"{self.path.name} has no such image", f"image {image_id}") from None

    def placed(self, annotation_id: int, image_id: int, problems: Problems) -> tuple[Box, Region]:
        """An object's box and region in a picture. Raises RegionError where it can't be used."""
        annotation = self.annotations.get(annotation_id)
        if annotation is None:
            raise RegionError(f"{self.path.name} has no such annotation", f"annotation {annotation_id}")
        if annotation.image_id != image_id:
            raise RegionError("the annotation is of another image", f"annotation {annotation_id}, image {image_id}")
        return annotation.placed(self.picture(image_id).size, problems, str(self.path))


def read_instances(path: Path, image_ids: Container[int], annotation_ids: Container[int]) -> Instances:
    """The named pictures and annotations. Raises DataError naming the file and the record."""
    pictures: dict[int, Picture] = {}
    annotations: dict[int, Annotation] = {}
    for number, (key, record) in enumerate(stream_arrays(path)):
        try:
            if key == "images" and record["id"] in image_ids:
                size = Size(int(record["width"]), int(record["height"]))
                pictures[record["id"]] = Picture(str(record["file_name"]), size)
            elif key == "annotations" and record["id"] in annotation_ids:
                annotations[record["id"]] = read_annotation(record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, record {number}, of '{key}': {type(error).__name__}: {error}") from error
    return Instances(path, pictures, annotations)


def read_annotation(record: Mapping[str, Any]) -> Annotation:
    """A COCO annotation. Raises KeyError where it has no id, image or segmentation."""
    try:
        region: Region | RegionError = read_segmentation(record["segmentation"])
    except RegionError as error:
        region = error
    return Annotation(record["id"], record["image_id"], region, box_xyxy(record.get("bbox")), bool(record.get("iscrowd", 0)))
