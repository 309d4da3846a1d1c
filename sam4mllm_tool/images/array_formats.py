"""Results as arrays: NumPy's, and supervision's `Detections`."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.images.annotation_formats import label_objects
from sam4mllm_tool.types import Segmentation

if TYPE_CHECKING:
    from supervision import Detections

__all__ = ["to_numpy", "to_supervision"]


def to_numpy(segmentation: Segmentation) -> dict[str, npt.NDArray[Any]]:
    """Return masks, boxes, scores, confidences and labels, a row per object; see `Segmentation.to_numpy`."""
    objects, size = segmentation.objects, segmentation.size
    masks = np.zeros((len(objects), size.height, size.width), np.bool_)
    for index, segmented in enumerate(objects):
        masks[index] = segmented.mask
    return {
        "masks": masks,
        "boxes": np.array([each.prompt.box for each in objects], np.float64).reshape(-1, 4),
        "scores": np.array([each.score for each in objects], np.float64),
        "confidences": np.array([np.nan if each.confidence is None else each.confidence for each in objects], np.float64),
        "labels": np.array(label_objects(segmentation), np.str_),
    }


def to_supervision(segmentation: Segmentation) -> "Detections":
    """Return supervision's `Detections`; see `Segmentation.to_supervision`."""
    try:
        from supervision import Detections, mask_to_xyxy
    except ModuleNotFoundError as error:
        raise MissingExtraError("supervision", "supervision") from error
    if not segmentation.objects:
        return Detections.empty()
    arrays = to_numpy(segmentation)
    labels = arrays["labels"].tolist()
    names = list(dict.fromkeys(labels))
    xyxy = mask_to_xyxy(arrays["masks"]).astype(np.float32)
    xyxy[:, 2:] += 1  # supervision's own are of the last pixel, while a box ends one past it
    return Detections(
        xyxy=xyxy,
        mask=arrays["masks"],
        confidence=arrays["scores"].astype(np.float32),
        class_id=np.array([names.index(label) for label in labels]),
        data={"class_name": arrays["labels"], "probability": arrays["confidences"], "prompt_box": arrays["boxes"]},
    )
