"""Which result of a conversation a follow-up is about, and what turns of it changed.

A result is the artifact of a tool's message. A first result without objects changes nothing: what was segmented before stays. A
refinement may leave no object, and that is a result.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from sam4mllm_tool.tools.image_store import IMAGE_DETAILS_KEY, list_image_ids

__all__ = [
    "find_image_size",
    "find_last_attempt",
    "find_last_result",
    "list_results",
    "request_text",
    "result_of",
    "split_turns",
]


def result_of(message: BaseMessage) -> dict[str, Any] | None:
    """Return the artifact of a tool's message with masks; None for any other message."""
    artifact = message.artifact if isinstance(message, ToolMessage) else None
    return artifact if isinstance(artifact, dict) and artifact.get("kind") == "result" else None


def list_results(messages: Sequence[BaseMessage], image_id: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield the artifacts of results that changed something, newest first.

    Args:
        messages: The conversation, oldest first.
        image_id: The image that they are of; None for any.
    """
    for artifact in filter(None, map(result_of, reversed(messages))):
        if (artifact.get("objects") or artifact.get("understood")) and image_id in (None, artifact.get("picture")):
            yield artifact


def find_last_result(messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """Return the artifact of the newest image's newest result that changed something, which a follow-up refines."""
    newest_image = list_image_ids(messages)[-1:]
    return next(list_results(messages, newest_image[0]), None) if newest_image else None


def find_last_attempt(messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """Return the artifact of the newest image's newest result, be it without objects."""
    newest_image = list_image_ids(messages)[-1:]
    artifacts = filter(None, map(result_of, reversed(messages)))
    return next((artifact for artifact in artifacts if [artifact.get("picture")] == newest_image), None)


def find_image_size(messages: Sequence[BaseMessage]) -> tuple[int, int] | None:
    """Return width and height of the newest image in pixels; None where no message says them."""
    facts: dict[str, Mapping[str, Any]] = {}
    for message in messages:
        if isinstance(message, HumanMessage):
            facts |= message.additional_kwargs.get(IMAGE_DETAILS_KEY) or {}
    newest = facts.get((list_image_ids(messages) or [""])[-1], {})
    width, height = newest.get("width"), newest.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def split_turns(messages: Sequence[BaseMessage]) -> list[list[BaseMessage]]:
    """Return the turns, oldest first, each with the user's message at its beginning."""
    turns: list[list[BaseMessage]] = []
    for message in messages:
        if isinstance(message, HumanMessage):
            turns.append([])
        if turns:
            turns[-1].append(message)
    return turns


def request_text(message: BaseMessage) -> str:
    """Return what the user wrote, without the lines of images before it."""
    text = message.content[-1] if isinstance(message.content, list) else message.content
    return text if isinstance(text, str) else str(text.get("text", ""))
