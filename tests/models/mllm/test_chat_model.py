"""Chat models of LangChain as MLLMs."""

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from pydantic import SecretStr

from sam4mllm_tool.errors import BackendError, SpecError
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.chat_model import ChatModelMLLM
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.testing import MLLMConformance
from sam4mllm_tool.types import MLLM, FreeText, Labels, Question, Reply, Tokens, Turn
from tests.openai_servers import Exchange, Response, answer_numbered, build_completion, serve

FIRST = (Turn("system", "Be brief."), Turn("user", "Where is the mug?"), Turn("assistant", "[1,2,3,4]"))
BOXES = Question(FIRST[:2], FreeText(64))
POINTS = [Question((*FIRST, Turn("user", f"Is point {number} on it?")), Labels(1, ("Yes", "No"))) for number in range(3)]
IMAGE = PIL.Image.new("RGB", (96, 64), "navy")
KEY = "sk-0123456789secret"


class FunctionChatModel(BaseChatModel):
    """Answers with what a function of the messages and of the call's settings gives."""

    function: Callable[..., AIMessage | str]
    model: str = "qwen3-vl"
    api_key: SecretStr = SecretStr(KEY)

    @property
    def _llm_type(self) -> str:
        return "function"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> ChatResult:
        answer = self.function(messages, **kwargs)
        message = AIMessage(answer) if isinstance(answer, str) else answer
        return ChatResult(generations=[ChatGeneration(message=message)])


class ScoringChatModel(FunctionChatModel):
    """Has the settings of models that may give probabilities."""

    logprobs: bool | None = None
    top_logprobs: int | None = None


def score(word: str, **logprobs: float) -> AIMessage:
    """Return an answer with the logarithms of probabilities, as ChatOpenAI gives them."""
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in logprobs.items()]
    content = [{"token": word, "logprob": logprobs[word], "bytes": None, "top_logprobs": top}]
    usage = {"input_tokens": 50, "output_tokens": 1, "total_tokens": 51, "input_token_details": {"cache_read": 40}}
    return AIMessage(word, response_metadata={"logprobs": {"content": content}}, usage_metadata=usage)


def text_of(messages: list[BaseMessage]) -> str:
    return str(messages[-1].text)


def test_the_image_stands_first_in_the_first_turn_of_the_user() -> None:
    requests: list[list[BaseMessage]] = []

    def answer(messages: list[BaseMessage]) -> str:
        requests.append(messages)
        return "No"

    ChatModelMLLM(FunctionChatModel(function=answer)).reply(IMAGE, POINTS[:1])
    (messages,) = requests
    assert [message.type for message in messages] == ["system", "human", "ai", "human"]
    blocks = messages[1].content
    assert [block["type"] for block in blocks] == ["image", "text"]
    assert blocks[0]["mime_type"] == "image/png"
    assert messages[3].content == "Is point 0 on it?"


def test_probabilities_are_read_where_the_model_gives_them() -> None:
    mllm = ChatModelMLLM(ScoringChatModel(function=lambda _, **__: score("Yes", Yes=-0.5, no=-1.0, No=-9.0)))
    replies = mllm.reply(IMAGE, POINTS)
    assert [reply.text for reply in replies] == ["Yes"] * 3
    assert replies[0].label_probabilities == (pytest.approx((0.622, 0.378), abs=1e-3),)
    assert (replies[0].tokens, replies[0].cached_tokens, replies[0].requests) == (Tokens(50, 1), 40, 1)


def test_a_model_that_refuses_probabilities_is_asked_without_them_from_then_on() -> None:
    calls: list[dict[str, Any]] = []

    def answer(messages: list[BaseMessage], **settings: Any) -> str:
        calls.append(settings)
        if settings:
            raise ValueError("logprobs are not supported by this model")
        return "1. No\n2. Yes\n3. No" if "3." in text_of(messages) else "[1,2,3,4]"

    mllm = ChatModelMLLM(ScoringChatModel(function=answer))
    mllm.reply(IMAGE, [BOXES])
    assert [reply.text for reply in mllm.reply(IMAGE, POINTS)] == ["No", "Yes", "No"]
    assert calls == [{"logprobs": True, "top_logprobs": 20}, {}, {}]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    "failure", ["Error code: 429 - rate limit reached", "Request timed out.", "Error code: 401 - wrong key"]
)
async def test_a_passing_failure_does_not_end_the_probabilities(failure: str, is_async: bool) -> None:
    calls: list[dict[str, Any]] = []

    def answer(_: list[BaseMessage], **settings: Any) -> AIMessage:
        calls.append(settings)
        if len(calls) == 1:
            raise RuntimeError(failure)
        return score("Yes", Yes=-0.1, No=-2.0)

    mllm = ChatModelMLLM(ScoringChatModel(function=answer))
    with pytest.raises(BackendError, match=failure):
        _ = await mllm.areply(IMAGE, POINTS[:1]) if is_async else mllm.reply(IMAGE, POINTS[:1])
    (reply,) = await mllm.areply(IMAGE, POINTS[:1]) if is_async else mllm.reply(IMAGE, POINTS[:1])
    assert reply.label_probabilities is not None
    assert calls == [{"logprobs": True, "top_logprobs": 20}] * 2, "it is not asked as it is"


