"""Ask any chat model of LangChain that takes images: one that a spec names, or the very one that an agent talks with.

Its own settings stay as they are. Nothing of these requests shows in the agent's stream or callbacks: they hold the image.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langsmith import tracing_context
from pydantic import SecretStr

from sam4mllm_tool.errors import BackendError, MissingExtraError, Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.models.mllm.chat_flow import (
    TEST_QUESTION,
    AnswerToken,
    ChatAnswer,
    ChatFeatures,
    ChatRequest,
    build_answer,
    run_flow,
    run_flow_async,
)
from sam4mllm_tool.models.mllm.chat_questions import answer_questions
from sam4mllm_tool.models.mllm.image_payload import MAX_PIXELS, ImagePayload, draw_test_image
from sam4mllm_tool.models.mllm.redaction import redact
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.models.validation import validate_questions
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.protocol.dialects import find_by_model_name
from sam4mllm_tool.protocol.native_codec import ResizingRule
from sam4mllm_tool.types import Image, Question, Reply, Tokens, Turn

__all__ = ["ChatModelMLLM", "name_chat_model"]

_SCORED: Mapping[str, Any] = {"logprobs": True, "top_logprobs": 20}
"""Settings that ask for probabilities."""
_REFUSED = re.compile(
    r"logprob|(?:unsupported|unknown|unexpected|unrecognized|extra) (?:\w+ )?(?:parameter|value|argument|field|input)",
    re.IGNORECASE,
)
"""What providers and their packages write about a setting that a model doesn't take."""


class ChatModelMLLM:
    """Answers questions by calls of a chat model, several at a time.

    Probabilities are known where the model has the settings `logprobs` and `top_logprobs`, as ChatOpenAI has, and its
    provider gives them.

    Args:
        model: The chat model, without tools bound to it.
        name: Name in `Usage` and in messages; by default provider and model.
        dialect: In which it will be asked, by default that of its family, by the model's name.
        concurrency: Calls at a time.
        votes: Answers from which the probability of a label is estimated where there are no probabilities; each costs a call.
            Of use only where the model draws answers at random. 0 leaves it unknown.
        max_pixels: Larger images are shrunk to it; by default to one megapixel.

    Raises:
        SpecError: It is no chat model, or its profile says that it takes no images.
    """

    greedy = False
    """The model's temperature is its own."""

    def __init__(
        self,
        model: BaseChatModel,
        *,
        name: str | None = None,
        dialect: Dialect | None = None,
        concurrency: int = 8,
        votes: int = 0,
        max_pixels: int | None = None,
    ) -> None:
        if not isinstance(model, BaseChatModel):
            raise SpecError(f"expected a chat model without tools bound to it, got a {type(model).__name__}")
        self._name = name or f"langchain:{type(model).__name__}:{name_chat_model(model)}"
        profile: Mapping[str, Any] = getattr(model, "profile", None) or {}
        if profile.get("image_inputs") is False:
            raise SpecError(f"the chat model {quote_text(self._name)} takes no images: choose a vision model")
        self.model = model
        self._max_pixels = max_pixels or MAX_PIXELS
        self.ask_in(dialect or find_by_model_name(name_chat_model(model)) or PLAIN)
        self._accepts_scoring = set(_SCORED) <= set(type(model).model_fields)
        self._features = ChatFeatures(gives_probabilities=self._accepts_scoring, votes=votes)
        self._concurrency = concurrency

    @classmethod
    def load(
        cls, remote: RemoteSpec, *, name: str, dialect: Dialect | None = None, max_pixels: int | None = None
    ) -> "ChatModelMLLM":
        """Load the chat model of a spec through LangChain's `init_chat_model`, and ask it about a small image.

        Raises:
            MissingExtraError: LangChain is not installed.
            SpecError: The model can't be used; in one line that says what to do.
        """
        mllm = cls(_init_chat_model(remote, name), name=name, dialect=dialect, max_pixels=max_pixels)
        mllm.check()
        return mllm

    @property
    def name(self) -> str:
        """The spec, or the provider and model."""
        return self._name

    @property
    def resizing(self) -> ResizingRule | None:
        """The rule by which images are resized before they are sent; None where the dialect doesn't depend on it."""
        return self._payload.resizing

    def ask_in(self, dialect: Dialect) -> None:
        """Set the dialect in which the model is to be asked: it decides in which sizes images are sent."""
        self.dialect = dialect
        self._payload = ImagePayload(dialect, self._max_pixels)

    def check(self) -> None:
        """Ask about a small image. Raises SpecError if the model doesn't answer."""
        failure = ""
        try:
            self.reply(draw_test_image(), [TEST_QUESTION])
        except BackendError as error:
            failure = str(error)
        if failure:
            raise SpecError(f"{failure}; check the key, the model's name, and that it takes images")

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order. The image is sent with each request.

        Raises:
            ValueError: As `validate_questions`.
            ExpressionError: A question has a control token.
            BackendError: The chat model failed.
        """
        validate_questions(questions)
        uri, flow = self._payload.encode(image), answer_questions(questions, self._features)
        with _untraced(), ThreadPoolExecutor(self._concurrency) as pool:
            return run_flow(flow, lambda request: pool.submit(copy_context().run, self._ask, uri, request))

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`. Cancelling it cancels the calls under way."""
        validate_questions(questions)
        uri, flow = await asyncio.to_thread(self._payload.encode, image), answer_questions(questions, self._features)
        free = asyncio.Semaphore(self._concurrency)

        async def ask(request: ChatRequest) -> ChatAnswer:
            async with free:
                return await self._aask(uri, request)

        with _untraced():
            return await run_flow_async(flow, ask)

    def _ask(self, uri: str, request: ChatRequest) -> ChatAnswer:
        messages, failure = build_chat_messages(request.turns, uri), ""
        for calls, settings in enumerate(self._list_settings(request), start=1):
            try:
                message = self.model.invoke(messages, _silence(), **settings)
            except Exception as error:  # noqa: BLE001 - each provider raises its own
                failure = self._describe(error)
                if not _refuses_settings(error):
                    break
                continue
            return self._read(message, settings, calls)
        raise BackendError(failure)

    async def _aask(self, uri: str, request: ChatRequest) -> ChatAnswer:
        messages, failure = build_chat_messages(request.turns, uri), ""
        for calls, settings in enumerate(self._list_settings(request), start=1):
            try:
                message = await self.model.ainvoke(messages, _silence(), **settings)
            except Exception as error:  # noqa: BLE001 - as in _ask
                failure = self._describe(error)
                if not _refuses_settings(error):
                    break
                continue
            return self._read(message, settings, calls)
        raise BackendError(failure)

    def _list_settings(self, request: ChatRequest) -> list[Mapping[str, Any]]:
        """Return the settings to try: with probabilities, unless the model refused those before; as it is."""
        return [_SCORED, {}] if self._accepts_scoring and not request.is_sampled else [{}]

    def _read(self, message: BaseMessage, settings: Mapping[str, Any], calls: int) -> ChatAnswer:
        """Return the answer of a message, and learn from it whether the model gives probabilities."""
        answer = _read_message(message, calls)
        if settings:
            self._features.note_answer(answer)
        elif calls > 1:
            self._accepts_scoring = self._features.gives_probabilities = False
        return answer

    def _describe(self, error: Exception) -> str:
        reason = redact(f"{type(error).__name__}: {error}", *_list_secrets(self.model))
        return f"the chat model {quote_text(self._name)} failed to answer: {reason}"


