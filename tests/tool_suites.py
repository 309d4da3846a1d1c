"""What the tests of several packages share about the tools: langchain-tests' settings, and the embedded pair, loaded once.

    class TestUnit(ToolSuite, ToolsUnitTests): ...

langchain-tests' own classes are not imported here, so that pytest doesn't collect them twice.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

from sam4mllm_tool import Sam4Mllm, SegmentTool
from sam4mllm_tool.tools.base import Sam4MllmTool


@cache
def load_embedded_models() -> Sam4Mllm:
    """Return the embedded pair, loaded once for all tests of a process."""
    return Sam4Mllm.load()


class ToolSuite:
    """What langchain-tests needs to know of a tool.

    Attributes:
        models: Returns the models that the tool is given.
        example: The arguments of a call that succeeds.
        tool_class: The tool's class.
        settings: What else the tool is given.
    """

    models: ClassVar[Callable[[], Sam4Mllm]]
    example: ClassVar[dict[str, Any]]
    tool_class: ClassVar[type[Sam4MllmTool]] = SegmentTool
    settings: ClassVar[dict[str, Any]] = {}

    @property
    def tool_constructor(self) -> type[Sam4MllmTool]:
        return self.tool_class

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return {"sam4mllm": type(self).models(), **self.settings}

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example
