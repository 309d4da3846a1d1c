"""An assistant that segments what it is asked for: a LangGraph graph for a terminal, a server or a program.

Plain requests and follow-ups (plain_requests.py) go straight to the tools without a chat model, in the messages that a chat
model would have written: a message with a tool call, the tool's message with the result as its artifact, a closing message. So
histories, checkpointers and a chat model that takes over later see one conversation. Everything else goes to the chat model,
which has the same tools.
"""

import os
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from sam4mllm_tool.agents.chat_results import find_last_result
from sam4mllm_tool.agents.choosing_segment_tool import ChoosingSegmentTool
from sam4mllm_tool.agents.hints import CAPABILITIES, NOTHING_TO_REFINE
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.agents.plain_requests import PlainRequests, answer_without_model
from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.tools import Sam4MllmToolkit

__all__ = [
    "CAPABILITIES",
    "NOTHING_TO_REFINE",
    "NoChatModel",
    "PlainRequests",
    "build_chat_graph",
    "find_last_result",
    "graph",
    "load_chat_model",
]

SYSTEM_PROMPT = """\
You help a person with the images of this conversation. Your tools find and cut out what an expression means; the exact \
masks go to the person's program, which shows them, so never describe a mask pixel by pixel.
- Ask for one object or group at a time, in plain words, as in "the mug behind the laptop".
- A result has a handle. To change a result ("no, the other one", "also the left one", a click), refine it by its handle \
rather than begin anew.
- Check an unsure result with describe_image_region before you rely on it.
- "There is no such object" is an answer: say so. Report what the tools found and never make up boxes or areas.
Answer in the person's language, in a sentence or two."""


def build_chat_graph(
    model: str | BaseChatModel | None = None,
    toolkit: Sam4MllmToolkit | None = None,
    checkpointer: Checkpointer = None,
    *,
    system_prompt: str = SYSTEM_PROMPT,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the chat graph; its state is `messages`, as any LangChain agent's.

    Args:
        model: A chat model or its spec, as in "openai:gpt-5"; by default the environment's SAM4MLLM_CHAT_MODEL. Without any,
            the graph serves plain requests and answers anything else with what it can do.
        toolkit: The tools; by default with the models that the environment names, else the embedded pair, loaded on first use.
        checkpointer: What keeps the conversations.
        system_prompt: The chat model's instructions.

    Raises:
        SpecError: The chat model can't be loaded.
    """
    toolkit = Sam4MllmToolkit() if toolkit is None else toolkit
    spec = os.environ.get("SAM4MLLM_CHAT_MODEL") or None if model is None else model
    chat_model = load_chat_model(spec) if isinstance(spec, str) else spec or NoChatModel()
    images, alone = ImageMiddleware(toolkit.image_store), isinstance(chat_model, NoChatModel)
    tools = toolkit.get_tools()
    agent = create_agent(
        chat_model,
        ChoosingSegmentTool.replace_in(tools) if alone else tools,
        system_prompt=system_prompt,
        middleware=[PlainRequests(alone=alone), images],
        checkpointer=checkpointer,
        name="chat",
    )
    return images.guard(agent)


def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph for LangGraph's server: built on first use, with what the environment names."""
    return _build_once()


@cache  # the server asks for the graph with each request, and its models are to be loaded once
def _build_once() -> CompiledStateGraph[Any, Any, Any, Any]:
    return build_chat_graph()


def load_chat_model(spec: str) -> BaseChatModel:
    """Load the chat model of a spec such as "openai:gpt-5", as LangChain's `init_chat_model` reads it.

    Raises:
        SpecError: Its package or its key is missing; one line says what to do.
    """
    model_name = f"the chat model {quote_text(spec)}"
    try:
        model = init_chat_model(spec)
    except ImportError as error:
        package = re.search(r"pip install (?:-U )?([\w-]+)", str(error))
        cure = f"pip install {package[1]}" if package else str(error)
        raise SpecError(f"{model_name} needs a package that is not installed: {cure}") from error
    except Exception as error:  # each provider raises its own where a key or a name is missing
        reason = " ".join(str(error).split()).partition(" Supported")[0].rstrip(".")  # a list of some 30 providers follows
        raise SpecError(f"{model_name} can't be loaded: {reason[:300]}; give PROVIDER:MODEL, as in openai:gpt-5") from error
    return model


class NoChatModel(BaseChatModel):
    """Stands in where there is no chat model: answers with what can be done without one."""

    @property
    def _llm_type(self) -> str:
        return "none"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> "NoChatModel":  # noqa: ARG002
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer_without_model(messages)))])
