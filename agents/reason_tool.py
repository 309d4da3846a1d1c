"""`segment_by_reasoning`: a tool for other agents that doubts its answer, tries again within a budget, and says why it stands.

It is the search of `sam4mllm_tool.reasoning` as one tool call, with the conventions of the other tools: images by id, a short
text for the model, the whole result as the artifact, errors as the tool's answer.
"""

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, Field

from sam4mllm_tool.agents.rephraser import Rephraser
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.reasoning import Attempt, Budget, Meter, ReasoningConfig, ReasoningResult, ReasoningStrategies
from sam4mllm_tool.reasoning.explanation import explain_step
from sam4mllm_tool.reasoning.search import run_reasoning
from sam4mllm_tool.tools.base import Sam4MllmTool, ToolOutput, ToolTask
from sam4mllm_tool.tools.inputs import ImageField, ToolInput
from sam4mllm_tool.tools.segment_tool import build_mask_output
from sam4mllm_tool.types import Size

__all__ = ["ReasonInput", "ReasonTool"]


class ReasonInput(ToolInput):
    """The arguments of `segment_by_reasoning`."""

    expression: str = Field(
        description="What to segment, in plain words that may take thought, as in 'what would you open the bottle with?' or "
        "'the third mug from the left'."
    )
    image: ImageField = "latest"


class ReasonTool(Sam4MllmTool):
    """Segments what an expression means, and tries again where the answer is in doubt. See `Sam4MllmTool` for its settings.

    Attributes:
        budget: What each call may cost.
        reasoning: When and how to try again.
        chat_model: What rephrases the expression; without any that step is left out.
    """

    name: str = "segment_by_reasoning"
    description: str = (
        "Finds what an expression means in an image where that takes thought, or where segment_image was not sure: it doubts "
        "its answer and tries again in other ways, so it is slower. Returns the box of each object in pixels, the probability "
        "that the answer is right, and the reason in words. 'Not sure enough' and 'there is no such object' are answers, too. "
        "The exact masks go to the program that called it."
    )
    args_schema: type[BaseModel] = ReasonInput

    budget: Budget = Budget()
    reasoning: ReasoningConfig = ReasoningConfig()
    chat_model: BaseChatModel | None = Field(default=None, exclude=True)

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Search for `expression` in `image`."""
        image_id, image = self.open_image(arguments.get("image", "latest"), runtime)
        expression = arguments["expression"]
        write_event = self.get_event_writer(runtime, image_id, expression)
        run = models.start_run(Size(*image.size), expression)
        meter, rephraser = Meter(self.budget), self._create_rephraser()
        config = self.reasoning.for_models(run.dialect, rephrases=rephraser is not None)

        def watch(step: str, before: Sequence[Attempt], after: Sequence[Attempt]) -> None:
            write_event({"event": "step", "step": step, "reason": explain_step(step, before, after)})

        def build_output(result: ReasoningResult) -> ToolOutput:
            segmentation = result.as_segmentation()
            refinable = InteractiveState.from_segmentation(segmentation)
            text, artifact = build_mask_output(image_id, segmentation, refinable, write_event)
            details = {"ended": result.ended, "reason": result.reason, "spent": result.spent.to_dict()}
            return text, {**artifact, "reasoning": details}

        find_wordings = None if rephraser is None else rephraser.find_wordings
        flow = run_reasoning(ReasoningStrategies(run, expression, config), meter, find_wordings=find_wordings, watch=watch)
        return ToolTask(image, flow, run, build_output, hooks=(meter,))

    def _create_rephraser(self) -> Rephraser | None:
        if self.chat_model is None:
            return None
        return Rephraser(self.chat_model, self.reasoning.wordings, time.monotonic)