@pytest.mark.parametrize(
    "failure",
    [
        "Error code: 403 - You are not allowed to request logprobs from this model",
        "Logprobs is not enabled for models/gemini-3-pro",
        "Error code: 400 - Unsupported parameter: 'top_k' is not supported with this model",
        "_generate() got an unexpected keyword argument 'top_logprobs'",
        "messages.create: extra inputs are not permitted",
    ],
)
def test_a_setting_that_a_model_refuses_is_left_out(failure: str) -> None:
    def answer(_: list[BaseMessage], **settings: Any) -> str:
        if settings:
            raise RuntimeError(failure)
        return "Yes"

    assert ChatModelMLLM(ScoringChatModel(function=answer)).reply(IMAGE, POINTS[:1])[0].text == "Yes"


def test_without_probabilities_the_points_are_one_question_and_confidence_is_unknown() -> None:
    questions: list[str] = []

    def answer(messages: list[BaseMessage]) -> str:
        questions.append(text_of(messages))
        return "1. Yes\n2. No\n3. Yes"

    replies = ChatModelMLLM(FunctionChatModel(function=answer)).reply(IMAGE, POINTS)
    assert replies == [Reply("Yes"), Reply("No"), Reply("Yes")]
    assert len(questions) == 1


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("<think>[9,9,9,9]</think>[1,2,3,4]"),
        AIMessage([{"type": "reasoning", "reasoning": "[9,9,9,9]"}, {"type": "text", "text": "[1,2,3,4]"}]),
        AIMessage([{"type": "thinking", "thinking": "[9,9,9,9]"}, {"type": "text", "text": "[1,2,3,4]"}]),
        AIMessage("[1,2,3,4]", additional_kwargs={"reasoning_content": "[9,9,9,9]"}),
    ],
)
def test_a_thought_is_no_answer(message: AIMessage) -> None:
    (reply,) = ChatModelMLLM(FunctionChatModel(function=lambda _: message)).reply(IMAGE, [BOXES])
    assert reply == Reply("[1,2,3,4]")


async def test_async_answers_are_the_same_and_keep_their_order() -> None:
    async def answer(messages: list[BaseMessage]) -> str:
        number = int(text_of(messages).split()[2])
        await asyncio.sleep(0.01 * (3 - number))
        return ("Yes", "No", "Yes")[number]

    class AsyncChatModel(ScoringChatModel):
        async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:  # noqa: ARG002
            return ChatResult(generations=[ChatGeneration(message=AIMessage(await answer(messages)))])

    replies = await ChatModelMLLM(AsyncChatModel(function=lambda _: "")).areply(IMAGE, POINTS)
    assert [reply.text for reply in replies] == ["Yes", "No", "Yes"]


