"""Conversations in which a chat model that never saw these tools makes every mistake that such models make.

Each ends with the right mask, compared with the scene's true one, or with an honest refusal, and no tool call stays without an
answer. The chat model is scripted; the agent, the tools and the embedded pair are real.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from sam4mllm_tool import ImageMiddleware, ImagePolicy, ImageStore, Sam4Mllm, Sam4MllmToolkit
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.tools.image_store import compute_image_id
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.embedded_world import EverydayScene
from tests.grouped_scenes import PAIR, SECOND_PAIR, THREE
from tests.sampled_cases import sample_cases
from tests.tool_suites import load_embedded_models
from tests.tools.conversations import (
    FIRST,
    FIRST_BY_COLOUR,
    FIRST_NAME,
    OTHER,
    OTHER_NAME,
    SECOND,
    SECOND_BY_COLOUR,
    SECOND_NAME,
    TARGET,
    TARGET_NAME,
    UserTurn,
    call_with_last_handle,
    find_pixel_inside,
)

THREAD: Any = {"configurable": {"thread_id": "1"}}

UNUSED_BY_COLOUR = f"the {PAIR.unused_colour} one"
EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST_ID = compute_image_id(PAIR.image)


@dataclass(frozen=True)
class Masks:
    """What a tool message has to hold: just these objects of a scene."""

    scene: EverydayScene
    indices: tuple[int, ...]
    note: str = ""
    """A pattern that the text has to contain besides."""

    def check(self, message: ToolMessage) -> None:
        assert message.status == "success", message.text
        masks: list[np.ndarray[Any, Any]] = [rle.decode(fields["mask"]) for fields in message.artifact["objects"]]
        assert len(masks) == len(self.indices), message.text
        for index in self.indices:
            assert max(mask_iou(mask, self.scene.mask(index)) for mask in masks) > 0.8, message.text
        assert re.search(self.note, message.text)


@dataclass(frozen=True)
class Refusal:
    """What a tool message has to be instead: an error, or an answer without a mask, that says this."""

    pattern: str

    def check(self, message: ToolMessage) -> None:
        assert message.status == "error" or not message.artifact["objects"], message.text
        assert re.search(self.pattern, message.text), message.text
        assert "unexpected error" not in message.text
        assert "data URI" not in message.text


Outcome = Masks | Refusal


@dataclass(frozen=True)
class Turn:
    """What a person sends and what the chat model answers; with `removes`, the id of a message that is deleted before."""

    answers: tuple[Any, ...]
    scene: EverydayScene | None = None
    name: str = ""
    message_id: str = ""
    removes: str = ""
    text: str = "Please."

    def message(self) -> HumanMessage:
        message = UserTurn(self.text, (), self.scene).message()
        if self.name:
            message.content[1]["extras"] = {"name": self.name}  # type: ignore[index]
        return message.model_copy(update={"id": self.message_id}) if self.message_id else message


@dataclass(frozen=True)
class Conversation:
    """Turns, and the outcomes of the last tool calls.

    Attributes:
        turns: In order.
        outcomes: Of the last calls, one each, in order.
        has_middleware: Whether the agent takes images out of messages.
        has_own_store: Whether the tools have another store than the middleware.
        settings: Of the toolkit.
    """

    turns: Sequence[Turn]
    outcomes: Sequence[Outcome]
    has_middleware: bool = True
    has_own_store: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def one(*calls: Any, scene: EverydayScene = PAIR.scene, outcome: Outcome, name: str = "first.png", **more: Any) -> Conversation:
    """A single turn with an image, whose last call has the outcome."""
    return Conversation([Turn((*calls, "Done."), scene, name)], [outcome], **more)


def two(*calls: Any, outcome: Outcome) -> Conversation:
    """Two turns with an image each, first.png and second.png; the calls are made in the second."""
    first = Turn(("Yes?",), PAIR.scene, "first.png")
    return Conversation([first, Turn((*calls, "Done."), SECOND_PAIR.scene, "second.png")], [outcome])


def parallel(*messages: AIMessage) -> AIMessage:
    """All calls of these messages in one message."""
    return AIMessage("", tool_calls=[each for message in messages for each in message.tool_calls])


def segment(expression: Any = FIRST_NAME, **arguments: Any) -> AIMessage:
    return call("segment_image", expression=expression, **arguments)


def forge(kind: str) -> dict[str, Any]:
    state = {"expression": FIRST_NAME, "size": {"width": 256, "height": 256}}
    return {"handle": "seg-0123456789abcdef", "kind": kind, "picture": FIRST_ID, "state": state, "objects": []}


def click(index: int, label: int = 1, scene: EverydayScene = PAIR.scene) -> dict[str, int]:
    x, y = find_pixel_inside(scene, index)
    return {"x": x, "y": y, "label": label}


def refine(**arguments: Any) -> Any:
    return call_with_last_handle("refine_segmentation", "result", **arguments)


BOX = [int(side) for side in PAIR.scene.objects[FIRST].box]
SHOWS_FIRST, SHOWS_SECOND, SHOWS_BOTH = (Masks(PAIR.scene, group) for group in ((FIRST,), (SECOND,), PAIR.group))
SHOWS_TARGET = Masks(SECOND_PAIR.scene, (TARGET,))
LISTED = Refusal(rf'1: {FIRST_ID}, 256 x 256, "first.png"')

CONVERSATIONS: dict[str, Conversation] = {
    # Which image
    "the shown name": two(segment(image="first.png"), outcome=SHOWS_FIRST),
    "the name in capitals": two(segment(image="FIRST.PNG"), outcome=SHOWS_FIRST),
    "a pasted line": two(segment(image=f'[picture {FIRST_ID}, "first.png"]'), outcome=SHOWS_FIRST),
    "an id in capitals": two(segment(image=FIRST_ID.upper()), outcome=SHOWS_FIRST),
    "the beginning of an id": two(segment(image=FIRST_ID[:9]), outcome=SHOWS_FIRST),
    "image 1": two(segment(image="image 1"), outcome=SHOWS_FIRST),
    "the first image": two(segment(image="the first image"), outcome=SHOWS_FIRST),
    "latest": two(segment(TARGET_NAME, image="latest"), outcome=SHOWS_TARGET),
    "the second image": two(segment(TARGET_NAME, image="the second image"), outcome=SHOWS_TARGET),
    "a wrong name, then one of the list": two(segment(image="cat.jpg"), segment(image="first.png"), outcome=SHOWS_FIRST),
    "an image that there is not": two(segment(image="image 3"), outcome=LISTED),
    "an id of another conversation": two(segment(image="img-0123456789ab"), outcome=LISTED),
    "a URL": one(segment(image="https://example.com/first.png/x"), outcome=LISTED),
    "a folder that the model made up": one(segment(image="/mnt/data/first.png"), outcome=SHOWS_FIRST),
    "no image at all": Conversation(
        [Turn((segment(), "Send one."))], [Refusal("no image in this conversation yet; ask for one")]
    ),
    "a path in the allowed folder": Conversation(
        [Turn((segment("the unicorn", image="examples/scene.png"), "None."))],
        [Refusal("there is no such object")],
        settings={"policy": ImagePolicy(allow_paths=(str(EXAMPLES),))},
    ),
    "a removed message": Conversation(
        [
            Turn((segment(), "There."), PAIR.scene, "first.png", message_id="m1"),
            Turn((segment(image=FIRST_ID), refine(instruction="bigger"), "Gone."), removes="m1"),
        ],
        [Refusal("no image in this conversation yet"), Refusal("no longer in this conversation")],
    ),
    "a removed message, sent again": Conversation(
        [
            Turn((segment(), "There."), PAIR.scene, "first.png", message_id="m1"),
            Turn((segment(image=FIRST_ID), "Gone."), removes="m1"),
            Turn((segment(SECOND_NAME), "There."), PAIR.scene, "first.png"),
        ],
        [SHOWS_SECOND],
    ),
    "no middleware": one(segment(image="first.png"), outcome=SHOWS_FIRST, has_middleware=False),
    "no middleware, then a refinement": one(
        segment(), refine(instruction=f"no, {SECOND_BY_COLOUR}"), outcome=SHOWS_SECOND, has_middleware=False
    ),
    "two stores": one(segment(), outcome=Refusal("another ImageStore than this tool's"), has_own_store=True),
    # null
    "a null image": one(segment(image=None), outcome=SHOWS_FIRST),
    "null in words": one(segment(image="null"), outcome=SHOWS_FIRST),
    "null everywhere": one(
        segment(SECOND_NAME),
        call("refine_segmentation", result=None, instruction=f"no, {FIRST_BY_COLOUR}", clicks=None, forget_clicks=None),
        outcome=SHOWS_FIRST,
    ),
    "a null dialogue": one(
        call("propose_boxes", expression=FIRST_NAME, image=None),
        call("check_points", dialogue=None, points=None, grid=None),
        call("segment_prompt", dialogue="None", drop=None, points=None, box=None, image=None),
        outcome=SHOWS_FIRST,
    ),
    # Forged and mistaken handles
    "a forged dialogue beside a box": one(
        call("segment_prompt", dialogue=forge("dialogue"), box=BOX), outcome=Refusal("give a dialogue or a box, not both")
    ),
    "a forged dialogue, then the box alone": one(
        call("segment_prompt", dialogue=forge("dialogue"), box=BOX), call("segment_prompt", box=BOX), outcome=SHOWS_FIRST
    ),
    "a forged dialogue alone": one(
        call("segment_prompt", dialogue=forge("dialogue")), outcome=Refusal("expected the handle of a dialogue")
    ),
    "a forged result, then the latest": one(
        segment(SECOND_NAME),
        call("refine_segmentation", result=forge("result"), instruction=f"no, {FIRST_BY_COLOUR}"),
        call("refine_segmentation", result="latest", instruction=f"no, {FIRST_BY_COLOUR}"),
        outcome=SHOWS_FIRST,
    ),
    "a handle that was made up": one(
        segment(),
        call("refine_segmentation", result="seg-ffffffffffffffff", instruction="bigger"),
        outcome=Refusal("no result 'seg-ffffffffffffffff' in this conversation; there is seg-"),
    ),
    "a dialogue in the place of a result": one(
        call("propose_boxes", expression=FIRST_NAME),
        refine(instruction="bigger"),
        outcome=Refusal("is a dialogue, not a result"),
    ),
    "too early": one(call("check_points"), outcome=Refusal("call propose_boxes first")),
    # Several expressions
    "a list of expressions": one(segment([FIRST_NAME, SECOND_NAME]), outcome=SHOWS_BOTH),
    "A and B": one(segment(f"{FIRST_NAME} and {OTHER_NAME}"), outcome=Masks(PAIR.scene, (FIRST, OTHER))),
    "A; B, of which one is absent": one(
        segment(f"{FIRST_NAME}; {PAIR.absent}"),
        outcome=Masks(PAIR.scene, (FIRST,), f"'{PAIR.absent}': there is no such object"),
    ),
    "all but one": one(
        segment(f"{THREE.plural} but not {THREE.colour_name(THREE.group[0])}"),
        scene=THREE.scene,
        outcome=Masks(THREE.scene, THREE.group[1:], "left out"),
    ),
    "all, and nothing to leave out": one(
        segment(f"{PAIR.plural} except {UNUSED_BY_COLOUR}"), outcome=Masks(PAIR.scene, (FIRST, SECOND), "nothing was left out")
    ),
    "an absent object": one(segment(PAIR.absent), outcome=Refusal(r"there is no such object .* confidence \d+%")),
    # Parallel calls
    "two calls at once": Conversation(
        [Turn((parallel(segment(), segment(SECOND_NAME)), "Both."), PAIR.scene, "first.png")], [SHOWS_FIRST, SHOWS_SECOND]
    ),
    "two images at once, one of them wrong": Conversation(
        [
            Turn(("Yes?",), PAIR.scene, "first.png"),
            Turn((parallel(segment(image="image 1"), segment(image="cat.png")), "One."), SECOND_PAIR.scene, "second.png"),
        ],
        [SHOWS_FIRST, LISTED],
    ),
    # Arguments
    "direction marks in an expression": one(
        segment(FIRST_NAME.replace(" ", " \u202e", 1) + "\u202c\u200f"), outcome=SHOWS_FIRST
    ),
    "control characters in an expression": one(segment(FIRST_NAME.replace(" ", "\x00 \x1b")), outcome=SHOWS_FIRST),
    "no expression, then one": one(call("segment_image", image="latest"), segment(), outcome=SHOWS_FIRST),
    "an expression that is a number": one(segment(3), outcome=Refusal("expected the expression as text")),
    "an expression far too long": one(segment("x" * 5_000), outcome=Refusal("at most 2,000 are allowed")),
    "a tool that there is not": one(call("find_object", expression=FIRST_NAME), segment(), outcome=SHOWS_FIRST),
    "a box as text": one(call("segment_prompt", box=str(BOX)), outcome=SHOWS_FIRST),
    "a box beside the image": one(call("segment_prompt", box=[900, 900, 990, 990]), outcome=Refusal("256 x 256 pixels")),
    "a grid as text": one(
        call("propose_boxes", expression=FIRST_NAME),
        call("check_points", grid="4x4"),
        call("segment_prompt"),
        outcome=SHOWS_FIRST,
    ),
    "a number that no point has": one(
        call("propose_boxes", expression=FIRST_NAME),
        call("check_points", grid=4),
        call("segment_prompt", drop=[99]),
        call("segment_prompt"),
        outcome=SHOWS_FIRST,
    ),
    "a point beside the image": one(
        call("propose_boxes", expression=FIRST_NAME),
        call("check_points", points=[[900, 10]]),
        outcome=Refusal(r"the point \(900, 10\) is outside the image of 256 x 256 pixels"),
    ),
    "clicks as text": one(segment(SECOND_NAME), refine(clicks=str([click(FIRST)]).replace("'", '"')), outcome=SHOWS_FIRST),
    "clicks that contradict one another": one(
        segment(), refine(clicks=[click(FIRST), click(FIRST, 0)]), outcome=Refusal("the clicks contradict one another")
    ),
    # Corrections
    "no, the other one": one(segment(SECOND_NAME), refine(instruction=f"no, {FIRST_BY_COLOUR}"), outcome=SHOWS_FIRST),
    "also another": one(segment(), refine(instruction=f"also {OTHER_NAME}"), outcome=Masks(PAIR.scene, (FIRST, OTHER))),
    "without one": one(segment(PAIR.plural), refine(instruction=f"without {SECOND_BY_COLOUR}"), outcome=SHOWS_FIRST),
    "a number that was shown": one(
        segment(THREE.plural, image="latest"),
        refine(instruction="remove the second"),
        scene=THREE.scene,
        outcome=Masks(THREE.scene, THREE.group[::2]),
    ),
    "only a number": one(
        segment(THREE.plural),
        refine(instruction="only the first"),
        scene=THREE.scene,
        outcome=Masks(THREE.scene, THREE.group[:1]),
    ),
    "a number that was not shown": one(segment(PAIR.plural), refine(instruction="remove 7"), outcome=Refusal("7")),
    "something that is not there": one(
        segment(), refine(instruction=f"also {PAIR.absent}"), outcome=Refusal("there is no .* the result stays")
    ),
}


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


def run(conversation: Conversation, models: Sam4Mllm) -> list[BaseMessage]:
    """Run the turns in one thread and return its messages."""
    store = ImageStore()
    own = ImageStore() if conversation.has_own_store else store
    tools = Sam4MllmToolkit(sam4mllm=models, image_store=own, **conversation.settings).get_tools()
    model = ScriptedChatModel(answers=[answer for turn in conversation.turns for answer in turn.answers])
    middleware = [ImageMiddleware(store)] if conversation.has_middleware else []
    graph: Any = create_agent(model, tools, middleware=middleware, checkpointer=InMemorySaver())
    for turn in conversation.turns:
        if turn.removes:
            graph.update_state(THREAD, {"messages": [RemoveMessage(turn.removes)]})
        graph.invoke({"messages": [turn.message()]}, THREAD)
    assert len(model.requests) == len(model.answers)
    return graph.get_state(THREAD).values["messages"]


def test_there_are_at_least_forty() -> None:
    assert len(CONVERSATIONS) >= 40


@pytest.mark.parametrize("conversation", sample_cases(CONVERSATIONS, every=7))
def test_a_conversation_ends_with_the_right_mask_or_an_honest_refusal(conversation: Conversation, models: Sam4Mllm) -> None:
    messages = run(conversation, models)
    calls = [each["id"] for message in messages if isinstance(message, AIMessage) for each in message.tool_calls]
    answers = [message for message in messages if isinstance(message, ToolMessage)]
    assert [message.tool_call_id for message in answers] == calls, "every call is answered, once and in order"
    assert all(len(message.text) < 1_500 for message in answers)
    for outcome, answer in zip(conversation.outcomes, answers[-len(conversation.outcomes) :], strict=True):
        outcome.check(answer)
