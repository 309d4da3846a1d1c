"""Ask any chat model of LangChain that takes images: one that a spec names, or the very one that an agent talks with.

Its own settings stay as they are. Nothing of these requests shows in the agent's stream or callbacks: they hold the image.
"""

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langsmith import tracing_context
from pydantic import SecretStr

from sam4mllm_tool.errors import BackendError, MissingExtraError, Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.models.mllm.background_loop import gather_or_cancel
from sam4mllm_tool.models.mllm.chat_questions import (
    AnswerToken,
    ChatAnswer,
    ChatFeatures,
    ChatFlow,
    ChatRequest,
    answer_questions,
)
from sam4mllm_tool.models.mllm.image_payload import MAX_PIXELS, ImagePayload, draw_test_image
from sam4mllm_tool.models.mllm.redaction import redact
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.models.validation import validate_questions
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.protocol.dialects import find_by_model_name
from sam4mllm_tool.protocol.native_codec import ResizingRule
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Image, Labels, Question, Reply, Tokens, Turn

__all__ = ["ChatModelMLLM", "name_chat_model"]

_ALTERNATIVES = 20
_REFUSED = re.compile(
    r"logprob|(?:unsupported|unknown|unexpected|unrecognized|extra) (?:\w+ )?(?:parameter|value|argument|field|input)",
    re.IGNORECASE,
)
"""What providers and their packages write about a setting that a model doesn't take."""
_TEST_QUESTION = Question((Turn("user", "Is there a red square in this image? Answer Yes or No."),), Labels(1, ("Yes", "No")))


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
        self.dialect = dialect or find_by_model_name(name_chat_model(model)) or PLAIN
        """In which it is to be asked."""
        self._payload = ImagePayload(self.dialect, max_pixels or MAX_PIXELS)
        has_probabilities = {"logprobs", "top_logprobs"} <= set(type(model).model_fields)
        self._features = ChatFeatures(gives_probabilities=has_probabilities, votes=votes)
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

    def check(self) -> None:
        """Ask about a small image. Raises SpecError if the model doesn't answer."""
        failure = ""
        try:
            self.reply(draw_test_image(), [_TEST_QUESTION])
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
            return _drive(flow, lambda request: pool.submit(copy_context().run, self._ask, uri, request))

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`. Cancelling it cancels the calls under way."""
        validate_questions(questions)
        uri, flow = await asyncio.to_thread(self._payload.encode, image), answer_questions(questions, self._features)
        free = asyncio.Semaphore(self._concurrency)

        async def ask(request: ChatRequest) -> ChatAnswer:
            async with free:
                return await self._aask(uri, request)

        with _untraced():
            try:
                requests = next(flow)
                while True:
                    requests = flow.send(await gather_or_cancel([ask(request) for request in requests]))
            except StopIteration as end:
                replies: list[Reply] = end.value
                return replies

    def _ask(self, uri: str, request: ChatRequest) -> ChatAnswer:
        messages = build_chat_messages(request.turns, uri)
        failure = ""
        for settings in self._list_settings(request):
            try:
                message = self.model.invoke(messages, _silence(), **settings)
            except Exception as error:  # noqa: BLE001 - each provider raises its own
                failure = self._describe(error)
                if not _refuses_settings(error):
                    break
                continue
            return self._read(message, settings)
        raise BackendError(failure)

    async def _aask(self, uri: str, request: ChatRequest) -> ChatAnswer:
        messages = build_chat_messages(request.turns, uri)
        failure = ""
        for settings in self._list_settings(request):
            try:
                message = await self.model.ainvoke(messages, _silence(), **settings)
            except Exception as error:  # noqa: BLE001 - as in _ask
                failure = self._describe(error)
                if not _refuses_settings(error):
                    break
                continue
            return self._read(message, settings)
        raise BackendError(failure)

    def _list_settings(self, request: ChatRequest) -> list[dict[str, Any]]:
        """Return the settings to try: with probabilities, where the model may give them; as it is, where it refuses those."""
        scored = {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return [scored, {}] if self._features.gives_probabilities and not request.is_sampled else [{}]

    def _read(self, message: BaseMessage, settings: Mapping[str, Any]) -> ChatAnswer:
        """Return the answer of a message; a message without the probabilities that were asked for is the last to be asked."""
        answer = _read_message(message)
        if self._features.gives_probabilities and (not settings or answer.answer_tokens is None):
            self._features.gives_probabilities = False
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


def _drive(flow: ChatFlow, submit: Any) -> list[Reply]:
    try:
        requests = next(flow)
        while True:
            futures = [submit(request) for request in requests]
            try:
                answers = [future.result() for future in futures]
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
            requests = flow.send(answers)
    except StopIteration as end:
        replies: list[Reply] = end.value
        return replies


@contextmanager
def _untraced() -> Iterator[None]:
    """Keep LangSmith, where it is on, from recording what is asked: each request holds the image."""
    with tracing_context(enabled=False):
        yield


def _read_message(message: BaseMessage) -> ChatAnswer:
    text = str(message.text)
    answer = strip_thought(text)
    has_thought = answer is None or answer != text.strip() or _has_reasoning(message)
    usage = getattr(message, "usage_metadata", None)
    tokens = Tokens(int(usage["input_tokens"]), int(usage["output_tokens"])) if usage else None
    return ChatAnswer((answer or "") if has_thought else text, None if has_thought else _read_tokens(message), tokens)


def _has_reasoning(message: BaseMessage) -> bool:
    blocks = message.content if isinstance(message.content, list) else []
    kinds = {block.get("type") for block in blocks if isinstance(block, dict)}
    return bool(kinds & {"reasoning", "thinking"} or message.additional_kwargs.get("reasoning_content"))


def _read_tokens(message: BaseMessage) -> tuple[AnswerToken, ...] | None:
    logprobs = message.response_metadata.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    try:
        return tuple(map(AnswerToken.from_dict, content or ())) or None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


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