async def test_cancelling_cancels_the_calls() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    class HangingChatModel(FunctionChatModel):
        async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()
            raise AssertionError

    task = asyncio.create_task(ChatModelMLLM(HangingChatModel(function=lambda _: "")).areply(IMAGE, [BOXES]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


def test_calls_run_at_once_within_the_limit() -> None:
    together = threading.Barrier(3, timeout=10)

    def answer(_: list[BaseMessage], **settings: Any) -> AIMessage:  # noqa: ARG001
        together.wait()
        return score("Yes", Yes=-0.1)

    assert len(ChatModelMLLM(ScoringChatModel(function=answer), concurrency=3).reply(IMAGE, POINTS)) == 3


class Spy(BaseCallbackHandler):
    """Records that a chat model was called."""

    def __init__(self) -> None:
        self.calls = 0

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        self.calls += 1


def test_nothing_of_a_request_shows_in_the_callbacks_of_the_agent_around_it() -> None:
    spy = Spy()
    mllm = ChatModelMLLM(FunctionChatModel(function=lambda _: "[1,2,3,4]"))
    RunnableLambda(lambda _: mllm.reply(IMAGE, [BOXES])).invoke("", {"callbacks": [spy]})
    assert spy.calls == 0


def test_neither_the_key_nor_the_image_is_in_errors() -> None:
    def answer(messages: list[BaseMessage]) -> str:
        raise RuntimeError(f"Bearer {KEY} sent {messages}\n and more")

    mllm = ChatModelMLLM(FunctionChatModel(function=answer))
    with pytest.raises(BackendError, match=r"the chat model 'langchain:.*qwen3-vl' failed to answer: RuntimeError") as caught:
        mllm.reply(PIL.Image.effect_noise((64, 64), 90).convert("RGB"), [BOXES])
    written = "".join(traceback.format_exception(caught.value))
    assert KEY not in written
    assert "iVBOR" not in written
    assert "\n" not in str(caught.value)
    assert caught.value.__context__ is None, "the provider's error holds the request"


def test_the_dialect_comes_by_the_models_name() -> None:
    model = FunctionChatModel(function=lambda _: "", model="qwen2.5vl:7b")
    loaded = Sam4Mllm.load(model, "embedded")
    assert loaded.dialect.name == "qwen2_5_vl"
    assert loaded.dialect.resizing == loaded.mllm.resizing != None  # noqa: E711
    assert loaded.mllm.name == "langchain:FunctionChatModel:qwen2.5vl:7b"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FunctionChatModel(function=lambda _: "", profile={"image_inputs": False}), "takes no images: choose a vision model"),
        (FunctionChatModel(function=lambda _: "").bind(tools=[]), "expected a chat model without tools bound to it"),
        (42, "expected a spec, a chat model or an MLLM, got 42"),
    ],
)
def test_what_can_not_be_an_mllm_is_refused_at_once(model: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Sam4Mllm.load(model, "embedded")


def test_a_spec_of_openai_is_asked_with_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langchain_openai")

    def answer(exchange: Exchange) -> Response | dict[str, object]:
        if exchange.headers["authorization"] != f"Bearer {KEY}":
            return 401, {"error": {"message": f"Incorrect API key provided: {exchange.headers['authorization']}"}}, {}
        return build_completion("Yes", probabilities=[{"Yes": 0.6, "No": 0.2}])

    with serve(answer) as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "wrong")
        with pytest.raises(SpecError, match=r"failed to answer.*401.*; check the key") as caught:
            load_mllm("langchain:openai:gpt-4o")
        assert KEY not in str(caught.value)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        (reply,) = load_mllm("langchain:openai:gpt-4o").reply(IMAGE, POINTS[:1])
    assert reply.label_probabilities == (pytest.approx((0.75, 0.25)),)
    content = server.exchanges[-1].body["messages"][1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("langchain:nobody:m", "can't be loaded: .*nobody"),
        ("langchain:anthropic:claude-4", "needs a package that is not installed: pip install langchain-anthropic"),
    ],
)
def test_a_spec_that_can_not_be_loaded_is_one_line(spec: str, message: str) -> None:
    pytest.importorskip("langchain")
    with pytest.raises(SpecError, match=message) as caught:
        load_mllm(spec)
    assert "\n" not in str(caught.value)


class TestChatModelMLLM(MLLMConformance):
    """Without probabilities: points are one numbered question."""

    def make_backend(self) -> MLLM:
        return ChatModelMLLM(FunctionChatModel(function=self.answer))

    def answer(self, messages: list[BaseMessage]) -> str:
        return answer_numbered(self.oracle.answer_text, text_of(messages))


class TestChatModelMLLMWithProbabilities(TestChatModelMLLM):
    def make_backend(self) -> MLLM:
        return ChatModelMLLM(ScoringChatModel(function=self.answer_scored))

    def answer_scored(self, messages: list[BaseMessage], **_: Any) -> AIMessage:
        text = self.oracle.answer_text(text_of(messages))
        other = {"Yes": "No", "No": "Yes"}.get(text)
        return score(text, **{text: -0.1, **({other: -2.4} if other else {})})
