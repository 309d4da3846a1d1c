"""What langchain-tests asks of a tool, set up once for the segmenting one.

    class TestUnit(ToolSuite, ToolsUnitTests): ...

langchain-tests' own classes are not imported here, so that pytest doesn't collect them twice.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from sam4mllm_tool import Sam4Mllm, SegmentTool


class ToolSuite:
    """models: called for the models that the tool is given. example: the arguments of a call that succeeds."""

    models: ClassVar[Callable[[], Sam4Mllm]]
    example: ClassVar[dict[str, Any]]

    @property
    def tool_constructor(self) -> type[SegmentTool]:
        return SegmentTool

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"sam4mllm": type(self).models()}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example
