"""Runs a tool on a server (`sam4mllm serve`), so that the agent's process needs no torch.

The tool's own process decides what the conversation may open: it finds the image and the artifacts that a call means and sends
them along. The server keeps images by the same ids; it is sent one that it doesn't have. A call that finds the server's queue
full is sent again, as many agents may share a server and none of them could do anything better.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import SecretStr

from sam4mllm_tool.client import AsyncClient, Client
from sam4mllm_tool.config import Method
from sam4mllm_tool.errors import ServiceBusyError
from sam4mllm_tool.tools.artifacts import Artifact
from sam4mllm_tool.tools.events import EventWriter
from sam4mllm_tool.tools.image_references import UnknownImageError
from sam4mllm_tool.types import Image

__all__ = ["BusyRetries", "ToolCall", "ToolServer"]

_Output: TypeAlias = tuple[str, dict[str, Any]]

_BUSY_LIMIT_S = 300.0
"""For how long a call that a busy server refuses is sent again."""
_LONGEST_WAIT = 4.0
"""The longest wait before a call is sent again, as a multiple of what the server says."""


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


class BusyRetries:
    """How long to wait, each time, before a call that a busy server refused is sent again.

    The waits are random, so that agents that were refused at once don't come back at once, and don't grow: an agent that has
    waited for long gets no smaller share of the free places than one that comes now.

    Args:
        limit_s: For how long the call is sent again in all, in seconds.
    """

    def __init__(self, limit_s: float = _BUSY_LIMIT_S) -> None:
        self._deadline = time.monotonic() + limit_s

    def choose_wait(self, error: ServiceBusyError) -> float:
        """Return how long to wait, in seconds. Raises the error once the limit would be over by then."""
        wait_s = error.retry_after_s * random.uniform(1.0, _LONGEST_WAIT)
        if time.monotonic() + wait_s > self._deadline:
            raise error
        return wait_s


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
        retries = BusyRetries()
        with Client(**self._settings) as client:
            while True:
                try:
                    return self._try(client, call)
                except ServiceBusyError as error:
                    time.sleep(retries.choose_wait(error))

    def _try(self, client: Client, call: ToolCall) -> _Output:
        try:
            return client.call_tool(call.name, call.arguments, **call._options)
        except UnknownImageError:  # not sent yet, or no longer kept
            client.embed(call.image)
            return client.call_tool(call.name, call.arguments, **call._options)

    async def arun(self, call: ToolCall) -> _Output:
        """Do as `run` does, without blocking; a cancelled call is dropped on the server, too."""
        retries = BusyRetries()
        async with AsyncClient(**self._settings) as client:
            while True:
                try:
                    return await self._atry(client, call)
                except ServiceBusyError as error:
                    await asyncio.sleep(retries.choose_wait(error))

    async def _atry(self, client: AsyncClient, call: ToolCall) -> _Output:
        try:
            return await client.call_tool(call.name, call.arguments, **call._options)
        except UnknownImageError:
            await client.embed(call.image)
            return await client.call_tool(call.name, call.arguments, **call._options)
