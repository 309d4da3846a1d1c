"""COCO's instances.json: the images and annotations that a reference file names, and no others.

The file is streamed, so that of RefCOCO's 200 MB only the referenced records are kept, their polygons as arrays.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.annotations import RegionError, read_box_xywh, read_segmentation, reconcile_box
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.data.sample import Problems, Region
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.types import Box, Size

__all__ = ["CocoAnnotation", "ImageRecord", "Instances", "read_annotation", "read_instances"]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image's file name and its size in pixels."""

    file_name: str
    size: Size


@dataclass(frozen=True, slots=True, eq=False)
class CocoAnnotation:
    """An annotated object: its mask, or why the mask can't be read, and its box in pixels, None where that is not valid."""

    id: int
    image_id: int
    region: Region | RegionError
    box: Box | None
    crowd: bool = False

    def resolve_object(self, size: Size, problems: Problems, file: str) -> tuple[Box, Region]:
        """Return the object's box and region; a box that disagrees with the mask is corrected, which is counted.

        Raises:
            RegionError: The annotation is of a crowd, or its mask is empty or malformed.
        """
        try:
            if self.crowd:
                raise RegionError("the annotation is of a crowd")
            if isinstance(self.region, RegionError):
                raise self.region
            return reconcile_box(self.region, self.box, size, problems, f"{file}, annotation {self.id}"), self.region
        except RegionError as error:
            detail = f"annotation {self.id}" + (f"; {error.detail}" if error.detail else "")
            raise RegionError(error.what, detail) from error


@dataclass(frozen=True)
class Instances:
    """The referenced records of an instances.json, by id."""

    path: Path
    images: Mapping[int, ImageRecord]
    annotations: Mapping[int, CocoAnnotation]

    def find_image(self, image_id: int) -> ImageRecord:
        """Return an image's record. Raises RegionError where the file has none."""
        try:
            return self.images[image_id]
        except KeyError:
            raise RegionError(f"{self.path.name} has no such image", f"image {image_id}") from None

    def resolve_object(self, annotation_id: int, image_id: int, problems: Problems) -> tuple[Box, Region]:
        """Return the box and region of an object in an image. Raises RegionError where it can't be used."""
        annotation = self.annotations.get(annotation_id)
        if annotation is None:
            raise RegionError(f"{self.path.name} has no such annotation", f"annotation {annotation_id}")
        if annotation.image_id != image_id:
            raise RegionError("the annotation belongs to another image", f"annotation {annotation_id}, image {image_id}")
        return annotation.resolve_object(self.find_image(image_id).size, problems, str(self.path))


def read_instances(path: Path, image_ids: Container[int], annotation_ids: Container[int]) -> Instances:
    """Read the images and annotations with the given ids. Raises DataError naming the file and the record."""
    images: dict[int, ImageRecord] = {}
    annotations: dict[int, CocoAnnotation] = {}
    for key, record in stream_arrays(path, "images", "annotations"):
        try:
            if key == "images" and record["id"] in image_ids:
                size = Size(int(record["width"]), int(record["height"]))
                images[record["id"]] = ImageRecord(str(record["file_name"]), size)
            elif key == "annotations" and record["id"] in annotation_ids:
                annotations[record["id"]] = read_annotation(record)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, '{key}', record {record!r:.80}: {type(error).__name__}: {error}") from error
    return Instances(path, images, annotations)


def read_annotation(record: Mapping[str, Any]) -> CocoAnnotation:
    """Convert a COCO annotation. Raises KeyError where it has no id, image or segmentation."""
    try:
        region: Region | RegionError = read_segmentation(record["segmentation"])
    except RegionError as error:
        region = error
    box = read_box_xywh(record.get("bbox"))
    return CocoAnnotation(record["id"], record["image_id"], region, box, bool(record.get("iscrowd", 0)))
