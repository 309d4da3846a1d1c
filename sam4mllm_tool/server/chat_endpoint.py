"""POST /v1/chat: requests, corrections and questions about an image in words, as `sam4mllm chat` takes them."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.api_results import EXAMPLE_IMAGE, EXAMPLE_RESULT, ServerResult
from sam4mllm_tool.server.chat_turns import ChatTurns, EarlierMessage
from sam4mllm_tool.server.event_stream import EVENT_STREAM, answer_request
from sam4mllm_tool.server.problems import RequestError
from sam4mllm_tool.server.service import Service, describe_result
from sam4mllm_tool.tools.artifacts import restore_result
from sam4mllm_tool.tools.events import EventWriter
from sam4mllm_tool.tools.refine_tools import describe_choices
from sam4mllm_tool.types import Segmentation

__all__ = ["create_chat_router"]

_Text = Annotated[str, Field(max_length=2000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class MessageBody(_Body):
    """What was said before."""

    role: Literal["user", "assistant"]
    text: _Text


class ChatBody(_Body):
    """A message about an image, and what it is about."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": EXAMPLE_IMAGE, "text": "where is the red square?"}]})

    image: str = Field(min_length=1, description="As in /v1/segment.")
    text: _Text = Field(description="A request, a correction or a question.", examples=["no, the other one"])
    result: str | None = Field(default=None, description="The id of the result, of this image, that a correction is of.")
    earlier: list[MessageBody] = Field(default=[], max_length=50, description="What was said before, the oldest first.")


class ChatReply(BaseModel):
    """What the chat says and does."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "1 object", "result": EXAMPLE_RESULT, "understood": [], "choices": []}]}
    )

    text: str
    result: ServerResult | None = Field(description="The new result; none where nothing was segmented.")
    understood: list[str] = Field(description="How a correction was understood.")
    choices: list[dict[str, Any]] = Field(description="Other objects that the next message may choose by their number.")


def create_chat_router(service: Service) -> APIRouter:
    """Create the route of the chat.

    Raises:
        SpecError: The chat model of the settings can't be loaded.
    """
    router, turns = APIRouter(prefix="/v1", tags=["chat"]), ChatTurns(service)

    @router.post(
        "/chat",
        summary="Say something about an image",
        responses={
            200: {"model": ChatReply, "content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
            **describe_problems(400, 401, 404, 422, 429, 502, 503, 504),
        },
    )
    async def chat(request: Request, body: ChatBody) -> Response:
        """With `Accept: text/event-stream` boxes, points and masks come as events, and the answer as the last one."""

        async def work(write_event: EventWriter | None) -> dict[str, Any]:
            return await _answer(service, turns, request.state.owner, body, write_event)

        return await answer_request(request, work, service.metrics)

    return router


async def _answer(
    service: Service, turns: ChatTurns, owner: str, body: ChatBody, write_event: EventWriter | None
) -> dict[str, Any]:
    """Run a turn, and keep its results. Raises Sam4MllmError."""
    image_id, _ = await service.open_image(owner, body.image)
    if body.result is not None and service.get_result(owner, body.result)["picture"] != image_id:
        raise RequestError(422, f"the result {body.result[:40]!r} is of another image than {image_id}: give that one")
    service.models.scheduler.require_room()  # what a tool raises would be a sentence of the answer
    earlier = [EarlierMessage(message.role, message.text) for message in body.earlier]
    messages = await asyncio.to_thread(turns.build_messages, owner, image_id, body.result, earlier, body.text)
    answer = await turns.answer(messages, write_event)
    for artifact in answer.artifacts:
        service.handles.put(owner, artifact, "")
    reply: dict[str, Any] = {"text": "\n".join(answer.texts), "result": None, "understood": [], "choices": []}
    return reply | (await asyncio.to_thread(_describe, answer.artifacts[-1]) if answer.artifacts else {})


def _describe(artifact: dict[str, Any]) -> dict[str, Any]:
    return {
        "result": describe_result(artifact, Segmentation.from_dict(artifact), {}),
        "understood": list(artifact.get("understood", [])),
        "choices": describe_choices(restore_result(artifact)),
    }
