"""Answer in the chat model's place where no chat model is needed: plain requests, corrections, clicks and questions.

What is plain in any case is read by intent_parser.py. Where there is no chat model, more is read: German, near misses of words,
questions about the result, an expression alone. The messages are those that a chat model would have written.
"""

import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage

from sam4mllm_tool.agents.chat_results import find_image_size, find_last_attempt, find_last_result
from sam4mllm_tool.agents.german_requests import translate_german
from sam4mllm_tool.agents.hints import choose_hint
from sam4mllm_tool.agents.image_questions import ImageQuestion, format_answer, format_regions, parse_question
from sam4mllm_tool.agents.image_rendering import IMAGE_LINE
from sam4mllm_tool.agents.intent_parser import parse_bare_expression, parse_clicks, parse_follow_up, parse_request
from sam4mllm_tool.agents.spelling import correct_expression, correct_verb
from sam4mllm_tool.interactive import read_instruction
from sam4mllm_tool.tools.image_store import LATEST, list_image_ids

__all__ = [
    "PlainRequests",
    "ReadMessage",
    "answer_without_model",
    "format_closing",
    "list_refusals",
    "read_message",
    "wants_cutout",
]

_CALL_PREFIX = "plain_"
"""How the ids of calls begin that no chat model wrote."""
_REFUSAL = re.compile(r'\[(?:image|picture) refused(?:, "(?P<name>[^"\[\n]*)")?: (?P<reason>[^\[\]\n]*)\]')
_HANDLE_LINE = re.compile(r"\n(?:result|dialogue) seg-[0-9a-f]+ \((?:image|picture) img-[0-9a-f]+\)$")
_COLOUR = r"(?P<colour>red|green|blue|yellow|purple|orange|cyan|white|black|brown|pink|gr[ae]y)"
_SYNONYMS = (
    (re.compile(r"\bteh\b", re.IGNORECASE), "the"),
    (re.compile(r"^(?:delete|erase|discard|get rid of|throw out|hide)\s+", re.IGNORECASE), "remove "),
    (re.compile(r"^(?:please )?(?:give|get) me (?=(?:the|all|every|each|both)\b)", re.IGNORECASE), "segment "),
    (re.compile(rf"\beverything (?:that is |that's )?{_COLOUR}[\s.!?]*$", re.IGNORECASE), r"all \g<colour> objects"),
    (re.compile(rf"\ball (?:the )?{_COLOUR} (?:things|stuff|ones|objects)[\s.!?]*$", re.IGNORECASE), r"all \g<colour> objects"),
)
_CUT = (
    r"\W*(?:(?:please|can you|could you|would you|now|and|then|ok|okay|i want(?: you)? to)\b[\s,]*)*(?:cut|extract|isolate)\b"
)
_CUTOUT = re.compile(_CUT, re.IGNORECASE)
_CUTOUT_OF_RESULT = re.compile(rf"{_CUT} (?:it|this|that|them|these)(?: out)?(?:[\s,]*please)?[\s.!?]*", re.IGNORECASE)


@dataclass(frozen=True)
class ReadMessage:
    """A message as it is understood without a chat model.

    Attributes:
        text: The message in English, with near misses corrected.
        note: What to say about that; empty where the message is taken as it is.
    """

    text: str
    note: str = ""


def read_message(text: str, *, literally: bool = False) -> ReadMessage:
    """Translate a message that is German, and correct near misses of words.

    Args:
        text: What a person wrote.
        literally: Correct nothing.
    """
    english = translate_german(text)
    words = english or text
    for pattern, replacement in _SYNONYMS:
        words = pattern.sub(replacement, words)
    corrected = words if literally or not 0 < len(words) <= 200 else _correct(words)
    if corrected != words:
        return ReadMessage(
            corrected, f'Did you mean "{corrected}"? It was taken so; send your words once more to have them taken as they are.'
        )
    return ReadMessage(
        words, f'Understood as "{words}".' if english and english not in ("help", "undo", "save", "quit") else ""
    )


def _correct(text: str) -> str:
    corrected = text if _is_plain(text) else correct_verb(text)
    corrected = correct_expression(corrected)
    return corrected if corrected != text and _is_plain(corrected) else text


def _is_plain(text: str) -> bool:
    readers: tuple[Callable[[str], object], ...] = (parse_request, parse_follow_up, parse_question, parse_bare_expression)
    return any(reader(text) for reader in readers)


def wants_cutout(text: str) -> bool:
    """Whether a request asks for the object on its own: "cut out the mug", "schneide ihn aus"."""
    words = read_message(text).text
    return bool(_CUTOUT.match(words)) and bool(parse_request(words) or is_cutout_of_result(words))


def is_cutout_of_result(text: str) -> bool:
    """Whether a message asks for the last result to be cut out: "cut it out"."""
    return bool(_CUTOUT_OF_RESULT.fullmatch(translate_german(text) or text))


