"""What all tools share: the models, the image store, handles, progress events, and how errors come back.

A tool describes its work as a flow of requests (`ToolTask`); the base class drives it, blocking or async. Every input gets an
answer: whatever goes wrong, from unreadable arguments to a bug, becomes a ToolMessage of status "error", since an agent's
conversation can't go on from a tool call without an answer.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, ValidationError
from pydantic_core import to_jsonable_python
from typing_extensions import deprecated

from sam4mllm_tool.deprecation import rename_arguments
from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline import Method, RunContext, Sam4Mllm
from sam4mllm_tool.pipeline.requests import Flow, RunHook
from sam4mllm_tool.tools.artifacts import KINDS, Artifact, Kind, find_artifact, validate_extent
from sam4mllm_tool.tools.error_messages import describe_error
from sam4mllm_tool.tools.events import EventWriter
from sam4mllm_tool.tools.image_access import ImageAccess
from sam4mllm_tool.tools.image_references import LATEST
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.tools.server_calls import ToolCall, ToolServer
from sam4mllm_tool.tools.shared_models import SharedModels, require_either
from sam4mllm_tool.types import Image, Size

__all__ = ["Sam4MllmTool", "SharedModels", "ToolOutput", "ToolTask", "get_messages", "require_either"]

logger = logging.getLogger(__name__)

ToolOutput: TypeAlias = tuple[str, dict[str, Any]]
"""The text that the model reads, and the artifact for the program."""
Injected: TypeAlias = Annotated[Any, InjectedToolArg]
"""An argument that the agent injects. LangChain wants it marked both here and in the args_schema."""

_MAX_FAULTS = 5
"""Faults of the arguments that one message lists."""


def _return_unchanged(output: ToolOutput) -> ToolOutput:
    return output


@dataclass(frozen=True)
class ToolTask:
    """The work of one tool call.

    Attributes:
        image: The image that the flow is about.
        flow: The requests to the models.
        run: The run that the flow belongs to.
        build_output: Turns the flow's result into text and artifact.
        hooks: Watch the run, for progress events.
    """

    image: Image
    flow: Flow[Any]
    run: RunContext
    build_output: Callable[[Any], ToolOutput] = _return_unchanged
    hooks: tuple[RunHook, ...] = ()


def describe_faults(error: ValidationError) -> str:
    """Say in one line what is wrong with a tool's arguments, for the model that wrote them."""
    faults = error.errors(include_input=False, include_url=False)
    lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:_MAX_FAULTS]]
    return "; ".join(lines + [f"and {len(faults) - _MAX_FAULTS} more"] * (len(faults) > _MAX_FAULTS))


def get_messages(runtime: Any, key: str | None = None) -> Sequence[Any]:
    """Return the conversation so far from the state that an agent injects; empty outside an agent.

    Args:
        runtime: What the agent injects.
        key: Where the state has its messages. None: "messages", or else the only list of messages in it.
    """
    state = getattr(runtime, "state", None)
    fields = state if isinstance(state, Mapping) else vars(state) if hasattr(state, "__dict__") else {}
    messages = fields.get(key or "messages")
    if key is None and not isinstance(messages, list | tuple):
        lists = [
            value for value in fields.values() if isinstance(value, list | tuple) and value and all(map(_is_message, value))
        ]
        messages = lists[0] if len(lists) == 1 else ()
    return messages if isinstance(messages, list | tuple) else ()


def _is_message(value: Any) -> bool:
    return isinstance(value, BaseMessage) or (isinstance(value, Mapping) and "content" in value and "role" in value)


@contextmanager
def _convert_errors() -> Iterator[None]:
    """Turn the package's own errors into ToolException, whose message LangChain hands to the model."""
    try:
        yield
    except Sam4MllmError as error:
        raise ToolException(describe_error(error)) from error
    except ValidationError as error:  # a library's; LangChain would report it as a fault of the arguments
        raise RuntimeError("a library failed to validate its own data while the tool ran") from error


def _is_control_flow(error: Exception) -> bool:
    """Whether LangGraph raised this to pause or redirect the graph. It can only have done so if it is loaded."""
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)


