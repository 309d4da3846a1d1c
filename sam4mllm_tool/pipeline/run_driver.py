"""Advance one flow (requests.py) and call its hooks; whoever holds the driver serves the requests."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.pipeline.requests import Flow, Request, Response, RunHook

__all__ = ["RunDriver"]

T = TypeVar("T")


class RunDriver(Generic[T]):
    """Drives one flow.

    Attributes:
        request: What the flow waits for; None before the start and after the end.
    """

    def __init__(self, flow: Flow[T], hooks: Sequence[RunHook]) -> None:
        self.request: Request | None = None
        self._flow, self._hooks = flow, hooks
        self._result: list[T] = []
        self._is_finished = False

    @property
    def result(self) -> T:
        """What the flow returned, after its end."""
        return self._result[0]

    def start(self) -> None:
        """Advance to the first request, or to the end."""
        self._advance(lambda: next(self._flow))

    def send(self, response: Response) -> None:
        """Answer the request, and advance to the next one or to the end."""
        request = self.request
        assert request is not None
        for hook in self._hooks:
            hook.after_request(request, response)
        self._advance(lambda: self._flow.send(response))

    def finish(self, error: BaseException | None) -> None:
        """Tell the hooks that the run is over, once."""
        if self._is_finished:
            return
        self._is_finished = True
        for hook in self._hooks:
            hook.after_run(self._result[0] if self._result else None, error)

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            request = step()
            while (refusal := self._refusal(request)) is not None:
                request = self._flow.throw(refusal)
            self.request = request
        except StopIteration as end:  # which can't leave a thread
            self.request = None
            self._result.append(end.value)
            self.finish(None)

    def _refusal(self, request: Request) -> Sam4MllmError | None:
        """Why a hook doesn't let the request be served."""
        try:
            for hook in self._hooks:
                hook.before_request(request)
        except Sam4MllmError as error:
            return error
        return None

    def __enter__(self) -> "RunDriver[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.finish(error)
