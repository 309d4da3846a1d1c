"""Ask an MLLM behind a server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, Ollama, LM Studio, hosted ones.

What a server can do is learnt when it is connected to, with one small image: whether it is reachable, accepts the key, has the
model, takes images, and gives probabilities. All requests run on one event loop in the background, several at a time.
"""

import asyncio
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sam4mllm_tool.errors import BackendError, MissingExtraError, Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.models.mllm.background_loop import await_in_background, finish_in_background, run_in_background
from sam4mllm_tool.models.mllm.chat_flow import TEST_QUESTION, ChatAnswer, ChatFeatures, ChatRequest, run_flow_async
from sam4mllm_tool.models.mllm.chat_questions import answer_questions, build_request
from sam4mllm_tool.models.mllm.image_payload import ImagePayload, draw_test_image
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.models.mllm.server_options import ServerOptions
from sam4mllm_tool.models.mllm.server_requests import (
    build_messages,
    build_parameters,
    choose_rejected,
    is_thinking,
    read_completion,
)
from sam4mllm_tool.models.validation import validate_questions
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.protocol.dialects import find_by_model_name
from sam4mllm_tool.protocol.native_codec import ResizingRule
from sam4mllm_tool.text import suggest_name
from sam4mllm_tool.types import Image, Question, Reply

try:
    import openai
except ModuleNotFoundError as missing:
    raise MissingExtraError("openai", "openai") from missing

from sam4mllm_tool.models.mllm.server_errors import describe_failure
from sam4mllm_tool.models.mllm.server_keys import find_key

__all__ = ["OpenAICompatibleMLLM", "ServerOptions"]

_CONNECT_TIMEOUT_S = 10.0
_THOUGHT_TOKENS = 4096
"""What a model that can't be kept from thinking may write before its answer."""
_TEXT_ALONE_TOKENS = 64
"""A prompt of fewer tokens may be the test question without its image."""
_TEST_REQUEST = build_request(TEST_QUESTION)
_NO_KEY = "none"
"""Sent where there is no key: the client wants one, local servers ignore it."""


