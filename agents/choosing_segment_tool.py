"""`segment_image` for a conversation without a chat model: it splits "A and B", and asks back where a singular fits several."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from sam4mllm_tool.interactive import InteractiveState, find_choices, list_choices, segment_compound
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.tools.base import ToolOutput, ToolTask
from sam4mllm_tool.tools.segment_tool import SegmentTool
from sam4mllm_tool.types import Segmentation

__all__ = ["ChoosingSegmentTool"]

_SETTINGS = ("sam4mllm", "method", "policy", "image_store", "server", "server_token")


class ChoosingSegmentTool(SegmentTool):
    """Segments, and lists the other objects that a singular expression may mean, with the numbers that choose them."""

    server_tool: ClassVar[str | None] = "segment_or_choose"

    @classmethod
    def replace_in(cls, tools: Sequence[Any]) -> list[Any]:
        """Return the tools with this one in the place of `segment_image`, with the same settings and models."""
        return [cls._like(tool) if type(tool) is SegmentTool else tool for tool in tools]

    @classmethod
    def _like(cls, tool: SegmentTool) -> "ChoosingSegmentTool":
        copy = cls(**{name: getattr(tool, name) for name in _SETTINGS})
        copy.share_models(tool._shared)
        return copy

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Segment `expression` in `image`, and look for what else it may mean."""
        task = super().create_task(models, runtime, **arguments)
        given = arguments["expression"]
        expressions = [given] if isinstance(given, str) else list(given)

        def segment() -> Flow[tuple[Segmentation, InteractiveState]]:
            segmentation = yield from segment_compound(task.run, expressions, self.method)
            state = yield from find_choices(task.run, InteractiveState.from_segmentation(segmentation))
            return segmentation, state

        def build_output(result: tuple[Segmentation, InteractiveState]) -> ToolOutput:
            segmentation, state = result
            text, artifact = task.build_output(segmentation)
            if not state.choices:
                return text, artifact
            *lines, handle_line = str(text).splitlines()
            question = f'"{state.expression}" fits {len(state.choices) + 1} objects: which one is meant?'
            choices = [question, *(f"  {line}" for line in list_choices(state))]
            return "\n".join([*lines, *choices, handle_line]), {**artifact, "state": state.to_dict()}

        return replace(task, flow=segment(), build_output=build_output)
