"""Runs a tool on a server (`sam4mllm serve`), so that the agent's process needs no torch.

The tool's own process decides what the conversation may open: it finds the image and the artifacts that a call means and sends
them along. The server keeps images by the same ids; it is sent one that it doesn't have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import SecretStr

from sam4mllm_tool.client import AsyncClient, Client
from sam4mllm_tool.config import Method
from sam4mllm_tool.tools.artifacts import Artifact
from sam4mllm_tool.tools.events import EventWriter
from sam4mllm_tool.tools.image_references import UnknownImageError
from sam4mllm_tool.types import Image

__all__ = ["ToolCall", "ToolServer"]

_Output: TypeAlias = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool with all that it is about.

    Attributes:
        name: The tool's on the server.
        arguments: The tool's, plain JSON; the image by its id, an artifact by its handle.
        image: What the call is about.
        artifacts: Those that the call needs, the earliest first.
        method: How an expression is asked about.
        write_event: Takes the tool's events.
    """

    name: str
    arguments: Mapping[str, Any]
    image: Image
    artifacts: Sequence[Artifact]
    method: Method
    write_event: EventWriter | None

    @property
    def _options(self) -> dict[str, Any]:
        return {"artifacts": self.artifacts, "method": self.method, "write_event": self.write_event}


@dataclass(frozen=True)
class ToolServer:
    """A server that runs tools. Each call has a connection of its own: copies, threads and event loops share none.

    Attributes:
        url: Where it listens.
        token: One of its tokens, where it has any.
    """

    url: str
    token: SecretStr | None = None

    @property
    def _settings(self) -> dict[str, Any]:
        return {"url": self.url, "token": None if self.token is None else self.token.get_secret_value()}

    def run(self, call: ToolCall) -> _Output:
        """Run a tool, and return its text and its artifact. Raises Sam4MllmError, as the tool or the connection failed."""
        with Client(**self._settings) as client:
            try:
                return client.call_tool(call.name, call.arguments, **call._options)
            except UnknownImageError:  # not sent yet, or no longer kept
                client.embed(call.image)
                return client.call_tool(call.name, call.arguments, **call._options)

    async def arun(self, call: ToolCall) -> _Output:
        """Do as `run` does, without blocking; a cancelled call is dropped on the server, too."""
        async with AsyncClient(**self._settings) as client:
            try:
                return await client.call_tool(call.name, call.arguments, **call._options)
            except UnknownImageError:
                await client.embed(call.image)
                return await client.call_tool(call.name, call.arguments, **call._options)
