"""What all tools have in common: the models, the pictures, handles, progress, and how mistakes come back.

A tool says what it does as a flow (flows.py) about a picture, whichever driver serves it, one that blocks or one that awaits.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import ConfigDict, Field, PrivateAttr, ValidationError

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline import Method, Sam4Mllm
from sam4mllm_tool.pipeline.requests import Flow, Transcript
from sam4mllm_tool.tools.artifacts import Artifact, Kind, artifacts, check_size, find_artifact
from sam4mllm_tool.tools.events import Tell
from sam4mllm_tool.tools.image_store import (
    LATEST,
    PictureStore,
    UnknownPictureError,
    find_picture,
    is_picture_id,
    known_pictures,
)
from sam4mllm_tool.types import Image, Size

__all__ = ["Result", "Sam4MllmTool", "SharedModels", "Work", "messages_of"]

Result = tuple[str, dict[str, Any]]
"""What the model reads, and the artifact."""
Injected: TypeAlias = Annotated[Any, InjectedToolArg]
"""What an agent gives beside the model's arguments. It has to be marked here and in the args_schema to arrive."""


def _as_it_is(result: Result) -> Result:
    return result


@dataclass(frozen=True)
class Work:
    """What a call comes to: `flow`, its questions and prompts about `picture`. talk: where its seconds go. told: what the tool
    tells of what the flow came to."""

    picture: Image
    flow: Flow[Any]
    talk: Transcript
    told: Callable[[Any], Result] = _as_it_is


class SharedModels:
    """The models, loaded when first asked for, once for all tools that hold this. Copies are the same; pickled, it is empty."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: Sam4Mllm | None = None

    def get(self) -> Sam4Mllm:
        """Loads them with `Sam4Mllm.load()` if need be. Raises what that raises."""
        with self._lock:
            if self._models is None:
                self._models = Sam4Mllm.load()
            return self._models

    def __copy__(self) -> "SharedModels":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedModels":
        return self

    def __reduce__(self) -> tuple[type["SharedModels"], tuple[()]]:
        return SharedModels, ()


def say_what_is_wrong(error: ValidationError) -> str:
    """What a model can act on when it filled in the arguments wrongly."""
    return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())


def messages_of(runtime: Any) -> Sequence[Any]:
    """The conversation so far, from the state that an agent injects; none outside an agent."""
    state = getattr(runtime, "state", None)
    told = state.get("messages") if isinstance(state, dict) else getattr(state, "messages", None)
    return told if isinstance(told, list | tuple) else ()


class Sam4MllmTool(BaseTool):
    """The base of the tools.

    sam4mllm: the loaded models; without them `Sam4Mllm.load()` is called on first use. method: how an expression is asked
    about where a tool does so in one call. policy: what pictures may be opened. pictures: where those of the conversation lie.
    What goes wrong with an argument comes back as a message of status "error" that the model can act on. Copies share the
    models; a pickled tool leaves behind those that it loaded itself, and loads them again where it is needed.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: Any = True
    handle_validation_error: Any = say_what_is_wrong

    sam4mllm: Sam4Mllm | None = Field(default=None, exclude=True)
    method: Method = "pqpp"
    policy: ImagePolicy = TOOL_POLICY
    pictures: PictureStore = Field(default_factory=PictureStore, exclude=True)

    _shared: SharedModels = PrivateAttr(default_factory=SharedModels)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> "Sam4MllmTool":
        memo = {} if memo is None else memo
        return super().__deepcopy__(memo | {id(self.sam4mllm): self.sam4mllm})

    def work(self, models: Sam4Mllm, runtime: Any, **arguments: Any) -> Work:
        """What the tool does. arguments: as its args_schema has them."""
        raise NotImplementedError

    def share(self, models: SharedModels) -> None:
        """Takes what others load, too, and loads for them."""
        self._shared = models

    def _models(self) -> Sam4Mllm:
        return self.sam4mllm or self._shared.get()

    def _run(
        self,
        run_manager: CallbackManagerForToolRun | None = None,  # noqa: ARG002
        runtime: Injected = None,
        **arguments: Any,
    ) -> Result:
        try:
            models = self._models()
            work = self.work(models, runtime, **arguments)
            return work.told(models.run(work.picture, work.flow, work.talk))
        except Sam4MllmError as error:
            raise ToolException(str(error)) from error

    async def _arun(
        self,
        run_manager: AsyncCallbackManagerForToolRun | None = None,  # noqa: ARG002
        runtime: Injected = None,
        **arguments: Any,
    ) -> Result:
        try:
            models = await asyncio.to_thread(self._models)  # loading them takes seconds
            work = await asyncio.to_thread(self.work, models, runtime, **arguments)
            found = await models.arun(work.picture, work.flow, work.talk)
            return await asyncio.to_thread(work.told, found)
        except Sam4MllmError as error:
            raise ToolException(str(error)) from error

    # For the tools -------------------------------------------------------------------------------------------------

    def picture(self, image: str, runtime: Any) -> tuple[str, Image]:
        """The id of the picture that an argument means, and the picture. Raises Sam4MllmError.

        In a conversation an id has to be one of its pictures; what the store holds beside them is other people's.
        """
        wanted = image.strip()
        if wanted.lower() != LATEST and not is_picture_id(wanted):
            name = self.pictures.put(image, policy=self.policy)
        elif runtime is None:
            name = self._outside(wanted)
        else:
            name = _known(wanted, messages_of(runtime))
        return name, self.pictures.get(name)

    def _outside(self, wanted: str) -> str:
        if wanted.lower() == LATEST:
            raise UnknownPictureError("no conversation, no latest picture: give the picture's id, or the picture as a data URI")
        return wanted

    def open_artifact(self, handle: Any, kind: Kind, runtime: Any) -> tuple[Artifact, Image]:
        """Return the artifact that an argument means, and the image it is about.

        Args:
            handle: A handle or "latest"; outside an agent also the artifact itself.
            kind: What the artifact has to be of.
            runtime: What the agent injects; None outside an agent.

        Raises:
            Sam4MllmError: There is no such artifact or image, or the artifact is of another size than the image.
        """
        artifact = find_artifact(handle, kind, None if runtime is None else messages_of(runtime))
        image = self.pictures.get(artifact["picture"])
        check_size(artifact, Size(*image.size))
        return artifact, image

    def tells(self, runtime: Any) -> Tell:
        """Takes events to the agent's custom stream; nowhere outside an agent."""
        writer: Callable[[Any], None] | None = getattr(runtime, "stream_writer", None)

        def tell(event: dict[str, Any]) -> None:
            if writer is not None:
                writer({**event, "tool": self.name})

        return tell


def _known(wanted: str, messages: Sequence[Any]) -> str:
    """A picture that a person sent, or else one that a tool of this conversation opened."""
    opened = [artifact["picture"] for artifact in artifacts(messages)]
    if wanted in opened:
        return wanted
    if wanted.lower() == LATEST and opened and not known_pictures(messages):
        return str(opened[-1])
    return find_picture(wanted, messages)
