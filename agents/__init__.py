"""Ready agents built on the tools: an agent in one line, a chat about images, and reasoning segmentation.

Names are imported on first use: they need LangChain and LangGraph, `pip install "sam4mllm-tool[agents]"`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.errors import MissingExtraError

if TYPE_CHECKING:
    from sam4mllm_tool.agents.chat import build_chat_graph
    from sam4mllm_tool.agents.image_middleware import ImageGraph, ImageMiddleware
    from sam4mllm_tool.agents.reason_tool import ReasonTool
    from sam4mllm_tool.agents.reasoning import build_reasoning_graph
    from sam4mllm_tool.agents.segmentation_agent import create_segmentation_agent

__all__ = [
    "ImageGraph",
    "ImageMiddleware",
    "ReasonTool",
    "build_chat_graph",
    "build_reasoning_graph",
    "create_segmentation_agent",
]

_LAZY = {
    "ImageGraph": "image_middleware",
    "ImageMiddleware": "image_middleware",
    "ReasonTool": "reason_tool",
    "build_chat_graph": "chat",
    "build_reasoning_graph": "reasoning",
    "create_segmentation_agent": "segmentation_agent",
}
"""Names that are imported on first use, with their modules."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("langchain", "langgraph"):
            raise MissingExtraError(package, "agents") from error
        raise


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
