"""What langchain-tests asks of a tool, set up once for all of them.

    class TestUnit(ToolSuite, ToolsUnitTests): ...

langchain-tests' own classes are not imported here, so that pytest doesn't collect them twice.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from sam4mllm_tool import Sam4Mllm, SegmentTool
from sam4mllm_tool.tools.base import Sam4MllmTool


class ToolSuite:
    """models: called for the models that the tool is given. example: the arguments of a call that succeeds.
    kind: the class. settings: what else the tool is given."""

    models: ClassVar[Callable[[], Sam4Mllm]]
    example: ClassVar[dict[str, Any]]
    kind: ClassVar[type[Sam4MllmTool]] = SegmentTool
    settings: ClassVar[dict[str, Any]] = {}

    @property
    def tool_constructor(self) -> type[Sam4MllmTool]:
        return self.kind

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"sam4mllm": type(self).models(), **self.settings}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example