class Sam4MllmTool(BaseTool):
    """The base of the tools. Copies share the models; a pickled tool takes given models along and reloads its own.

    Attributes:
        sam4mllm: The loaded models. None: `Sam4Mllm.load` is called on first use.
        mllm: Which MLLM that loads: a spec, or a chat model that takes images, such as the agent's own. By default the
            environment's.
        segmenter: Which segmenter that loads, a spec; by default the environment's.
        method: How an expression is asked about, in tools that do so in one call. By default `adaptive`: an agent has to know
            how sure a result is, which the paper's methods don't say.
        policy: Which images may be opened besides those of the conversation.
        image_store: Where the conversation's images are kept.
        messages_key: Where an agent's state has its messages; by default "messages", or the only list of messages in it.
        server: Where `sam4mllm serve` listens, as in "http://127.0.0.1:8765": it runs the tool, and this process needs no
            torch. It has its own models, limits and image store; which images a model may open, `policy` decides here.
        server_token: One of the server's tokens, where it has any.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    server_tool: ClassVar[str | None] = None
    """What the tool is called on a server; None: it works with models of its own process alone."""

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = describe_faults

    sam4mllm: Sam4Mllm | None = Field(default=None, exclude=True)
    mllm: Any = Field(default=None, exclude=True)
    segmenter: str | None = None
    method: Method = "adaptive"
    policy: ImagePolicy = TOOL_POLICY
    image_store: ImageStore = Field(default_factory=ImageStore, exclude=True)
    messages_key: str | None = None
    server: str | None = None
    server_token: SecretStr | None = Field(default=None, exclude=True)

    _shared: SharedModels = PrivateAttr(default_factory=SharedModels)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**rename_arguments(settings, "pictures image_store"))
        require_either(self.sam4mllm, self.server, mllm=self.mllm, segmenter=self.segmenter)
        if self.server is not None and self.server_tool is None:
            raise ValueError(f"{type(self).__name__} doesn't work on a server: leave server out, or give it models")
        self._shared = SharedModels(self.mllm, self.segmenter)

    @property
    @deprecated("`pictures` is now `image_store`")
    def pictures(self) -> ImageStore:
        """The old name of `image_store`."""
        return self.image_store

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "Sam4MllmTool":
        memo = {} if memo is None else memo
        return super().__deepcopy__(memo | {id(models): models for models in (self.sam4mllm, self.mllm)})

    def create_task(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> ToolTask:
        """Describe the work of one call. `arguments` are validated by the args_schema; raises Sam4MllmError."""
        raise NotImplementedError

    def share_models(self, models: SharedModels) -> None:
        """Use models that other tools load too."""
        self._shared = models

    # Running. LangChain reads some of the input before its own error handling begins, and handles only two kinds of errors.

    def run(self, tool_input: str | dict[str, Any], *args: Any, **options: Any) -> Any:
        """Run the tool as any LangChain tool; unexpected errors are logged and become the answer."""
        try:
            return super().run(tool_input, *args, **options)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            return self._answer_unexpected(error, options.get("tool_call_id"))

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, **options: Any) -> Any:
        """Run the tool as `run` does, without blocking the event loop."""
        try:
            return await super().arun(tool_input, *args, **options)
        except Exception as error:  # noqa: BLE001 - see the module's docstring
            return self._answer_unexpected(error, options.get("tool_call_id"))

    def _answer_unexpected(self, error: Exception, tool_call_id: str | None) -> Any:
        """Log an unexpected error and return what LangChain returns for a handled one. Call it in the except block.

        The text is our own: a library's may hold paths, secrets or pages of a traceback.
        """
        if _is_control_flow(error) or not self.handle_tool_error:
            raise error
        logger.exception("%s failed with an unexpected error", self.name)
        text = f"{self.name} failed with an unexpected error, which was logged: check the arguments, or try another way"
        return text if tool_call_id is None else ToolMessage(text, name=self.name, tool_call_id=tool_call_id, status="error")

    def _run(
        self,
        run_manager: CallbackManagerForToolRun | None = None,  # noqa: ARG002
        runtime: Injected = None,
        **arguments: Any,
    ) -> ToolOutput:
        with _convert_errors():
            if self.server is not None:
                output = ToolServer(self.server, self.server_token).run(self._describe_call(runtime, arguments))
            else:
                models = self._load_models()
                task = self.create_task(models, runtime, **arguments)
                output = task.build_output(models.run(task.image, task.flow, task.run, hooks=task.hooks))
            return self._complete_output(output, runtime, arguments)

    async def _arun(
        self,
        run_manager: AsyncCallbackManagerForToolRun | None = None,  # noqa: ARG002
        runtime: Injected = None,
        **arguments: Any,
    ) -> ToolOutput:
        with _convert_errors():
            if self.server is not None:
                call = await asyncio.to_thread(self._describe_call, runtime, arguments)
                output: ToolOutput = await ToolServer(self.server, self.server_token).arun(call)
            else:
                models = await asyncio.to_thread(self._load_models)  # takes seconds
                task = await asyncio.to_thread(self.create_task, models, runtime, **arguments)
                result = await models.arun(task.image, task.flow, task.run, hooks=task.hooks)
                output = await asyncio.to_thread(task.build_output, result)
            return await asyncio.to_thread(self._complete_output, output, runtime, arguments)

    def _describe_call(self, runtime: Any, arguments: dict[str, Any]) -> ToolCall:
        """Find the image and the artifacts that a call means, for a server. Raises Sam4MllmError."""
        kind: Kind | None = next((kind for kind in KINDS if kind in self.args), None)
        if kind is None or arguments.get("box") is not None:
            image_id, image = self.open_image(arguments.get("image"), runtime)
            resolved, artifacts = {"image": image_id}, []
        else:
            artifact, image = self.open_artifact(arguments.get(kind, LATEST), kind, runtime)
            resolved, artifacts = {kind: artifact["handle"]}, self.list_artifacts(artifact, runtime, **arguments)
            arguments = {name: value for name, value in arguments.items() if name != "image"}
        plain = to_jsonable_python({**arguments, **resolved})
        return ToolCall(str(self.server_tool), plain, image, artifacts, self.method, self._relay_events(runtime))

    def _relay_events(self, runtime: Any) -> EventWriter | None:
        """Return a function that writes a server's events to the agent's custom stream; None outside an agent."""
        writer: EventWriter | None = getattr(runtime, "stream_writer", None)
        source = {"tool": self.name, "tool_call_id": getattr(runtime, "tool_call_id", None)}
        return None if writer is None else lambda event: writer({**event, **source})

    def list_artifacts(self, artifact: Artifact, runtime: Any, **arguments: Any) -> list[Artifact]:  # noqa: ARG002
        """Return the artifacts that a call about this one needs, the earliest first."""
        return [artifact]

    def _complete_output(self, output: ToolOutput, runtime: Any, arguments: dict[str, Any]) -> ToolOutput:
        """Do with a new output what is done in the agent's process, wherever the tool ran."""
        text, artifact = output
        return text, self._get_access(runtime).note_origin(artifact, arguments.get("image"))

    def _load_models(self) -> Sam4Mllm:
        return self.sam4mllm or self._shared.get()

    # For the tools

    def open_image(self, image: str | None, runtime: Any) -> tuple[str, Image]:
        """Return the id and the pixels of the image that an argument means (`ImageAccess.open`).

        Args:
            image: What means an image of the conversation; also what the policy opens. None is "latest".
            runtime: What the agent injects; None outside an agent.

        Raises:
            Sam4MllmError: There is no such image, or it can't be opened.
        """
        return self._get_access(runtime).open(LATEST if image is None else image)

    def open_artifact(self, handle: Any, kind: Kind, runtime: Any) -> tuple[Artifact, Image]:
        """Return the artifact that an argument means, and the image it is about.

        Args:
            handle: A handle or "latest"; outside an agent also the artifact itself.
            kind: What the artifact has to be of.
            runtime: What the agent injects; None outside an agent.

        Raises:
            Sam4MllmError: There is no such artifact or image, or the artifact is of another size than the image.
        """
        access = self._get_access(runtime)
        artifact = find_artifact(handle, kind, access.messages)
        image = access.open_image_of(artifact)
        validate_extent(artifact, Size(*image.size))
        return artifact, image

    def _get_access(self, runtime: Any) -> ImageAccess:
        messages = None if runtime is None else get_messages(runtime, self.messages_key)
        return ImageAccess(self.image_store, self.policy, messages)

    def get_event_writer(self, runtime: Any, image_id: str, expression: str) -> EventWriter:
        """Return a function that writes events to the agent's custom stream; outside an agent it does nothing.

        Each event says which call it belongs to: the tool, the call's id, the image's id, the expression. The function may be
        called in any thread: LangGraph's writer wants the context of the call.
        """
        source = {
            "tool": self.name,
            "tool_call_id": getattr(runtime, "tool_call_id", None),
            "image": image_id,
            "expression": expression,
        }
        writer: Callable[[Any], None] | None = getattr(runtime, "stream_writer", None)
        context = copy_context()

        def write(event: dict[str, Any]) -> None:
            if writer is not None:
                context.copy().run(writer, {**event, **source})

        return write
