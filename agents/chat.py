"""An assistant that segments what it is asked for: a LangGraph graph, for a terminal, a server or a program of your own.

Plain requests and follow-ups (plain.py) go straight to the tools, without a chat model and in the same messages that one would
have written: a message with a tool call, the tool's with the result as its artifact, a closing one. So histories, checkpointers
and a chat model that takes over later see one conversation. Everything else is for the chat model, which has the same tools.
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

from sam4mllm_tool.agents.image_middleware import PictureMiddleware
from sam4mllm_tool.agents.image_rendering import PICTURE_LINE
from sam4mllm_tool.agents.intent_parser import bare_expression, clicks, follow_up, plain_expression
from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_store import LATEST, known_pictures

__all__ = ["NoChatModel", "PlainRequests", "build_chat_graph", "graph", "last_result", "load_chat_model"]

SYSTEM_PROMPT = """\
You help a person with the pictures of this conversation. Your tools find and cut out what an expression means; the exact \
masks go to the person's program, which shows them, so never describe a mask pixel by pixel.
- Ask for one thing at a time, in plain words, as in "the mug behind the laptop".
- A result has a handle. To change a result ("no, the other one", "also the left one", a click), refine it by its handle \
rather than begin anew.
- Check an unsure result with describe_image_region before you rely on it.
- "There is no such object" is an answer: say so. Report what the tools found and never make up boxes or areas.
Answer in the person's language, in a sentence or two."""

WHAT_I_DO = (
    'I find what you name in a picture, as in "segment the red ring", "where is the mug?" or "cut out all stars", and refine '
    'it: "no, the other one", "also the left one", "without the handle". For anything else I need a chat model: '
    "--chat-model PROVIDER:MODEL or SAM4MLLM_CHAT_MODEL."
)
NOTHING_TO_REFINE = 'There is no result of this picture to go on from yet: name something first, as in "segment the red ring".'

_CALL = "plain_"
"""How the id of a call begins that no chat model wrote."""
_REFUSED = re.compile(r'\[picture refused(?:, "(?P<name>[^"\[\n]*)")?: (?P<reason>[^\[\]\n]*)\]')
_FOR_MODELS = re.compile(r"\n(?:result|dialogue) seg-[0-9a-f]+ \(picture img-[0-9a-f]+\)$")


def build_chat_graph(
    model: str | BaseChatModel | None = None,
    toolkit: Sam4MllmToolkit | None = None,
    checkpointer: Checkpointer = None,
    *,
    system_prompt: str = SYSTEM_PROMPT,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The compiled graph; its state is `messages`, as any LangChain agent's.

    model: a chat model, or its spec as in "openai:gpt-5"; by default the environment's SAM4MLLM_CHAT_MODEL, else none: then
    plain requests are served, and for anything else it says what it can do. toolkit: by default one of the embedded pair or
    what the environment names, loaded when first needed. Raises SpecError for a model that can't be had.
    """
    toolkit = Sam4MllmToolkit() if toolkit is None else toolkit
    spec = os.environ.get("SAM4MLLM_CHAT_MODEL") or None if model is None else model
    chat = load_chat_model(spec) if isinstance(spec, str) else spec or NoChatModel()
    pictures = PictureMiddleware(toolkit.pictures)
    agent = create_agent(
        chat,
        toolkit.get_tools(),
        system_prompt=system_prompt,
        middleware=[PlainRequests(alone=isinstance(chat, NoChatModel)), pictures],
        checkpointer=checkpointer,
        name="chat",
    )
    return pictures.guard(agent)


def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph as LangGraph's server wants it: built when it is first asked for, with what the environment names."""
    return _built()


@cache  # the server asks for the graph with each request; its models are to be loaded once
def _built() -> CompiledStateGraph[Any, Any, Any, Any]:
    return build_chat_graph()


def load_chat_model(spec: str) -> BaseChatModel:
    """The chat model of a spec such as "openai:gpt-5", as LangChain's `init_chat_model` has it.

    Raises SpecError, in one line that says what to do, where its package or its key is missing.
    """
    what = f"the chat model {quote_text(spec)}"
    try:
        model = init_chat_model(spec)
    except ImportError as error:
        package = re.search(r"pip install (?:-U )?([\w-]+)", str(error))
        cure = f"pip install {package[1]}" if package else str(error)
        raise SpecError(f"{what} needs a package that is not installed: {cure}") from error
    except Exception as error:  # each provider raises its own where a key or a name is missing
        said = " ".join(str(error).split()).partition(" Supported")[0].rstrip(".")  # a list of some 30 providers
        raise SpecError(f"{what} can't be had: {said[:300]}; give PROVIDER:MODEL, as in openai:gpt-5") from error
    return model


class PlainRequests(AgentMiddleware[Any, Any, Any]):
    """Answers in the chat model's place where no chat model is needed.

    alone: there is none, so that a message that is nothing but an expression is a request as well.
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
        if isinstance(last, ToolMessage) and last.tool_call_id.startswith(_CALL):
            return AIMessage(closing(last))
        if isinstance(last, HumanMessage) and not refused(last) and (call := self._call(messages)):
            return AIMessage("", tool_calls=[call])
        return None

    def _call(self, messages: Sequence[AnyMessage]) -> ToolCall | None:
        words = _words(messages[-1])
        result = last_result(messages)
        if result and (given := clicks(words)):
            return _tool_call("refine_segmentation", result=result["handle"], clicks=given)
        if result and (instruction := follow_up(words)):
            return _tool_call("refine_segmentation", result=result["handle"], instruction=instruction)
        if expression := plain_expression(words) or (bare_expression(words) if self.alone else None):
            return _tool_call("segment_image", image=(known_pictures(messages) or [LATEST])[-1], expression=expression)
        return None


class NoChatModel(BaseChatModel):
    """In the place of a chat model where there is none: says what can be done without."""

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
        words = _words(messages[-1])
        early = (follow_up(words) or clicks(words)) and not last_result(messages)
        told = refused(messages[-1]) or (NOTHING_TO_REFINE if early else WHAT_I_DO)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(told))])


def last_result(messages: Sequence[BaseMessage]) -> dict[str, Any] | None:
    """The artifact of the newest result, if it is one of the newest picture: what a follow-up goes on from."""
    latest = known_pictures(messages)[-1:]
    artifacts = (message.artifact for message in reversed(messages) if isinstance(message, ToolMessage))
    found = next((told for told in artifacts if isinstance(told, dict) and told.get("kind") == "result"), None)
    return found if found and [found.get("picture")] == latest else None


def closing(message: ToolMessage) -> str:
    """What is told to the person after a call that no chat model made: what the tool told, less what it tells for models."""
    return _FOR_MODELS.sub("", str(message.text))


def refused(message: BaseMessage) -> str:
    """Why pictures of a message were not taken, a line each; empty where all were.

    What is asked with such a picture is not asked of an earlier one.
    """
    lines = _REFUSED.finditer(str(message.text))
    return "\n".join(f"The picture {line['name'] or 'sent'} can't be taken: {line['reason']}" for line in lines)


def _words(message: BaseMessage) -> str:
    """What a person wrote, without what stands for pictures."""
    return " ".join(PICTURE_LINE.sub(" ", str(message.text)).split(" ")).strip()


def _tool_call(name: str, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id=f"{_CALL}{secrets.token_hex(8)}", type="tool_call")
