"""Say what you mean, get the exact pixels: SAM4MLLM as a segmentation tool for people and agents.

    from sam4mllm_tool import Sam4Mllm
    result = Sam4Mllm.load().segment("picture.png", "the red ring")

Importing this package costs NumPy, Pillow and pydantic; models and LangChain are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.errors import (
    BackendError,
    ExpressionError,
    ImageError,
    MissingExtraError,
    ReplyError,
    Sam4MllmError,
    SpecError,
)
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Segmentation, SegmentedObject, Size

if TYPE_CHECKING:
    from sam4mllm_tool.images.export import overlay, write_outputs
    from sam4mllm_tool.images.load import ImagePolicy, load_image
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.tools import Sam4MllmToolkit, SegmentTool

__version__ = "0.1.0"
__all__ = [
    "BackendError",
    "Box",
    "ExpressionError",
    "ImageError",
    "ImagePolicy",
    "MissingExtraError",
    "ObjectPrompt",
    "Point",
    "PointPrompt",
    "ReplyError",
    "Sam4Mllm",
    "Sam4MllmError",
    "Sam4MllmToolkit",
    "SegmentTool",
    "Segmentation",
    "SegmentedObject",
    "Size",
    "SpecError",
    "load_image",
    "overlay",
    "write_outputs",
]

_ON_FIRST_USE = {
    "ImagePolicy": "images",
    "Sam4Mllm": "pipeline",
    "Sam4MllmToolkit": "tools",
    "SegmentTool": "tools",
    "load_image": "images",
    "overlay": "images.export",
    "write_outputs": "images.export",
}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(f"{__name__}.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
