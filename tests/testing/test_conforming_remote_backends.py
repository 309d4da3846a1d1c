"""The remote backends pass the public conformance suites, driven by stand-in servers on loopback."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from langchain_core.messages import AIMessage, BaseMessage

pytest.importorskip("openai")

from sam4mllm_tool.models.mllm.chat_model import ChatModelMLLM
from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM, ServerOptions
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.dialects import QWEN2_5_VL
from sam4mllm_tool.testing import MLLMConformance
from sam4mllm_tool.types import MLLM
from tests.models.mllm.test_chat_model import FunctionChatModel, ScoringChatModel, score
from tests.openai_servers import Exchange, answer_numbered, build_completion, serve

RESIZING = (28, 56 * 56, 1280 * 28 * 28)
"""The rule by which images are sent to families that count pixels."""


class TestOpenAICompatibleMLLM(MLLMConformance):
    @pytest.fixture(autouse=True)
    def url(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("SAM4MLLM_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
            monkeypatch.delenv(name, raising=False)
        with serve(self.answer, models=["m"]) as server:
            self._url = server.url
            yield

    def make_backend(self) -> MLLM:
        return OpenAICompatibleMLLM("m", self._url, dialect=self.dialect, options=ServerOptions(retries=0))

    def answer(self, exchange: Exchange) -> dict[str, Any]:
        text = self.oracle.answer_text(exchange.last_text)
        other = {"Yes": "No", "No": "Yes"}.get(text)
        return build_completion(text, probabilities=[{text: 0.9, other: 0.1}] if other else None)


@pytest.mark.slow
class TestOpenAICompatibleMLLMWithoutProbabilities(TestOpenAICompatibleMLLM):
    def answer(self, exchange: Exchange) -> dict[str, Any]:
        return build_completion(answer_numbered(self.oracle.answer_text, exchange.last_text))


@pytest.mark.slow
class TestOpenAICompatibleMLLMThatCountsPixels(TestOpenAICompatibleMLLM):
    dialect: ClassVar[Dialect] = QWEN2_5_VL.for_model(RESIZING)


class TestChatModelMLLM(MLLMConformance):
    def make_backend(self) -> MLLM:
        return ChatModelMLLM(ScoringChatModel(function=self.answer), dialect=self.dialect)

    def answer(self, messages: list[BaseMessage], **_: Any) -> AIMessage:
        text = self.oracle.answer_text(str(messages[-1].text))
        other = {"Yes": "No", "No": "Yes"}.get(text)
        return score(text, **{text: math.log(0.9), other: math.log(0.1)}) if other else AIMessage(text)


@pytest.mark.slow
class TestChatModelMLLMWithoutProbabilities(MLLMConformance):
    def make_backend(self) -> MLLM:
        return ChatModelMLLM(FunctionChatModel(function=self.answer), dialect=self.dialect)

    def answer(self, messages: list[BaseMessage], **_: Any) -> str:
        return answer_numbered(self.oracle.answer_text, str(messages[-1].text))
