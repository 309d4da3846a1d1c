"""All tools, sharing one pair of models, one policy and one image store."""

from typing import Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr
from typing_extensions import deprecated

from sam4mllm_tool.deprecation import rename_arguments
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.tools.base import Sam4MllmTool, SharedModels, require_either
from sam4mllm_tool.tools.dialogue_tools import CheckPointsTool, ProposeBoxesTool, SegmentPromptTool
from sam4mllm_tool.tools.image_store import ImageStore
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
    """The tools for an agent that holds a conversation about images. The models are loaded once, on first use.

    Attributes:
        sam4mllm: The loaded models. None: `Sam4Mllm.load` is called on first use.
        mllm: Which MLLM that loads: a spec, or a chat model that takes images, such as the agent's own. By default the
            environment's.
        segmenter: Which segmenter that loads, a spec; by default the environment's.
        method: How an expression is asked about, as for a single tool.
        policy: Which images may be opened besides those of the conversation.
        image_store: Where the conversation's images are kept: the store of its `ImageMiddleware`.
        messages_key: Where an agent's state has its messages; by default "messages", or the only list of messages in it.
        server: Where `sam4mllm serve` listens, as in "http://127.0.0.1:8765": it runs the tools, and this process needs no
            torch.
        server_token: One of the server's tokens, where it has any.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    sam4mllm: Sam4Mllm | None = Field(default=None, exclude=True)
    mllm: Any = Field(default=None, exclude=True)
    segmenter: str | None = None
    method: Method = "adaptive"
    policy: ImagePolicy = TOOL_POLICY
    image_store: ImageStore = Field(default_factory=ImageStore, exclude=True)
    messages_key: str | None = None
    server: str | None = None
    server_token: SecretStr | None = Field(default=None, exclude=True)

    _shared: SharedModels = PrivateAttr(default_factory=SharedModels)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**rename_arguments(settings, "pictures image_store"))
        require_either(self.sam4mllm, self.server, mllm=self.mllm, segmenter=self.segmenter)
        self._shared = SharedModels(self.mllm, self.segmenter)

    @property
    @deprecated("`pictures` is now `image_store`")
    def pictures(self) -> ImageStore:
        """The old name of `image_store`."""
        return self.image_store

    def get_tools(self) -> list[BaseTool]:
        """Return segment_image, propose_boxes, check_points, segment_prompt, refine_segmentation, describe_image_region."""
        settings: dict[str, Any] = {
            "sam4mllm": self.sam4mllm,
            "mllm": self.mllm,
            "segmenter": self.segmenter,
            "method": self.method,
            "policy": self.policy,
            "image_store": self.image_store,
            "messages_key": self.messages_key,
            "server": self.server,
            "server_token": self.server_token,
        }
        tools = [tool_class(**settings) for tool_class in _TOOLS]
        for tool in tools:
            tool.share_models(self._shared)
        return list(tools)