def _refuses_settings(error: Exception) -> bool:
    """Whether an error is about the settings of a call; a limit, a time-out or a wrong key isn't."""
    return getattr(error, "status_code", None) not in (401, 408, 429) and bool(_REFUSED.search(str(error)))


def _silence() -> RunnableConfig:
    """Return the settings of a request that neither reports to the agent's callbacks nor is streamed to its user."""
    return {"callbacks": [], "tags": ["nostream"]}


def name_chat_model(model: BaseChatModel) -> str:
    """Return the model's name at its provider; the class's name where it has none."""
    names = (getattr(model, field, None) for field in ("model_name", "model", "model_id", "deployment_name"))
    return next((name for name in names if isinstance(name, str) and name), type(model).__name__)


def build_chat_messages(turns: Sequence[Turn], image_uri: str) -> list[BaseMessage]:
    """Return the turns as messages, the image before the first user's text."""
    head, _, data = image_uri.partition(";base64,")
    image: list[dict[str, Any]] = [{"type": "image", "base64": data, "mime_type": head.removeprefix("data:")}]
    messages: list[BaseMessage] = []
    for turn in turns:
        if turn.role == "user":
            messages.append(HumanMessage([*image, {"type": "text", "text": turn.text}] if image else turn.text))
            image = []
        else:
            messages.append(SystemMessage(turn.text) if turn.role == "system" else AIMessage(turn.text))
    return messages


@contextmanager
def _untraced() -> Iterator[None]:
    """Keep LangSmith, where it is on, from recording what is asked: each request holds the image."""
    with tracing_context(enabled=False):
        yield


def _read_message(message: BaseMessage, calls: int) -> ChatAnswer:
    answer = build_answer(str(message.text), _read_tokens(message), has_reasoning=_has_reasoning(message))
    usage = getattr(message, "usage_metadata", None)
    if not usage:
        return replace(answer, requests=calls)
    tokens = Tokens(int(usage["input_tokens"]), int(usage["output_tokens"]))
    cached_tokens = (usage.get("input_token_details") or {}).get("cache_read")
    return replace(answer, tokens=tokens, cached_tokens=cached_tokens, requests=calls)


def _has_reasoning(message: BaseMessage) -> bool:
    blocks = message.content if isinstance(message.content, list) else []
    kinds = {block.get("type") for block in blocks if isinstance(block, dict)}
    return bool(kinds & {"reasoning", "thinking"} or message.additional_kwargs.get("reasoning_content"))


def _read_tokens(message: BaseMessage) -> tuple[AnswerToken, ...] | None:
    logprobs = message.response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return AnswerToken.read_all(content) if isinstance(content, list) else None


def _list_secrets(model: BaseChatModel) -> list[str]:
    values = (getattr(model, field, None) for field in type(model).model_fields)
    return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]


def _init_chat_model(remote: RemoteSpec, name: str) -> BaseChatModel:
    try:
        from langchain.chat_models import init_chat_model
    except ModuleNotFoundError as error:
        raise MissingExtraError("langchain", "agents") from error
    failure = ""
    try:
        model: BaseChatModel = init_chat_model(remote.model, model_provider=remote.provider)
    except ImportError as error:
        package = re.search(r"pip install (?:-U )?([\w-]+)", str(error))
        failure = f"needs a package that is not installed: {f'pip install {package[1]}' if package else error}"
    except Sam4MllmError:
        raise
    except Exception as error:  # noqa: BLE001 - each provider raises its own where a key or a name is missing
        reason = " ".join(str(error).split()).partition(" Supported")[0].rstrip(".")  # a list of some 30 providers follows
        failure = f"can't be loaded: {redact(reason)}"
    if failure:
        raise SpecError(f"the chat model {quote_text(name)} {failure}")
    return model
