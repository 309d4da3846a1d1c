"""Many conversations at once against one server: `python -m tests.benchmarks.conversations`.

Starts `sam4mllm serve` with the embedded pair, and holds conversations with one chat graph over it, without a chat model: each
on a thread of its own, about drawn scenes of the test split that no other conversation has, in three turns. Every answer then
is compared with that of the same conversation held alone, with a graph of its own. The command ends with exit code 1 if a
turn fails that doesn't fail alone, if an answer is about another image than the turn's, if an image or a result of another
conversation is in it, or if it differs from the answer given alone.
"""

import argparse
import asyncio
import base64
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import count, islice
from typing import Any

import httpx
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image

from sam4mllm_tool.agents.chat import build_chat_graph
from sam4mllm_tool.agents.chat_results import split_turns
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import compute_image_id
from tests.embedded_world import TEST_SEEDS, EverydayObject, EverydayScene, draw_scene, name_object
from tests.results import assert_equal_json
from tests.server.server_process import run_server

_ID = re.compile(r"\b(?:img-[0-9a-f]{12}|seg-[0-9a-f]{16})\b")


@dataclass(frozen=True, eq=False)
class UserMessage:
    """What a person sends.

    Attributes:
        text: The words.
        image: Which image of the conversation the answer is about.
        brings_image: Whether that image comes with the words.
    """

    text: str
    image: int = 0
    brings_image: bool = False


@dataclass(frozen=True, eq=False)
class Conversation:
    """A person's side of a conversation, and the images, which no other conversation has."""

    images: tuple[Image.Image, ...]
    messages: tuple[UserMessage, ...]


@dataclass(frozen=True, eq=False)
class Answer:
    """What a turn came to.

    Attributes:
        messages: The graph's, after the person's.
        seconds: From the person's message to the last one.
    """

    messages: tuple[BaseMessage, ...]
    seconds: float

    @property
    def artifacts(self) -> list[dict[str, Any]]:
        """Results and dialogues."""
        return [message.artifact for message in self.messages if isinstance(message, ToolMessage) and message.artifact]

    @property
    def failure(self) -> str | None:
        """What a tool said that could not do what it was asked to, as where the model finds no such object."""
        failures = (
            message.text for message in self.messages if isinstance(message, ToolMessage) and message.status != "success"
        )
        return next(failures, None)

    @property
    def content(self) -> str:
        """Texts, calls of tools and artifacts as JSON, without what differs from run to run but for handles."""
        return json.dumps([_remove_timings_and_ids(message.model_dump()) for message in self.messages])


def _remove_timings_and_ids(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: each for key, each in value.items() if key not in ("id", "tool_call_id", "seconds")}
        return {key: _remove_timings_and_ids(each) for key, each in kept.items()}
    return [_remove_timings_and_ids(each) for each in value] if isinstance(value, list | tuple) else value


def draw_conversations(amount: int, side: int = 256, first_seed: int = TEST_SEEDS) -> list[Conversation]:
    """Draw the scenes and write what a person says about them, in three ways that take turns."""
    scenes = _draw_scenes_with_twins(side, first_seed)
    return list(islice((_WAYS[number % len(_WAYS)](scenes) for number in count()), amount))


def _draw_scenes_with_twins(side: int, first_seed: int) -> Iterator[tuple[EverydayScene, EverydayObject]]:
    """Yield scenes of which several objects have one noun, with one of these."""
    for seed in count(first_seed):
        scene = draw_scene(seed, side)
        nouns = [each.noun for each in scene.objects]
        if twins := [each for each in scene.objects if nouns.count(each.noun) > 1]:
            yield scene, twins[0]


def _ask_for_the_other(scenes: Iterator[tuple[EverydayScene, EverydayObject]]) -> Conversation:
    scene, twin = next(scenes)
    first, then = UserMessage(f"segment the {twin.noun}", brings_image=True), ("no, the other one", "how big is it?")
    return Conversation((Image.fromarray(scene.image),), (first, *map(UserMessage, then)))


def _add_and_count(scenes: Iterator[tuple[EverydayScene, EverydayObject]]) -> Conversation:
    scene, twin = next(scenes)
    one, another = map(name_object, scene.objects[:2])
    first, then = UserMessage(f"segment {one}", brings_image=True), (f"also {another}", f"how many {twin.plural} are there?")
    return Conversation((Image.fromarray(scene.image),), (first, *map(UserMessage, then)))


def _send_another_image(scenes: Iterator[tuple[EverydayScene, EverydayObject]]) -> Conversation:
    images, messages = [], []
    for number, (scene, _) in enumerate(islice(scenes, 2)):
        target = scene.objects[-1]
        images.append(Image.fromarray(scene.image))
        messages.append(UserMessage(f"segment {name_object(target)}", number, brings_image=True))
    return Conversation(tuple(images), (*messages, UserMessage("is there a white star?", 1)))


_WAYS: Sequence[Callable[[Iterator[tuple[EverydayScene, EverydayObject]]], Conversation]] = (
    _ask_for_the_other,
    _add_and_count,
    _send_another_image,
)


