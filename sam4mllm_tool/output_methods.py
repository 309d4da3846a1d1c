"""The methods `to_*` of a segmentation: results as other libraries and programs take them.

`images.output_formats` makes the same as files. Each method imports what it needs when it is called.
"""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from supervision import Detections

    from sam4mllm_tool.types import Image, Segmentation

__all__ = ["OutputMethods"]


class OutputMethods:
    """Base of `Segmentation`. Raises ValueError where an image differs in size from the segmentation."""

    def to_coco(self, *, image_name: str = "image.png", polygons: bool = False) -> dict[str, Any]:
        """Return a COCO dataset of one image, whose categories are the expressions.

        Args:
            image_name: Name of the image's file.
            polygons: Whether to write polygons, which have no holes, in place of run lengths, which are exact.
        """
        from sam4mllm_tool.images.annotation_formats import to_coco

        return to_coco(_typed(self), image_name=image_name, polygons=polygons)

    def to_labelme(self, image: "Image", *, image_name: str = "image.png") -> dict[str, Any]:
        """Return what LabelMe keeps beside an image, the image included: polygons, and a mask for an object with holes."""
        from sam4mllm_tool.images.annotation_formats import to_labelme

        return to_labelme(_typed(self), image, image_name=image_name)

    def to_yolo(self) -> tuple[str, str]:
        """Return YOLO's segmentation label lines, and the YAML that names the classes. Holes are filled, parts are lines."""
        from sam4mllm_tool.images.annotation_formats import to_yolo

        return to_yolo(_typed(self))

    def to_label_studio(self, image: "Image") -> list[dict[str, Any]]:
        """Return a task for Label Studio's import, with the image in it and the masks as a prediction of its brush."""
        from sam4mllm_tool.images.annotation_formats import to_label_studio

        return to_label_studio(_typed(self), image)

    def to_cvat(self, *, image_name: str = "image.png") -> dict[str, Any]:
        """Return a dataset in the format Datumaro 1.0, whose JSON file CVAT imports; masks are exact."""
        from sam4mllm_tool.images.annotation_formats import to_cvat

        return to_cvat(_typed(self), image_name=image_name)

    def to_geojson(self) -> dict[str, Any]:
        """Return a GeoJSON FeatureCollection in pixels, y down: a MultiPolygon with its holes per object."""
        from sam4mllm_tool.images.annotation_formats import to_geojson

        return to_geojson(_typed(self))

    def to_svg(self) -> str:
        """Return an SVG image of the size of the image, with a path per object."""
        from sam4mllm_tool.images.annotation_formats import to_svg

        return to_svg(_typed(self))

    def to_mask_image(self) -> "Image":
        """Return the union of the masks as an 8-bit grey image: 255 on the objects, 0 elsewhere."""
        from sam4mllm_tool.images.cutouts import mask_image

        return mask_image(_typed(self))

    def to_instance_image(self) -> "Image":
        """Return an image whose pixel values are the objects' numbers, from 1; 0 is the background."""
        from sam4mllm_tool.images.cutouts import instance_image

        return instance_image(_typed(self))

    def to_cutout(self, image: "Image", *, cropped: bool = False) -> "Image":
        """Return the objects of an image on a transparent ground, RGBA, of its size or cropped to the objects."""
        from sam4mllm_tool.images.cutouts import cutout_image

        return cutout_image(image, _typed(self), cropped=cropped)

    def to_erased(self, image: "Image") -> "Image":
        """Return an image without the objects, RGBA, transparent where they were."""
        from sam4mllm_tool.images.cutouts import erased_image

        return erased_image(image, _typed(self))

    def to_blurred(self, image: "Image") -> "Image":
        """Return an image, RGB, with everything but the objects blurred."""
        from sam4mllm_tool.images.cutouts import blurred_image

        return blurred_image(image, _typed(self))

    def to_numpy(self) -> "dict[str, npt.NDArray[np.generic]]":
        """Return arrays, a row per object.

        Returns:
            masks: (N, H, W) bool.
            boxes: (N, 4) float, x1, y1, x2, y2 in pixels, as SAM was prompted.
            scores: (N,) float in [0, 1].
            confidences: (N,) float in [0, 1], NaN where unknown.
            labels: (N,) str, the expressions.
        """
        from sam4mllm_tool.images.array_formats import to_numpy

        return to_numpy(_typed(self))

    def to_supervision(self) -> "Detections":
        """Return supervision's `Detections`: boxes around the masks, masks, and the expressions as class names.

        `confidence` is SAM's score, since supervision sorts and filters by it; the calibrated one is in `data["probability"]`,
        NaN where unknown. A result without objects gives empty detections.

        Raises:
            MissingExtraError: supervision is not installed.
        """
        from sam4mllm_tool.images.array_formats import to_supervision

        return to_supervision(_typed(self))


def _typed(methods: OutputMethods) -> "Segmentation":
    return cast("Segmentation", methods)
