"""The LangChain tool: an agent gives a picture and an expression and gets the masks.

The model reads a short summary; the program gets the whole result as the message's artifact, plain JSON that survives a
checkpointer. What a model may open is decided by the tool's policy: data URIs alone, unless paths or URLs are configured.
"""

import asyncio
import threading
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import BaseTool, ToolException
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.export import summary
from sam4mllm_tool.images import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline import Method, Sam4Mllm
from sam4mllm_tool.types import Segmentation

Result = tuple[str, dict[str, Any]]


_LOADING = threading.Lock()  # of all tools: one that held it itself could be neither copied nor pickled


class SegmentInput(BaseModel):
    """What the model fills in."""

    image: str = Field(description="The picture: a data URI, or a path or URL where this tool is configured to open them.")
    expression: str = Field(
        description="What to segment, in plain words, as in 'the mug behind the laptop' or 'all red shapes'."
    )


def _say_what_is_wrong(error: ValidationError) -> str:
    """What a model can act on when it filled in the arguments wrongly."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


class SegmentTool(BaseTool):
    """Segments what an expression means in a picture.

    sam4mllm: the loaded models; without them `Sam4Mllm.load()` is called on first use. policy: what pictures may be opened.
    What goes wrong with an argument comes back as a message of status "error" that the model can act on. Copies share the
    models; a pickled tool leaves behind those that it loaded itself, and loads them again where it is needed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str = "segment_image"
    description: str = (
        "Finds what an expression means in a picture and returns how many objects there are, the box of each in pixels, and "
        "how far its mask agrees with the model's answers about points in that box, which is not how likely the box is right. "
        "It also says when there is no such object. The exact masks go to the program that called it."
    )
    args_schema: type[BaseModel] = SegmentInput
    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = _say_what_is_wrong

    sam4mllm: Sam4Mllm | None = Field(default=None, exclude=True)
    method: Method = "pqpp"
    policy: ImagePolicy = TOOL_POLICY

    _loaded: Sam4Mllm | None = PrivateAttr(default=None)

    def _models(self) -> Sam4Mllm:
        with _LOADING:
            models = self.sam4mllm or self._loaded
            if models is None:
                models = self._loaded = Sam4Mllm.load()
            return models

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "SegmentTool":
        memo = {} if memo is None else memo
        memo |= {id(models): models for models in (self.sam4mllm, self._loaded)}
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return state | {"__pydantic_private__": {**(state["__pydantic_private__"] or {}), "_loaded": None}}

    def _run(self, image: str, expression: str, run_manager: CallbackManagerForToolRun | None = None) -> Result:  # noqa: ARG002
        try:
            return _result(self._models().segment(image, expression, method=self.method, policy=self.policy))
        except Sam4MllmError as error:
            raise ToolException(str(error)) from error

    async def _arun(
        self,
        image: str,
        expression: str,
        run_manager: AsyncCallbackManagerForToolRun | None = None,  # noqa: ARG002
    ) -> Result:
        try:
            models = await asyncio.to_thread(self._models)  # loading them takes seconds
            found = await models.asegment(image, expression, method=self.method, policy=self.policy)
            return await asyncio.to_thread(_result, found)  # masks of many pixels take a while to encode
        except Sam4MllmError as error:
            raise ToolException(str(error)) from error


def _result(segmentation: Segmentation) -> Result:
    return summary(segmentation), segmentation.to_dict()
