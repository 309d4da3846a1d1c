"""Whole conversations of a real agent with the toolkit: a scripted chat model, the embedded pair, images in messages.

Each is a list of user turns with the chat model's answers. This is a module of its own so that a test can run the later turns
in another process:

    python -m tests.tools.conversations DATABASE FOLDER
"""

import base64
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.graph.state import CompiledStateGraph
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import ImageStore, list_image_ids
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.embedded_world import EverydayScene
from tests.grouped_scenes import PAIR, SECOND_PAIR

FIRST, SECOND = PAIR.group
OTHER = PAIR.single
FIRST_NAME, SECOND_NAME, OTHER_NAME = map(PAIR.name, (FIRST, SECOND, OTHER))
FIRST_BY_COLOUR, SECOND_BY_COLOUR = map(PAIR.colour_name, (FIRST, SECOND))
TARGET = SECOND_PAIR.group[1]
TARGET_NAME = SECOND_PAIR.name(TARGET)


def find_pixel_inside(scene: EverydayScene, index: int) -> tuple[int, int]:
    """Return x and y of a pixel of an object: in its middle row, in the middle of the left half of its pixels."""
    mask = scene.mask(index)
    y = int(scene.objects[index].box.y1 + scene.objects[index].box.y2) // 2
    xs = mask[y].nonzero()[0]
    return int(xs[len(xs) // 4]), y


def get_last_handle(messages: Sequence[BaseMessage]) -> str:
    """Return the handle that the chat model reads in the last tool message that has one."""
    texts = [message.text for message in messages if isinstance(message, ToolMessage) and " seg-" in message.text]
    return texts[-1].rsplit(" seg-", 1)[1].split()[0].join(("seg-", ""))


def call_with_last_handle(tool: str, argument: str, **arguments: Any) -> Callable[[list[BaseMessage]], Any]:
    """Return an answer that calls a tool with the last handle as `argument`."""
    return lambda messages: call(tool, **{argument: get_last_handle(messages)}, **arguments)


@dataclass(frozen=True)
class UserTurn:
    """What a user writes, with an image or without, and what the chat model answers."""

    text: str
    answers: tuple[Any, ...]
    scene: EverydayScene | None = None

    def message(self) -> HumanMessage:
        if self.scene is None:
            return HumanMessage(self.text)
        file = BytesIO()
        PILImage.fromarray(self.scene.image).save(file, "PNG")
        block = {"type": "image", "base64": base64.b64encode(file.getvalue()).decode(), "mime_type": "image/png"}
        return HumanMessage([{"type": "text", "text": self.text}, block])


def _point(scene: EverydayScene, index: int, label: int) -> dict[str, int]:
    x, y = find_pixel_inside(scene, index)
    return {"x": x, "y": y, "label": label}


CONVERSATIONS: dict[str, tuple[UserTurn, ...]] = {
    "one call": (
        UserTurn(f"Segment {FIRST_NAME}.", (call("segment_image", expression=FIRST_NAME), "Done."), PAIR.scene),
        UserTurn("What is it?", (call("describe_image_region"), "A red ring.")),
    ),
    "turn by turn": (
        UserTurn(f"Where is {FIRST_NAME}?", (call("propose_boxes", expression=FIRST_NAME), "There."), PAIR.scene),
        UserTurn(
            "Check a few points.",
            (
                call_with_last_handle("check_points", "dialogue", grid=[3, 3]),
                call_with_last_handle("check_points", "dialogue", points=[list(find_pixel_inside(PAIR.scene, FIRST))]),
                "Checked.",
            ),
        ),
        UserTurn(
            "The mask, without the first point, and the last one is wrong.",
            (call_with_last_handle("segment_prompt", "dialogue", drop=[1], points=[_point(PAIR.scene, FIRST, 0)]), "Done."),
        ),
    ),
    "refined by words": (
        UserTurn(f"Segment {SECOND_NAME}.", (call("segment_image", expression=SECOND_NAME), "Done."), PAIR.scene),
        UserTurn(
            f"No, {FIRST_BY_COLOUR}.",
            (call_with_last_handle("refine_segmentation", "result", instruction=f"no, {FIRST_BY_COLOUR}"), "Done."),
        ),
        UserTurn(f"Also {OTHER_NAME}.", (call("refine_segmentation", instruction=f"also {OTHER_NAME}"), "Both.")),
    ),
    "refined by clicks": (
        UserTurn(f"Segment {SECOND_NAME}.", (call("segment_image", expression=SECOND_NAME), "Done."), PAIR.scene),
        UserTurn(
            "This one.",
            (call_with_last_handle("refine_segmentation", "result", clicks=[_point(PAIR.scene, FIRST, 1)]), "Done."),
        ),
        UserTurn(
            "And that.",
            (
                call_with_last_handle(
                    "refine_segmentation", "result", instruction="also this", clicks=[_point(PAIR.scene, OTHER, 1)]
                ),
                "Done.",
            ),
        ),
    ),
    "two images": (
        UserTurn(f"Segment {FIRST_NAME}.", (call("segment_image", expression=FIRST_NAME), "Done."), PAIR.scene),
        UserTurn(f"And here {TARGET_NAME}.", (call("segment_image", expression=TARGET_NAME), "Done."), SECOND_PAIR.scene),
        UserTurn(
            f"In the first one, {OTHER_NAME}.",
            (
                lambda messages: call("segment_image", expression=OTHER_NAME, image=list_image_ids(messages)[0]),
                "Done.",
            ),
        ),
    ),
    "recovering": (
        UserTurn(
            "Refine it.",
            (
                call("refine_segmentation", instruction="the other one"),
                call("segment_image", expression=FIRST_NAME, image="img-0123456789ab"),
                call("check_points", points=[[5000, 10]]),
                call("segment_image", expression=FIRST_NAME),
                "Done.",
            ),
            PAIR.scene,
        ),
        UserTurn(
            "Click beside the image.",
            (
                call_with_last_handle("refine_segmentation", "result", clicks=[{"x": 900, "y": 10, "label": 1}]),
                call_with_last_handle("refine_segmentation", "result", clicks="junk"),
                call_with_last_handle("refine_segmentation", "result", clicks=[_point(PAIR.scene, OTHER, 1)]),
                "Done.",
            ),
        ),
    ),
}


def create_scripted_agent(
    turns: Sequence[UserTurn], models: Sam4Mllm, store: ImageStore, checkpointer: Any
) -> CompiledStateGraph[Any]:
    """Create a real agent whose chat model answers as the turns say."""
    answers = [answer for turn in turns for answer in turn.answers]
    tools = Sam4MllmToolkit(sam4mllm=models, image_store=store).get_tools()
    return create_agent(
        ScriptedChatModel(answers=answers), tools, middleware=[ImageMiddleware(store)], checkpointer=checkpointer
    )


def run_conversation(
    turns: Sequence[UserTurn], models: Sam4Mllm, store: ImageStore, checkpointer: Any, thread: str
) -> list[BaseMessage]:
    """Run the turns and return all messages of the thread."""
    graph: Any = create_scripted_agent(turns, models, store, checkpointer)
    config: Any = {"configurable": {"thread_id": thread}}
    for turn in turns:
        graph.invoke({"messages": [turn.message()]}, config)
    return graph.get_state(config).values["messages"]


def list_tool_outputs(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Return the tool messages as JSON."""
    return [
        {"name": message.name, "status": message.status, "text": message.text, "artifact": message.artifact}
        for message in messages
        if isinstance(message, ToolMessage)
    ]


def main() -> None:
    """Continue every conversation after its first turn, each in the thread of its name; print the tools' outputs."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    database, folder = sys.argv[1:]
    models, store, outputs = Sam4Mllm.load(), ImageStore(folder=Path(folder)), {}
    with SqliteSaver.from_conn_string(database) as saver, closing(saver.conn):
        for name, turns in CONVERSATIONS.items():
            outputs[name] = list_tool_outputs(run_conversation(turns[1:], models, store, saver, name))
    print(json.dumps(outputs))


if __name__ == "__main__":
    main()
