"""Close connections on which the head of a request doesn't arrive in time: uvicorn limits only how long they may be idle."""

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["limit_header_time"]

_Base: Any = AutoHTTPProtocol


def limit_header_time(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with a limit, for `uvicorn.Config(http=...)`.

    Args:
        seconds: From the connection, or from the first byte of a later request on it, to the end of the request's head.
    """

    class HeaderTimeoutProtocol(_Base):  # type: ignore[misc]
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._start_or_stop()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._start_or_stop()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop()

        def _start_or_stop(self) -> None:
            """Run the timer while no request is being answered."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self._timer is None:
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return HeaderTimeoutProtocol
