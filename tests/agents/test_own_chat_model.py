"""An agent whose own chat model is the MLLM: one model object, masks out."""

import re
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import PrivateAttr

from sam4mllm_tool import ImageMiddleware, Sam4MllmToolkit, SegmentTool, create_segmentation_agent
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Box, FreeText, Question, Reply, Size, Turn
from tests.agents.scripted_model import call
from tests.grouped_scenes import PAIR
from tests.tool_suites import load_embedded_models
from tests.tools.conversations import FIRST, FIRST_NAME, UserTurn

SIZE = Size(PAIR.scene.image.shape[1], PAIR.scene.image.shape[0])
MASK = PAIR.scene.mask(FIRST)


class TalkingMLLM(BaseChatModel):
    """With tools bound it is the agent's scripted model; without, an MLLM that knows where the red ring is."""

    _questions: list[str] = PrivateAttr(default_factory=list)
    _talks: int = PrivateAttr(default=0)

    @property
    def questions(self) -> list[str]:
        """What it was asked as an MLLM."""
        return self._questions

    @property
    def _llm_type(self) -> str:
        return "talking"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=list(tools), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        if kwargs.get("tools"):
            self._talks += 1
            message = call("segment_image", expression=FIRST_NAME) if self._talks == 1 else AIMessage("There it is.")
        else:
            assert any(block.get("type") == "image" for block in messages[0].content if isinstance(block, dict))
            self._questions.append(str(messages[-1].text))
            message = AIMessage(self.look(self._questions[-1]))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def look(self, question: str) -> str:
        """Answer from the true mask."""
        rows, columns = np.nonzero(MASK)
        box = Box(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        lines = re.findall(r"^(\d+)\. The point: (\(\d+,\d+\))", question, re.MULTILINE)
        if lines:
            return "\n".join(f"{number}. {self.judge(point)}" for number, point in lines)
        if "Is the point" in question:
            return self.judge(question)
        if "Is the object" in question:
            return "Yes"
        return PLAIN.format_boxes([] if "Leave out" in question else [box], SIZE)

    def judge(self, text: str) -> str:
        """Say whether the first point of a text is on the ring."""
        question = Question((Turn("user", ""),), FreeText(9))
        (numbers,) = re.findall(r"\((\d+,\d+)\)", text)[:1]
        prompt = PLAIN.format_boxes([Box(0, 0, *SIZE)], SIZE) + f" on ({numbers})"
        (point,) = PLAIN.parse_prompts(question, Reply(prompt), SIZE)[0].points
        return "Yes" if MASK[int(point.y), int(point.x)] else "No"


def find_masks(messages: list[BaseMessage]) -> list[Any]:
    (answer,) = [message for message in messages if isinstance(message, ToolMessage)]
    assert answer.status == "success", answer.content
    return [rle.decode(segmented["mask"]) for segmented in answer.artifact["objects"]]


@pytest.mark.parametrize("method", ["adaptive", "pqpp"])
def test_an_agents_own_model_is_the_mllm(method: str) -> None:
    model = TalkingMLLM()
    toolkit = Sam4MllmToolkit(mllm=model, method=method)
    images = ImageMiddleware(toolkit.image_store)
    agent = images.guard(create_agent(model, toolkit.get_tools(), middleware=[images]))
    messages = agent.invoke({"messages": [UserTurn(f"Cut out {FIRST_NAME}.", (), PAIR.scene).message()]})["messages"]
    (mask,) = find_masks(messages)
    assert mask_iou(mask, MASK) > 0.9
    assert len(model.questions) >= 2
    assert "base64" not in str(messages)


async def test_one_line_gives_such_an_agent_async_and_its_stream_shows_no_question_of_the_mllm() -> None:
    model = TalkingMLLM()
    agent = create_segmentation_agent(model, mllm=model)
    shown, state = [], {}
    request = {"messages": [UserTurn(f"Cut out {FIRST_NAME}.", (), PAIR.scene).message()]}
    async for mode, part in agent.astream(request, stream_mode=["messages", "values"]):
        if mode == "messages":
            shown.append(str(part[0].text))
        else:
            state = part
    (mask,) = find_masks(state["messages"])
    assert mask_iou(mask, MASK) > 0.9
    assert not [text for text in shown if text in ("Yes", "No") or text.startswith("[")], "the dialogue is not the agent's"
    assert shown[-1] == "There it is."


def test_a_single_tool_takes_a_chat_model_and_says_how_it_was_asked() -> None:
    tool = SegmentTool(mllm=TalkingMLLM(), method="pqpp")
    uri = UserTurn("", (), PAIR.scene).message().content[1]["base64"]
    message = tool.invoke(
        {"name": "segment_image", "args": {"image": f"data:image/png;base64,{uri}", "expression": FIRST_NAME}, "id": "1"}
        | {"type": "tool_call"}
    )
    assert message.status == "success", message.content
    assert message.artifact["dialect"] == "plain"
    assert message.artifact["models"]["mllm"] == "langchain:TalkingMLLM:TalkingMLLM"
    points = message.artifact["point_answers"]
    assert {point["confidence"] for point in points} == {None}, "unknown, not invented"


def test_a_model_without_vision_is_one_line_of_the_tool() -> None:
    tool = SegmentTool(mllm=TalkingMLLM(profile={"image_inputs": False}))
    message = tool.invoke(
        {"name": "segment_image", "args": {"image": "latest", "expression": FIRST_NAME}, "id": "1", "type": "tool_call"}
    )
    assert message.status == "error"
    assert "takes no images: choose a vision model" in message.content


def test_two_sources_of_models_are_refused() -> None:
    models = load_embedded_models()
    for build in (SegmentTool, Sam4MllmToolkit):
        with pytest.raises(ValueError, match="either sam4mllm, loaded models, or mllm, got both"):
            build(sam4mllm=models, mllm=TalkingMLLM())
    with pytest.raises(ValueError, match="either mllm or toolkit, got both"):
        create_segmentation_agent(TalkingMLLM(), mllm=TalkingMLLM(), toolkit=Sam4MllmToolkit())