class OpenAICompatibleMLLM:
    """Answers questions by requests to a server. Calls may overlap; together they send `concurrency` requests at a time.

    The key is taken from the environment, SAM4MLLM_API_KEY before OPENAI_API_KEY, and appears nowhere else. The second is not
    sent to just any server (`server_keys`).

    Args:
        model: The model's name on the server.
        url: The server's base URL, such as "http://localhost:8000/v1".
        name: Name in `Usage` and in messages; by default the spec.
        dialect: In which it will be asked, by default that of its family, by the name.
        options: How it is asked.
    """

    def __init__(
        self,
        model: str,
        url: str,
        *,
        name: str | None = None,
        dialect: Dialect | None = None,
        options: ServerOptions = ServerOptions(),
    ) -> None:
        self._name = f"openai:{model}@{url}" if name is None else name
        self._model, self._url, self._options = model, url, options
        self._key_variable, self._key = find_key(url)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=url,
            timeout=openai.Timeout(options.timeout_s, connect=min(_CONNECT_TIMEOUT_S, options.timeout_s)),
            max_retries=options.retries,
        )
        self.ask_in(dialect or find_by_model_name(model) or PLAIN)
        self._features = ChatFeatures(votes=options.votes)
        self._rejected: frozenset[str] = frozenset()
        self._thinks, self._has_tokenizer = False, False
        self._token_ids: dict[tuple[str, ...], tuple[int, ...]] = {}
        self.version: str | None = None
        """What the server says that it runs (`system_fingerprint`), such as a build; None where it doesn't say."""
        self._free = asyncio.Semaphore(options.concurrency)
        weakref.finalize(self, finish_in_background, self._client.close).atexit = False

    @classmethod
    def load(
        cls, remote: RemoteSpec, *, name: str, dialect: Dialect | None = None, max_pixels: int | None = None
    ) -> "OpenAICompatibleMLLM":
        """Connect to the server of a spec, and learn what it can do. The environment sets the options.

        Raises:
            SpecError: The model can't be used there; in one line that says what to do.
        """
        options = ServerOptions.from_environment(max_pixels=max_pixels)
        mllm = cls(remote.model, remote.url, name=name, dialect=dialect, options=options)
        mllm.check()
        return mllm

    @property
    def name(self) -> str:
        """The spec; it holds no key."""
        return self._name

    @property
    def greedy(self) -> bool:
        """Whether the server accepts to decode deterministically."""
        return "temperature" not in self._rejected

    @property
    def resizing(self) -> ResizingRule | None:
        """The rule by which images are resized before they are sent; None where the dialect doesn't depend on it."""
        return self._payload.resizing

    @property
    def gives_probabilities(self) -> bool:
        """Whether the server gives the probabilities of answers, as far as is known."""
        return self._features.gives_probabilities

    def ask_in(self, dialect: Dialect) -> None:
        """Set the dialect in which the model will be asked: it decides in which sizes images are sent."""
        self._payload = ImagePayload(dialect, self._options.max_pixels)

    def check(self) -> None:
        """Ask about a small image, and learn what the server can do.

        Raises:
            SpecError: The server can't be reached, is no such API, refuses the key, or the model is missing or takes no images.
        """
        run_in_background(self._check())

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order. The image is sent with each request.

        Raises:
            ValueError: As `validate_questions`.
            ExpressionError: A question has a control token.
            BackendError: The server failed, after the retries.
        """
        validate_questions(questions)
        return run_in_background(self._reply(self._payload.encode(image), questions))

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`. Cancelling it closes the requests under way."""
        validate_questions(questions)
        uri = await asyncio.to_thread(self._payload.encode, image)
        return await await_in_background(self._reply(uri, questions))

    async def _reply(self, image_uri: str, questions: Sequence[Question]) -> list[Reply]:
        flow = answer_questions(questions, self._features)
        return await run_flow_async(flow, lambda request: self._ask(image_uri, request))

    async def _ask(self, image_uri: str, request: ChatRequest) -> ChatAnswer:
        async with self._free:
            failure: str = ""
            try:
                return await self._complete(image_uri, request)
            except (openai.OpenAIError, ValueError) as error:
                failure = self._describe(error)
            # Outside the handler: the client's error holds the request, and with it the image and the key.
        raise BackendError(failure)

    async def _complete(self, image_uri: str | None, request: ChatRequest) -> ChatAnswer:
        """Send a request, and send it again without what the server refuses, or with room for a thought."""
        messages, rejected, requests = build_messages(request.turns, image_uri), self._rejected, 0
        while True:
            limited = replace(request, max_tokens=request.max_tokens + (_THOUGHT_TOKENS if self._thinks else 0))
            parameters, names = build_parameters(limited, rejected, await self._find_token_ids(request.words))
            parameters |= {"model": self._model, "messages": messages}
            requests += 1
            try:
                response = await self._client.chat.completions.with_raw_response.create(**parameters)
            except (openai.BadRequestError, openai.UnprocessableEntityError, openai.PermissionDeniedError) as error:
                # 403 is mostly about the account: it is a parameter's fault only where it says so.
                refused = choose_rejected(str(error), names, is_named=isinstance(error, openai.PermissionDeniedError))
                if not refused:
                    raise
                rejected |= refused
                continue
            requests += response.retries_taken
            completion = response.parse()
            answer = read_completion(completion, requests=requests)
            self._rejected |= rejected
            self.version = getattr(completion, "system_fingerprint", None) or self.version
            if not self._thinks and is_thinking(completion):
                self._thinks = True
                continue
            if not request.is_sampled:
                self._features.note_answer(answer)
            return answer

    async def _find_token_ids(self, words: tuple[str, ...]) -> tuple[int, ...]:
        """Return the tokens that begin the words, of a vLLM server, which then reports their probabilities however small."""
        if not words or not self._has_tokenizer:
            return ()
        if words not in self._token_ids:
            spellings = [spelling for word in words for spelling in (word, f" {word}")]
            try:
                first_tokens = {await self._find_first_token(spelling) for spelling in spellings}
            except (openai.OpenAIError, ValueError, LookupError, TypeError):
                self._has_tokenizer = False
                return ()
            self._token_ids[words] = tuple(sorted(first_tokens))
        return self._token_ids[words]

    async def _find_first_token(self, text: str) -> int:
        url = f"{self._url.removesuffix('/v1')}/tokenize"
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        answer: Any = await self._client.post(url, cast_to=object, body=body)
        return int(answer["tokens"][0])

    async def _check(self) -> None:
        failure = ""
        try:
            await self._find_fault()
        except Sam4MllmError:
            raise
        except (openai.OpenAIError, ValueError) as error:
            failure = self._describe(error)
        if failure:
            raise SpecError(failure)

    async def _find_fault(self) -> None:
        """Raise SpecError, or what the client raises, where the model can't be used."""
        models = await self._list_models()
        image_uri = self._payload.encode(draw_test_image())
        failure: openai.APIStatusError | None = None
        try:
            answer = await self._complete(image_uri, _TEST_REQUEST)
        except openai.APIStatusError as error:
            if error.status_code in (401, 403, 429):
                raise
            failure = error
        if failure is None:
            if answer.tokens is not None and answer.tokens.read < _TEXT_ALONE_TOKENS:
                alone = await self._complete(None, _TEST_REQUEST)
                if alone.tokens is not None and alone.tokens.read == answer.tokens.read:
                    raise SpecError(self._no_vision("the server leaves images out"))
            return
        if models and self._model not in models:
            listed = ", ".join(map(repr, models[:5])) + (", ..." if len(models) > 5 else "")
            hint = suggest_name(self._model, models)
            raise SpecError(f"the server at {self._url} has no model {quote_text(self._model)}; it has {listed}{hint}")
        try:
            await self._complete(None, _TEST_REQUEST)
        except openai.OpenAIError:
            raise failure from None
        raise SpecError(self._no_vision(self._describe(failure)))

    async def _list_models(self) -> list[str]:
        """Return the names of the server's models; none where it lists none. It is the cheapest request."""
        client = self._client.with_options(max_retries=min(1, self._options.retries))
        try:
            page: Any = await client.models.list()
        except (openai.NotFoundError, openai.APIStatusError) as error:
            if error.status_code in (401, 403):
                raise
            return []
        except AttributeError as error:  # the client's, about an answer that is no JSON
            raise ValueError("no list of models") from error
        models = [model for model in getattr(page, "data", None) or () if getattr(model, "id", None)]
        self._has_tokenizer = any(getattr(model, "owned_by", "") == "vllm" for model in models)
        return [str(model.id) for model in models]

    def _no_vision(self, reason: str) -> str:
        cure = "choose a vision model, or start the server with one"
        return f"the model {quote_text(self._model)} takes no images: {cure} ({reason})"

    def _describe(self, error: Exception) -> str:
        return describe_failure(
            error,
            url=self._url,
            model=self._model,
            timeout_s=self._options.timeout_s,
            key_variable=self._key_variable,
            key=self._key,
        )
