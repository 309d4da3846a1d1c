"""Say what you mean, get the exact pixels: SAM4MLLM as a segmentation tool for people and agents.

    from sam4mllm_tool import Sam4Mllm
    result = Sam4Mllm.load().segment("image.png", "the red mug")

Importing this package costs NumPy, Pillow and pydantic; models and LangChain are imported on first use.
"""

import warnings
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
    from sam4mllm_tool.agents import ImageMiddleware as ImageMiddleware
    from sam4mllm_tool.agents import create_segmentation_agent as create_segmentation_agent
    from sam4mllm_tool.agents.reason_tool import ReasonTool
    from sam4mllm_tool.config import SegmentationConfig
    from sam4mllm_tool.images.export import overlay, write_outputs
    from sam4mllm_tool.images.load import ImagePolicy, load_image
    from sam4mllm_tool.models.load_options import LoadOptions
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.tools import Sam4MllmToolkit, SegmentTool
    from sam4mllm_tool.tools.image_store import ImageStore

__version__ = "0.3.0"
__all__ = [
    "BackendError",
    "Box",
    "ExpressionError",
    "ImageError",
    "ImagePolicy",
    "ImageStore",
    "LoadOptions",
    "MissingExtraError",
    "ObjectPrompt",
    "Point",
    "PointPrompt",
    "ReasonTool",
    "ReplyError",
    "Sam4Mllm",
    "Sam4MllmError",
    "Sam4MllmToolkit",
    "SegmentTool",
    "Segmentation",
    "SegmentationConfig",
    "SegmentedObject",
    "Size",
    "SpecError",
    "load_image",
    "overlay",
    "write_outputs",
]

_LAZY = {
    "ImageMiddleware": "agents",
    "ImagePolicy": "images.load",
    "ImageStore": "tools.image_store",
    "LoadOptions": "models.load_options",
    "ReasonTool": "agents.reason_tool",
    "Sam4Mllm": "pipeline.sam4mllm",
    "Sam4MllmToolkit": "tools",
    "SegmentTool": "tools",
    "SegmentationConfig": "config",
    "create_segmentation_agent": "agents",
    "load_image": "images.load",
    "overlay": "images.export",
    "write_outputs": "images.export",
}
"""Names that are imported on first use, with their modules. Those of `agents` need an extra and so are not in `__all__`."""
_OLD_NAMES = {"PictureMiddleware": "ImageMiddleware", "PictureStore": "ImageStore"}
_PACKAGES = ("agents", "interactive", "pipeline", "reasoning", "tools")
"""Packages that are attributes before anything has imported them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _OLD_NAMES:
        warnings.warn(f"{__name__}.{name} is now {__name__}.{_OLD_NAMES[name]}", DeprecationWarning, stacklevel=2)
        return __getattr__(_OLD_NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_PACKAGES})