async def hold_conversation(graph: Any, conversation: Conversation, thread_id: str) -> list[Answer]:
    """Say all messages one after another on a thread of a chat graph, each once the answer before is there."""
    answers: list[Answer] = []
    for message in conversation.messages:
        blocks: list[str | dict[str, Any]] = [{"type": "text", "text": message.text}]
        if message.brings_image:
            blocks.insert(0, _create_block(conversation.images[message.image]))
        start = time.perf_counter()
        state = await graph.ainvoke({"messages": [HumanMessage(blocks)]}, {"configurable": {"thread_id": thread_id}})
        seconds = time.perf_counter() - start
        answers.append(Answer(tuple(split_turns(state["messages"])[-1][1:]), seconds))
    return answers


def _create_block(image: Image.Image) -> dict[str, Any]:
    content = BytesIO()
    image.save(content, "PNG")
    return {"type": "image", "base64": base64.b64encode(content.getvalue()).decode(), "mime_type": "image/png"}


async def hold_at_once(url: str, conversations: Sequence[Conversation]) -> list[list[Answer]]:
    """Hold all conversations at once, with one chat graph and one checkpointer."""
    graph = build_chat_graph(None, Sam4MllmToolkit(server=url), InMemorySaver())
    numbered = enumerate(conversations)
    return await asyncio.gather(*(hold_conversation(graph, each, f"thread {number}") for number, each in numbered))


async def hold_alone(url: str, conversations: Sequence[Conversation]) -> list[list[Answer]]:
    """Hold one conversation after another, each with a chat graph and a checkpointer of its own."""
    answers = []
    for conversation in conversations:
        graph = build_chat_graph(None, Sam4MllmToolkit(server=url), InMemorySaver())
        answers.append(await hold_conversation(graph, conversation, "alone"))
    return answers


def find_faults(
    conversations: Sequence[Conversation], together: Sequence[Sequence[Answer]], alone: Sequence[Sequence[Answer]]
) -> list[str]:
    """Return what went wrong in the conversations that were held at once, a line for each."""
    faults: list[str] = []
    owners: dict[str, int] = {}  # of each id of an image or a result: the first conversation that has it
    for number, conversation in enumerate(conversations):
        own = [compute_image_id(image) for image in conversation.images]
        for message, answer, expected in zip(conversation.messages, together[number], alone[number], strict=True):
            place = f"conversation {number}, {message.text!r}"
            faults += [f"{place}: {fault}" for fault in _find_faults_of_answer(answer, own[message.image], expected)]
            for name in _ID.findall(answer.content):
                if owners.setdefault(name, number) != number or (name.startswith("img-") and name not in own):
                    faults.append(f"{place}: {name} is of another conversation")
    return faults


def _find_faults_of_answer(answer: Answer, image_id: str, expected: Answer) -> Iterator[str]:
    if answer.failure and not expected.failure:
        yield f"failed: {answer.failure}"
    for artifact in answer.artifacts:
        if artifact["picture"] != image_id:
            yield f"is about {artifact['picture']}, not about {image_id}"
    here, there = (json.loads(_ID.sub(_keep_image_id, each.content)) for each in (answer, expected))
    try:
        assert_equal_json(here, there, "messages")
    except AssertionError as error:
        yield f"differs from the answer given alone: {str(error).partition(chr(10))[0]}"


def _keep_image_id(name: re.Match[str]) -> str:
    return name[0] if name[0].startswith("img-") else "seg-"


def count_refusals(url: str) -> int:
    """Return how many requests a server has answered by status 429."""
    counts = re.findall(r'sam4mllm_requests_total\{.*status="429"\} (\S+)', httpx.get(f"{url}/metrics").text)
    return sum(int(float(each)) for each in counts)


def format_answers(name: str, answers: Sequence[Sequence[Answer]], seconds: float) -> str:
    """Write how long the turns took, in a line."""
    turns = [answer.seconds for conversation in answers for answer in conversation]
    failed = sum(answer.failure is not None for conversation in answers for answer in conversation)
    percentiles = statistics.quantiles(turns, n=100, method="inclusive")
    return (
        f"{len(answers)} conversations {name}, {len(turns)} turns in {seconds:.0f} s: {60 * len(answers) / seconds:.1f} "
        f"conversations a minute, a turn p50 {percentiles[49]:.2f} s, p95 {percentiles[94]:.2f} s; "
        f"in {failed} the models don't find what is asked for"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=200, help="how many at once")
    parser.add_argument("--side", type=int, default=256, help="sides of the images in pixels")
    parser.add_argument("--serve", nargs="*", default=[], metavar="OPTION", help="options of `sam4mllm serve`, without dashes")
    arguments = parser.parse_args(argv)
    conversations = draw_conversations(arguments.conversations, arguments.side)
    measured = []
    with run_server(*(f"--{option}" for option in arguments.serve)) as (_, url):
        for name, hold in (("at once", hold_at_once), ("one after another", hold_alone)):
            start = time.perf_counter()
            measured.append(asyncio.run(hold(url, conversations)))
            print(format_answers(name, measured[-1], time.perf_counter() - start), flush=True)
            print(f"  refused because the queue was full, and sent again: {count_refusals(url)}", flush=True)
    faults = find_faults(conversations, *measured)
    print("\n".join(faults) or "No faults.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