class PlainRequests(AgentMiddleware[Any, Any, Any]):
    """Answers in the chat model's place where no chat model is needed.

    Args:
        alone: There is no chat model, so more is understood here: German, misspelt words, questions, an expression alone.
    """

    def __init__(self, *, alone: bool = False) -> None:
        super().__init__()
        self.alone = alone

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | AIMessage:
        return self._answer(request.messages) or handler(request)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | AIMessage:
        return self._answer(request.messages) or await handler(request)

    def _answer(self, messages: Sequence[AnyMessage]) -> AIMessage | None:
        last = messages[-1] if messages else None
        if isinstance(last, ToolMessage) and last.tool_call_id.startswith(_CALL_PREFIX):
            question = parse_question(read_last_message(messages).text) if self.alone else None
            return AIMessage(format_closing(last, question))
        if not isinstance(last, HumanMessage) or list_refusals(last):
            return None
        message = read_last_message(messages) if self.alone else ReadMessage(get_text(last))
        answer = self._refine(messages, message.text)
        if answer is None and self.alone:
            answer = _answer_question(messages, message.text)
        if answer is None:
            answer = self._segment(messages, message.text)
        if answer is None:
            return None
        return AIMessage(answer) if isinstance(answer, str) else AIMessage(message.note, tool_calls=[answer])

    def _refine(self, messages: Sequence[AnyMessage], text: str) -> ToolCall | str | None:
        """Return the call that corrects the last result, or why there is none; None where the message is no correction."""
        result = find_last_result(messages)
        if result and (clicks := parse_clicks(text)):
            return _create_tool_call("refine_segmentation", result=result["handle"], clicks=clicks)
        if self.alone and parse_question(text):
            return None
        instruction = parse_follow_up(text)
        if not instruction or not result:
            return None
        attempt = find_last_attempt(messages)
        if attempt and attempt["handle"] != result["handle"] and read_instruction(instruction).action == "other":
            # the newest request had no object
            stays = f'The result of "{result["expression"]}" stays.'
            nothing = f'There is no "{attempt["expression"]}" that it could be other than. {stays}'
            return nothing if self.alone else None
        return _create_tool_call("refine_segmentation", result=result["handle"], instruction=instruction)

    def _segment(self, messages: Sequence[AnyMessage], text: str) -> ToolCall | None:
        expression = parse_request(text) or (parse_bare_expression(text) if self.alone else None)
        return _create_segment_call(messages, expression) if expression else None


def _answer_question(messages: Sequence[AnyMessage], text: str) -> ToolCall | str | None:
    """Answer a question from the last result, or return the call that does."""
    question, result = parse_question(text), find_last_result(messages)
    if question is None or parse_request(text):
        return None
    if question.expression:
        return _create_segment_call(messages, question.expression)
    if question.kind == "describe" and result:
        return _create_tool_call("describe_image_region", result=result["handle"])
    if question.kind == "describe" and (size := find_image_size(messages)):
        return _create_tool_call("describe_image_region", box=[0, 0, *size], image=list_image_ids(messages)[-1])
    return format_answer(question.kind, result) if result else None


def _create_segment_call(messages: Sequence[AnyMessage], expression: str) -> ToolCall:
    image_id = (list_image_ids(messages) or [LATEST])[-1]
    return _create_tool_call("segment_image", image=image_id, expression=expression)


def answer_without_model(messages: Sequence[BaseMessage]) -> str:
    """Return what to say, without a chat model, to a last message that no tool serves."""
    if refusals := list_refusals(messages[-1]):
        return refusals
    message, result = read_last_message(messages), find_last_result(messages)
    question = parse_question(message.text)
    needs_result = bool(parse_follow_up(message.text) or parse_clicks(message.text) or (question and not question.expression))
    if not result and needs_result and not question and read_instruction(message.text).action == "other":
        return 'There is nothing yet that it could be other than: name an object first, as in "segment the red mug".'
    return choose_hint(message.text, is_follow_up=needs_result, has_result=result is not None)


def read_last_message(messages: Sequence[BaseMessage]) -> ReadMessage:
    """Read the newest message of a person: literally where it repeats the one before."""
    texts = [get_text(message) for message in messages if isinstance(message, HumanMessage)][-2:]
    return read_message(texts[-1], literally=len(texts) == 2 and texts[0] == texts[1]) if texts else ReadMessage("")


def format_closing(message: ToolMessage, question: ImageQuestion | None = None) -> str:
    """Return what a person reads after a call that no chat model made: the tool's text without handle, and an answer."""
    text = _HANDLE_LINE.sub("", str(message.text))
    artifact = message.artifact if isinstance(message.artifact, dict) else {}
    if message.status == "error":
        return text
    if "regions" in artifact:
        return format_regions(artifact["regions"])
    if question and artifact.get("kind") == "result":
        return f"{format_answer(question.kind, artifact)}\n{text}"
    return text


def list_refusals(message: BaseMessage) -> str:
    """Return why images of a message were refused, a line each; empty where none was.

    What is asked with a refused image is never asked of an earlier one.
    """
    refusals = _REFUSAL.finditer(str(message.text))
    return "\n".join(f"The image {refusal['name'] or 'sent'} can't be taken: {refusal['reason']}" for refusal in refusals)


def get_text(message: BaseMessage) -> str:
    """Return what a person wrote, without the lines that stand for images."""
    return IMAGE_LINE.sub(" ", str(message.text)).strip()


def _create_tool_call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id=f"{_CALL_PREFIX}{secrets.token_hex(8)}", type="tool_call")
