"""`segment_by_reasoning`: the search for an answer as a tool for other agents."""

import json
import math
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from PIL import Image

from sam4mllm_tool import ReasonTool, Sam4Mllm, Segmentation
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.reasoning import Budget, ReasoningConfig
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.types import Box, Labels, Question, Reply, Size
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.tool_suites import ToolSuite

SIZE = Size(192, 192)
LEFT, RIGHT = Box(20.5, 60.5, 60.5, 100.5), Box(120.5, 60.5, 160.5, 100.5)
RIGHT_TEXT = EMBEDDED.encode_box(RIGHT, SIZE)


def reply(question: Question) -> Reply:
    """Name the left box, and the right one for "the bottle" alone; be sure of the right one only."""
    text = question.turns[-1].text
    if isinstance(question.answer, Labels):
        probability = 0.99 if RIGHT_TEXT in text or text.startswith("Is this point") else 0.4
        return Reply("yes" if probability > 0.5 else "no", ((probability, 1 - probability),))
    boxes = () if text.startswith("Not the object") else (RIGHT,) if "bottle" in text else (LEFT,)
    return Reply(EMBEDDED.format_boxes(boxes, SIZE), log_probability=math.log(0.9))


def models() -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=EMBEDDED)


def image_id_in(store: ImageStore) -> str:
    return store.put(Image.new("RGB", SIZE, "white"))


STORE = ImageStore()
IMAGE_ID = image_id_in(STORE)


class Suite(ToolSuite):
    models = staticmethod(models)
    tool_class = ReasonTool
    example: ClassVar = {"image": IMAGE_ID, "expression": "the opener"}
    settings: ClassVar = {"image_store": STORE}


class TestReasonToolUnit(Suite, ToolsUnitTests):
    pass


class TestReasonToolIntegration(Suite, ToolsIntegrationTests):
    pass


def call_tool(tool: ReasonTool, **arguments: Any) -> ToolMessage:
    arguments = {"image": IMAGE_ID, "expression": "the opener", **arguments}
    message = tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    return message


def create_tool(**settings: Any) -> ReasonTool:
    return ReasonTool(sam4mllm=models(), image_store=STORE, **settings)


async def test_a_doubtful_answer_is_tried_again_and_the_message_says_why_it_stands() -> None:
    tool = create_tool(chat_model=ScriptedChatModel(answers=["the bottle", "the bottle"]))
    message = call_tool(tool)
    assert message.status == "success"
    segmentation = Segmentation.from_dict(message.artifact)
    assert segmentation.objects[0].prompt.box == pytest.approx(RIGHT, abs=1)
    assert segmentation.confidence == pytest.approx(0.99)
    details = message.artifact["reasoning"]
    assert details["ended"] == "confident"
    assert details["reason"] in message.text
    assert details["spent"]["rounds"] <= Budget().rounds
    assert json.loads(json.dumps(message.artifact)) == message.artifact
    arguments = {"image": IMAGE_ID, "expression": "the opener"}
    again = await tool.ainvoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})
    assert again.artifact["reasoning"]["reason"] == details["reason"]


def test_an_answer_that_is_too_unsure_is_not_no_such_object() -> None:
    message = call_tool(create_tool(reasoning=ReasoningConfig(abstain=0.7, steps=("other",))))
    assert message.artifact["abstained"]
    assert "not sure enough to answer" in message.text
    assert "no such object in" not in message.text


def test_the_budget_of_a_call_holds() -> None:
    message = call_tool(create_tool(budget=Budget(rounds=1)))
    assert message.artifact["reasoning"]["spent"]["rounds"] == 1
    assert "never verified; the budget" in message.text


WRONG = {
    "an unknown image": ({"image": "img-0123456789ab"}, "no longer kept"),
    "no image": ({"image": "latest"}, "no latest image"),
    "a path": ({"image": "/etc/passwd"}, "turned off"),
    "an empty expression": ({"expression": " "}, "empty"),
    "no expression": ({"expression": None}, "expression"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.values(), ids=WRONG)
def test_what_goes_wrong_is_the_tools_answer(wrong: dict[str, Any], reason: str) -> None:
    message = call_tool(create_tool(), **wrong)
    assert message.status == "error"
    assert reason in message.text


def test_an_agent_calls_it_on_its_own_image_and_sees_each_step() -> None:
    store = ImageStore()
    tool = ReasonTool(sam4mllm=models(), image_store=store)
    model = ScriptedChatModel(answers=[call(tool.name, expression="the bottle"), "There it is."])
    images = ImageMiddleware(store)
    agent = images.guard(create_agent(model, [tool], middleware=[images]))
    uri = "data:image/png;base64," + _encode_png()
    content: Any = [{"type": "text", "text": "find it"}, {"type": "image_url", "image_url": {"url": uri}}]
    steps, messages = [], []
    for mode, part in agent.stream({"messages": [HumanMessage(content)]}, stream_mode=["custom", "values"]):
        if mode == "custom":
            steps.append(part)
        else:
            messages = part["messages"]
    result = next(message for message in messages if isinstance(message, ToolMessage))
    assert result.status == "success"
    assert [event["event"] for event in steps] == ["step", "mask"]
    assert steps[0]["reason"].startswith("asked for it on the whole image: attempt 1, 1 object, confidence 99%")


def _encode_png() -> str:
    import base64
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", SIZE, "white").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
