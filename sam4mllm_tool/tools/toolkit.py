"""All tools, with one pair of models, one policy and one store of pictures between them."""

from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import ConfigDict, Field, PrivateAttr

from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.tools.base import Sam4MllmTool, SharedModels
from sam4mllm_tool.tools.dialogue_tools import CheckPointsTool, ProposeBoxesTool, SegmentPromptTool
from sam4mllm_tool.tools.image_store import PictureStore
from sam4mllm_tool.tools.refine_tools import DescribeRegionTool, RefineTool
from sam4mllm_tool.tools.segment_tool import SegmentTool

__all__ = ["Sam4MllmToolkit"]

_TOOLS: tuple[type[Sam4MllmTool], ...] = (
    SegmentTool,
    ProposeBoxesTool,
    CheckPointsTool,
    SegmentPromptTool,
    RefineTool,
    DescribeRegionTool,
)


class Sam4MllmToolkit(BaseToolkit):
    """The tools for an agent that holds a conversation about pictures.

    sam4mllm, method, policy, pictures: see `Sam4MllmTool`; but the method is `adaptive` where none is given, since an agent has
    to know how sure a result is, and the paper's methods don't tell it. The models are loaded once, on first use, however often
    the tools are asked for. Give the store of the pictures' middleware (`sam4mllm_tool.agents.image_middleware`) as `pictures`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    sam4mllm: Sam4Mllm | None = Field(default=None, exclude=True)
    method: Method = "adaptive"
    policy: ImagePolicy = TOOL_POLICY
    pictures: PictureStore = Field(default_factory=PictureStore, exclude=True)

    _shared: SharedModels = PrivateAttr(default_factory=SharedModels)

    def get_tools(self) -> list[BaseTool]:
        """segment_image, propose_boxes, check_points, segment_prompt, refine_segmentation, describe_image_region."""
        settings: dict[str, Any] = {
            "sam4mllm": self.sam4mllm,
            "method": self.method,
            "policy": self.policy,
            "pictures": self.pictures,
        }
        tools = [kind(**settings) for kind in _TOOLS]
        for tool in tools:
            tool.share(self._shared)
        return list(tools)
