"""Whole conversations of a real agent with the toolkit: a scripted chat model, the embedded pair, pictures in messages.

Each is a list of what a person says, with the answers of the chat model to it. A file of its own, since they are held in one
process, and again with a restart after the first message:

    python -m tests.tools.conversations DATABASE FOLDER NAME FIRST
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
from sam4mllm_tool.agents.image_middleware import PictureMiddleware
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import PictureStore, known_pictures
from tests.agents.scripted_model import ScriptedChatModel, call

RINGS = draw_scene(240062)
"""A white triangle, a red ring, a white ring."""
SQUARES = draw_scene(240032)
"""A purple circle, a purple square, a green square."""
TRIANGLE, RED_RING, WHITE_RING = range(3)
CIRCLE, PURPLE_SQUARE, GREEN_SQUARE = range(3)


def inside(scene: Scene, index: int) -> tuple[int, int]:
    """A pixel of an object, as x and y: in its middle row, in the middle of the left side, where a ring has its rim."""
    mask = scene.mask(index)
    y = int(scene.objects[index].box.y1 + scene.objects[index].box.y2) // 2
    xs = mask[y].nonzero()[0]
    return int(xs[len(xs) // 4]), y


def last_handle(messages: Sequence[BaseMessage]) -> str:
    """What the chat model reads in the last tool message that tells one."""
    told = [message.text for message in messages if isinstance(message, ToolMessage) and " seg-" in message.text]
    return told[-1].rsplit(" seg-", 1)[1].split()[0].join(("seg-", ""))


def using(tool: str, handle: str, **arguments: Any) -> Callable[[list[BaseMessage]], Any]:
    """An answer that calls a tool with the last handle that was told."""
    return lambda messages: call(tool, **{handle: last_handle(messages)}, **arguments)


@dataclass(frozen=True)
class Said:
    """What a person says, and what the chat model does then."""

    text: str
    answers: tuple[Any, ...]
    picture: Scene | None = None

    def message(self) -> HumanMessage:
        if self.picture is None:
            return HumanMessage(self.text)
        file = BytesIO()
        PILImage.fromarray(self.picture.image).save(file, "PNG")
        block = {"type": "image", "base64": base64.b64encode(file.getvalue()).decode(), "mime_type": "image/png"}
        return HumanMessage([{"type": "text", "text": self.text}, block])


def _point(scene: Scene, index: int, label: int) -> dict[str, int]:
    x, y = inside(scene, index)
    return {"x": x, "y": y, "label": label}


CONVERSATIONS: dict[str, tuple[Said, ...]] = {
    "one call": (
        Said("Segment the red ring.", (call("segment_image", expression="the red ring"), "Done."), RINGS),
        Said("What is it?", (call("describe_image_region"), "A red ring.")),
    ),
    "turn by turn": (
        Said("Where is the red ring?", (call("propose_boxes", expression="the red ring"), "There."), RINGS),
        Said(
            "Check a few points.",
            (
                using("check_points", "dialogue", grid=[3, 3]),
                using("check_points", "dialogue", points=[list(inside(RINGS, RED_RING))]),
                "Checked.",
            ),
        ),
        Said(
            "The mask, without the first point, and the last one is wrong.",
            (using("segment_prompt", "dialogue", drop=[1], points=[_point(RINGS, RED_RING, 0)]), "Done."),
        ),
    ),
    "refined by words": (
        Said("The white ring.", (call("segment_image", expression="the white ring"), "Done."), RINGS),
        Said("No, the red one.", (using("refine_segmentation", "result", instruction="no, the red one"), "Done.")),
        Said("Also the triangle.", (call("refine_segmentation", instruction="also the white triangle"), "Both.")),
    ),
    "refined by clicks": (
        Said("The white ring.", (call("segment_image", expression="the white ring"), "Done."), RINGS),
        Said("This one.", (using("refine_segmentation", "result", clicks=[_point(RINGS, RED_RING, 1)]), "Done.")),
        Said(
            "And that.",
            (using("refine_segmentation", "result", instruction="also this", clicks=[_point(RINGS, TRIANGLE, 1)]), "Done."),
        ),
    ),
    "two pictures": (
        Said("The red ring.", (call("segment_image", expression="the red ring"), "Done."), RINGS),
        Said("And here the green square.", (call("segment_image", expression="the green square"), "Done."), SQUARES),
        Said(
            "In the first one, the triangle.",
            (
                lambda messages: call("segment_image", expression="the triangle", image=known_pictures(messages)[0]),
                "Done.",
            ),
        ),
    ),
    "recovering": (
        Said(
            "Refine it.",
            (
                call("refine_segmentation", instruction="the other one"),
                call("segment_image", expression="the red ring", image="img-0123456789ab"),
                call("check_points", points=[[5000, 10]]),
                call("segment_image", expression="the red ring"),
                "Done.",
            ),
            RINGS,
        ),
        Said(
            "Click beside the picture.",
            (
                using("refine_segmentation", "result", clicks=[{"x": 900, "y": 10, "label": 1}]),
                using("refine_segmentation", "result", clicks="junk"),
                using("refine_segmentation", "result", clicks=[_point(RINGS, TRIANGLE, 1)]),
                "Done.",
            ),
        ),
    ),
}


def agent(said: Sequence[Said], models: Sam4Mllm, store: PictureStore, checkpointer: Any) -> CompiledStateGraph[Any]:
    """A real agent whose chat model will answer as written down."""
    answers = [answer for one in said for answer in one.answers]
    tools = Sam4MllmToolkit(sam4mllm=models, pictures=store).get_tools()
    return create_agent(
        ScriptedChatModel(answers=answers), tools, middleware=[PictureMiddleware(store)], checkpointer=checkpointer
    )


def hold(said: Sequence[Said], models: Sam4Mllm, store: PictureStore, checkpointer: Any, thread: str) -> list[BaseMessage]:
    """The messages of the thread after all that is said."""
    graph: Any = agent(said, models, store, checkpointer)
    config: Any = {"configurable": {"thread_id": thread}}
    for one in said:
        graph.invoke({"messages": [one.message()]}, config)
    return graph.get_state(config).values["messages"]


def told(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """What the tools told, as JSON."""
    return [
        {"name": message.name, "status": message.status, "text": message.text, "artifact": message.artifact}
        for message in messages
        if isinstance(message, ToolMessage)
    ]


def main() -> None:
    from langgraph.checkpoint.sqlite import SqliteSaver

    database, folder, name, first = sys.argv[1:]
    said = CONVERSATIONS[name][int(first) :]
    with SqliteSaver.from_conn_string(database) as saver, closing(saver.conn):
        messages = hold(said, Sam4Mllm.load(), PictureStore(folder=Path(folder)), saver, "thread")
    print(json.dumps(told(messages)))


if __name__ == "__main__":
    main()
