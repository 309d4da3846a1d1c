"""The refine tool on the embedded pair: right results stay right, listed numbers can be said, and nothing is guessed."""

from typing import Any

import pytest
from langchain_core.messages import ToolMessage

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import ImageStore
from tests.grouped_scenes import FOUR
from tests.sampled_cases import sample_items
from tests.tool_suites import load_embedded_models

SCENE = FOUR.scene
OTHER_NAME = FOUR.name(FOUR.single)


class Conversation:
    """Calls tools as an agent does, each on the result of the call before."""

    def __init__(self) -> None:
        self.store = ImageStore()
        self.image_id = self.store.put(FOUR.image)
        toolkit = Sam4MllmToolkit(sam4mllm=load_embedded_models(), image_store=self.store)
        self.tools = {tool.name: tool for tool in toolkit.get_tools()}
        self.messages: list[ToolMessage] = []

    def use(self, name: str, **arguments: Any) -> ToolMessage:
        """Call a tool with the conversation's messages injected, as an agent does."""
        runtime = type("Runtime", (), {"state": {"messages": list(self.messages)}, "stream_writer": None})()
        call = {"type": "tool_call", "id": str(len(self.messages)), "name": name, "args": {**arguments, "runtime": runtime}}
        message: ToolMessage = self.tools[name].invoke(call)
        self.messages.append(message)
        return message

    def segment(self, expression: str) -> ToolMessage:
        result = self.tools["segment_image"].invoke(
            {
                "type": "tool_call",
                "id": "first",
                "name": "segment_image",
                "args": {"expression": expression, "image": self.image_id},
            }
        )
        self.messages.append(result)
        return result

    def refine(self, instruction: str) -> ToolMessage:
        return self.use("refine_segmentation", instruction=instruction)


def list_shown(message: ToolMessage) -> list[int]:
    """Return which objects of the scene the masks of a result are, in order."""
    masks = [rle.decode(fields["mask"]) for fields in message.artifact["objects"]]
    return [max(range(len(SCENE.objects)), key=lambda index: mask_iou(mask, SCENE.mask(index))) for mask in masks]


@pytest.fixture
def conversation() -> Conversation:
    return Conversation()


@pytest.mark.slow
def test_each_object_is_verified_by_the_expression_that_it_was_segmented_by(conversation: Conversation) -> None:
    conversation.segment(FOUR.plural)
    both = conversation.refine(f"also {OTHER_NAME}")
    assert sorted(list_shown(both)) == sorted([*FOUR.group, FOUR.single])
    fewer = conversation.refine("remove 2")
    assert [fields["expression"] for fields in fewer.artifact["objects"]] == [FOUR.plural] * 3 + [OTHER_NAME]
    described = conversation.use("describe_image_region")
    regions = described.artifact["regions"]
    assert [region["expression"] for region in regions] == [FOUR.plural] * 3 + [OTHER_NAME]
    assert min(region["confidence"] for region in regions) > 0.5, "right results are not denied"
    assert f"{FOUR.plural} and {OTHER_NAME}" not in described.text


NUMBERED = {
    "remove the third": [0, 1, 3],
    "remove 3": [0, 1, 3],
    "keep only the first": [0],
    "keep 1 and 2": [0, 1],
    "only the second": [1],
    "the last two": [2, 3],
    "entferne 3": [0, 1, 3],
    "nur das zweite": [1],
}


@pytest.mark.parametrize(("instruction", "expected"), sample_items(NUMBERED, every=4))
def test_the_numbers_of_the_result_can_be_said(conversation: Conversation, instruction: str, expected: list[int]) -> None:
    shown = list_shown(conversation.segment(FOUR.plural))
    assert sorted(shown) == sorted(FOUR.group)
    refined = conversation.refine(instruction)
    assert list_shown(refined) == [shown[index] for index in expected]
    assert refined.artifact["changed"]
    assert [fields["number"] for fields in refined.artifact["objects"]] == list(range(1, len(expected) + 1))


def test_the_one_before_brings_back_what_went_and_drops_nothing(conversation: Conversation) -> None:
    shown = list_shown(conversation.segment(FOUR.plural))
    removed = conversation.refine("remove 2")
    assert "left out: 4 at" in removed.text
    assert list_shown(conversation.refine("the one before")) == shown
    assert "left out" not in conversation.messages[-1].text


@pytest.mark.slow
def test_undo_goes_back_over_what_changed_nothing_and_further_each_time(conversation: Conversation) -> None:
    shown = list_shown(conversation.segment(FOUR.plural))
    three, two = conversation.refine("remove 1"), conversation.refine("remove 1")
    same = conversation.refine("keep 1 and 2")
    assert not same.artifact["changed"]
    assert list_shown(same) == list_shown(two)
    assert list_shown(conversation.refine("undo")) == list_shown(three)
    assert list_shown(conversation.refine("undo")) == shown


@pytest.mark.slow
def test_what_was_left_out_never_lists_what_is_shown(conversation: Conversation) -> None:
    conversation.segment(FOUR.plural)
    conversation.refine("keep 1")
    right = conversation.refine("the right one")
    (box,) = [fields["box"] for fields in right.artifact["objects"]]
    assert box not in [fields["box"] for fields in right.artifact["state"]["rejected"]]
    shown = f"({box[0]:.0f}, {box[1]:.0f})"
    assert all(shown not in line for line in right.text.splitlines() if "left out" in line)


@pytest.mark.slow
def test_what_is_not_understood_is_refused_with_the_numbers_and_changes_nothing(conversation: Conversation) -> None:
    shown = conversation.segment(FOUR.plural)
    for instruction in ("remove 9", "remove two", "2 or 3", "add back 1", "the purple elephant"):
        refused = conversation.refine(instruction)
        assert refused.status == "error"
        assert "1, 2, 3 and 4" in refused.text or instruction == "the purple elephant"
    assert list_shown(conversation.refine("keep 1")) == list_shown(shown)[:1]


@pytest.mark.slow
def test_a_result_of_an_earlier_version_can_be_refined(conversation: Conversation) -> None:
    first = conversation.segment(FOUR.plural)
    for fields in first.artifact["objects"]:
        for key in ("expression", "number", "step"):
            fields.pop(key)
    for key in ("choices", "step"):
        first.artifact["state"].pop(key)
    refined = conversation.refine("remove 1")
    assert list_shown(refined) == list_shown(first)[1:]
    assert [fields["expression"] for fields in refined.artifact["objects"]] == [FOUR.plural] * 3
