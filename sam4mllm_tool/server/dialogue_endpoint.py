"""POST /v1/dialogue: the dialogue turn by turn with a model of the client's own. Nothing is kept between its turns."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from sam4mllm_tool.errors import BadRequestError, ReplyError
from sam4mllm_tool.pipeline.methods import start_dialogue
from sam4mllm_tool.protocol.exchanges import Dialogue
from sam4mllm_tool.server.api_description import describe_problems
from sam4mllm_tool.server.problems import RequestError
from sam4mllm_tool.server.service import Service
from sam4mllm_tool.types import Reply, Size

__all__ = ["create_dialogue_router"]

_Probability = Annotated[float, Field(ge=0, le=1)]


_FIRST_QUESTION: dict[str, Any] = {
    "done": False,
    "questions": [
        {
            "turns": [{"role": "user", "text": "Give the bounding box of each object that this describes: the red square"}],
            "answer": {"kind": "FreeText", "max_tokens": 128},
        }
    ],
    "prompts": [],
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class ImageSize(_Body):
    """In pixels."""

    width: int = Field(ge=1, le=100_000)
    height: int = Field(ge=1, le=100_000)


class ReplyBody(_Body):
    """What the model replied to a question."""

    text: str = Field(max_length=100_000)
    label_probabilities: list[list[_Probability]] | None = Field(
        default=None, description="Of labels: a row each, in the order of the answer's words."
    )


class DialogueBody(_Body):
    """A dialogue so far."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"expression": "the red square", "size": {"width": 32, "height": 32}, "replies": []}]}
    )

    expression: str = Field(examples=["the red mug"])
    size: ImageSize
    method: Literal["pqpp", "ppg", "box", "points"] = "pqpp"
    replies: list[list[ReplyBody]] = Field(
        default=[], max_length=20, description="Of each round so far, the replies to its questions."
    )


class DialogueAnswer(BaseModel):
    """The next questions; at the end what the segmenter is to be prompted with, in pixels."""

    model_config = ConfigDict(json_schema_extra={"examples": [_FIRST_QUESTION]})

    done: bool
    questions: list[dict[str, Any]]
    prompts: list[dict[str, Any]]


def create_dialogue_router(service: Service) -> APIRouter:
    """Create the route about dialogues."""
    router = APIRouter(prefix="/v1", tags=["segment"])

    @router.post(
        "/dialogue",
        summary="Continue a dialogue with a model of your own",
        responses=describe_problems(400, 401, 422, 503),
    )
    def dialogue(body: DialogueBody) -> DialogueAnswer:
        run = service.models.start_run(Size(body.size.width, body.size.height), body.expression, body.method)
        state = start_dialogue(run, body.expression, body.method)
        for number, replies in enumerate(body.replies, start=1):
            state = _answer(state, number, replies)
        questions = [
            {
                "turns": [asdict(turn) for turn in question.turns],
                "answer": {"kind": type(question.answer).__name__} | asdict(question.answer),
            }
            for question in state.pending
        ]
        prompts = [] if questions else state.prompts
        described = [{"box": list(prompt.box), "points": [point.to_dict() for point in prompt.points]} for prompt in prompts]
        return DialogueAnswer(done=not questions, questions=questions, prompts=described)

    return router


def _answer(state: Dialogue, number: int, replies: list[ReplyBody]) -> Dialogue:
    """Return the dialogue after a round of replies. Raises BadRequestError, also where a reply can't be read."""
    rows = [None if reply.label_probabilities is None else tuple(map(tuple, reply.label_probabilities)) for reply in replies]
    try:
        return state.answer([Reply(reply.text, row) for reply, row in zip(replies, rows, strict=True)])
    except ReplyError as error:  # of the client's model, not of the server's, whose status is 502
        raise RequestError(422, str(error), "ReplyError") from error
    except ValueError as error:
        raise BadRequestError(f"replies of round {number}: {error}") from error
