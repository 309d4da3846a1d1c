"""An assistant that segments what it is asked for: a LangGraph graph for a terminal, a server or a program.

Plain requests and follow-ups (intent_parser.py) go straight to the tools without a chat model, in the messages that a chat
model would have written: a message with a tool call, the tool's message with the result as its artifact, a closing message. So
histories, checkpointers and a chat model that takes over later see one conversation. Everything else goes to the chat model,
which has the same tools.
"""

import os
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.chat_models import init_chat_model
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.agents.image_rendering import IMAGE_LINE
from sam4mllm_tool.agents.intent_parser import parse_bare_expression, parse_clicks, parse_follow_up, parse_request
from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import LATEST, list_image_ids

__all__ = ["NoChatModel", "PlainRequests", "build_chat_graph", "find_last_result", "graph", "load_chat_model"]

SYSTEM_PROMPT = """\
You help a person with the images of this conversation. Your tools find and cut out what an expression means; the exact \
masks go to the person's program, which shows them, so never describe a mask pixel by pixel.
- Ask for one object or group at a time, in plain words, as in "the mug behind the laptop".
- A result has a handle. To change a result ("no, the other one", "also the left one", a click), refine it by its handle \
rather than begin anew.
- Check an unsure result with describe_image_region before you rely on it.
- "There is no such object" is an answer: say so. Report what the tools found and never make up boxes or areas.
Answer in the person's language, in a sentence or two."""

CAPABILITIES = (
    'I find what you name in an image, as in "segment the red ring", "where is the mug?" or "cut out all stars", and refine '
    'it: "no, the other one", "also the left one", "without the handle". For anything else I need a chat model: '
    "--chat-model PROVIDER:MODEL or SAM4MLLM_CHAT_MODEL."
)
NOTHING_TO_REFINE = 'There is no result of this image to refine yet: name an object first, as in "segment the red ring".'

_CALL_PREFIX = "plain_"
"""How the ids of calls begin that no chat model wrote."""
_REFUSAL = re.compile(r'\[(?:image|picture) refused(?:, "(?P<name>[^"\[\n]*)")?: (?P<reason>[^\[\]\n]*)\]')
_HANDLE_LINE = re.compile(r"\n(?:result|dialogue) seg-[0-9a-f]+ \((?:image|picture) img-[0-9a-f]+\)$")


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
    images = ImageMiddleware(toolkit.image_store)
    agent = create_agent(
        chat_model,
        toolkit.get_tools(),
        system_prompt=system_prompt,
        middleware=[PlainRequests(alone=isinstance(chat_model, NoChatModel)), images],
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


class PlainRequests(AgentMiddleware[Any, Any, Any]):
    """Answers in the chat model's place where no chat model is needed.

    Args:
        alone: There is no chat model, so a message that is nothing but an expression counts as a request as well.
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
            return AIMessage(format_closing(last))
        if isinstance(last, HumanMessage) and not list_refusals(last) and (call := self._create_call(messages)):
            return AIMessage("", tool_calls=[call])
        return None

    def _create_call(self, messages: Sequence[AnyMessage]) -> ToolCall | None:
        text = _get_text(messages[-1])
        result = find_last_result(messages)
        if result and (clicks := parse_clicks(text)):
            return _create_tool_call("refine_segmentation", result=result["handle"], clicks=clicks)
        if result and (instruction := parse_follow_up(text)):
            return _create_tool_call("refine_segmentation", result=result["handle"], instruction=instruction)
        if expression := parse_request(text) or (parse_bare_expression(text) if self.alone else None):
            image_id = (list_image_ids(messages) or [LATEST])[-1]
            return _create_tool_call("segment_image", image=image_id, expression=expression)
        return None


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
        text = _get_text(messages[-1])
        too_early = (parse_follow_up(text) or parse_clicks(text)) and not find_last_result(messages)
        answer = list_refusals(messages[-1]) or (NOTHING_TO_REFINE if too_early else CAPABILITIES)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(answer))])


def find_last_result(messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """Return the artifact of the newest result if it is of the newest image, so that a follow-up refines it."""
    newest_image = list_image_ids(messages)[-1:]
    artifacts = (message.artifact for message in reversed(messages) if isinstance(message, ToolMessage))
    result = next((artifact for artifact in artifacts if isinstance(artifact, dict) and artifact.get("kind") == "result"), None)
    return result if result and [result.get("picture")] == newest_image else None


def format_closing(message: ToolMessage) -> str:
    """Return what a person reads after a call that no chat model made: the tool's text without the handle."""
    return _HANDLE_LINE.sub("", str(message.text))


def list_refusals(message: BaseMessage) -> str:
    """Return why images of a message were refused, a line each; empty where none was.

    What is asked with a refused image is never asked of an earlier one.
    """
    refusals = _REFUSAL.finditer(str(message.text))
    return "\n".join(f"The image {refusal['name'] or 'sent'} can't be taken: {refusal['reason']}" for refusal in refusals)


def _get_text(message: BaseMessage) -> str:
    """Return what a person wrote, without the lines that stand for images."""
    return IMAGE_LINE.sub(" ", str(message.text)).strip()


def _create_tool_call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id=f"{_CALL_PREFIX}{secrets.token_hex(8)}", type="tool_call")
