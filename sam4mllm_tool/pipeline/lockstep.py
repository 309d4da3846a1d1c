"""Drive many runs at once, about one or several images: each model call serves all runs that wait for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeAlias

from sam4mllm_tool.errors import BackendError, EmptyMaskError, ExpressionError, ImageError, ReplyError, Sam4MllmError
from sam4mllm_tool.pipeline.model_server import ModelServer
from sam4mllm_tool.pipeline.requests import MLLMRequest, ProposalRequest, Request, Response, SegmentRequest
from sam4mllm_tool.pipeline.run_driver import RunDriver
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ImageRuns", "Lockstep", "OnError", "Outcome", "drive_in_lockstep"]

Outcome: TypeAlias = Segmentation | ReplyError | ExpressionError | EmptyMaskError
"""A result, or the error of one expression alone."""
OnError: TypeAlias = Literal["raise", "return"]
"""What is done with an error that ends several runs, as a model's: raise it, or return it in the place of their results."""


class ImageRuns:
    """Several runs about one image.

    Args:
        image: RGB.
        drivers: One per run, as of each expression.

    Attributes:
        error: What ended all runs together, as a model that failed.
    """

    def __init__(self, image: Image, drivers: Sequence[RunDriver[Any]]) -> None:
        self.image, self._drivers = image, drivers
        self.error: Exception | None = None
        self._errors: dict[int, Exception] = {}
        self._pending: dict[int, Request] = {}
        """The requests that wait, by the index of their run, the oldest first."""

    @property
    def is_done(self) -> bool:
        """Whether all runs are at their ends."""
        return not self._pending

    @property
    def outcomes(self) -> list[Any]:
        """What each run came to, in order, after all runs: an `Outcome`, where the flows segment expressions."""
        return [self._errors.get(index) or driver.result for index, driver in enumerate(self._drivers)]

    def start(self) -> None:
        """Advance all runs to their first requests."""
        for index, driver in enumerate(self._drivers):
            self._advance(index, driver.start)

    def next_requests(self) -> dict[int, Request]:
        """Return the oldest request with all that can share its call, by run.

        Masks wait until every dialogue about the image is done; an image that is shown otherwise needs a call of its own.
        """
        questions = (request for request in self._pending.values() if isinstance(request, MLLMRequest))
        first = next(questions, None) or next(iter(self._pending.values()))
        return {index: request for index, request in self._pending.items() if _can_share(request, first)}

    def send(self, requests: dict[int, Request], response: Response) -> None:
        """Send each run its share of a response."""
        for index, share in zip(requests, _split_results(list(requests.values()), response), strict=True):
            part = Response(share, response.seconds / len(requests), response.warnings)
            self._advance(index, partial(self._drivers[index].send, part))

    def fail(self, error: Exception) -> None:
        """End all runs by an error."""
        self.error = error
        self._errors |= dict.fromkeys(self._pending, error)
        self._pending.clear()
        self.finish(error)

    def finish(self, error: BaseException) -> None:
        """Tell the hooks of all runs that are not at their ends that they are over."""
        for driver in self._drivers:
            driver.finish(error)

    def _advance(self, index: int, step: Callable[[], None]) -> None:
        """Take the step; an error of this expression alone ends its run, and the others go on."""
        self._pending.pop(index, None)
        try:
            step()
        except (ReplyError, ExpressionError, EmptyMaskError) as error:
            self._errors[index] = error
            self._drivers[index].finish(error)
        else:
            if (request := self._drivers[index].request) is not None:
                self._pending[index] = request


class Lockstep:
    """Advances the runs about several images together. Groups are added whenever a caller has some, between two calls.

    Args:
        server: The models.

    Attributes:
        groups: What is in work, the oldest first.
    """

    def __init__(self, server: ModelServer) -> None:
        self.groups: list[ImageRuns] = []
        self._server = server

    def add(self, group: ImageRuns) -> None:
        """Start the runs of a group; they are in work unless they are at their ends at once."""
        group.start()
        if not group.is_done:
            self.groups.append(group)

    def remove(self, group: ImageRuns, error: Exception) -> None:
        """End the runs of a group that nobody waits for any more."""
        group.fail(error)
        self.groups.remove(group)

    def serve_once(self) -> int:
        """Serve the next requests about each image: all questions in one call, masks and proposals in one for each image.

        An error that ends more than one expression's run, as a model's, is in the `error` of the groups whose call it ended.

        Returns:
            About how many images the questions were.
        """
        waiting: list[tuple[ImageRuns, dict[int, Request]]] = []
        for group in self.groups:
            requests = group.next_requests()
            joined = _join(list(requests.values()))
            if isinstance(joined, MLLMRequest):
                waiting.append((group, requests))
            else:
                with _fail_together([group]):
                    group.send(requests, self._server.serve(group.image, joined))
        for part in [waiting] if self._server.takes_several_images else [[each] for each in waiting]:
            self._serve_questions(part)
        self.groups = [group for group in self.groups if not group.is_done]
        return len(waiting)

    def _serve_questions(self, waiting: Sequence[tuple[ImageRuns, dict[int, Request]]]) -> None:
        batch: list[tuple[Image, Any]] = [(group.image, _join(list(requests.values()))) for group, requests in waiting]
        try:
            responses = self._server.serve_questions(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs
            if len(waiting) > 1 and _may_be_of_one_image(error):
                for group, requests in waiting:
                    self._serve_questions([(group, requests)])
                return
            for group, _ in waiting:
                group.fail(error)
            return
        for (group, requests), response in zip(waiting, responses, strict=False):
            with _fail_together([group]):
                group.send(requests, response)


def _may_be_of_one_image(error: Exception) -> bool:
    """Whether a call about several images may have failed because of one of them, or because there were several."""
    return isinstance(error, BackendError) and error.__cause__ is not None and not isinstance(error.__cause__, TimeoutError)


@contextmanager
def _fail_together(groups: Sequence[ImageRuns]) -> Iterator[None]:
    """End these groups by what the block raises; other groups go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is theirs: whoever added them raises or reports it
        for group in groups:
            group.fail(error)


def drive_in_lockstep(
    server: ModelServer, groups: Iterable[ImageRuns | ImageError], images_at_once: int, on_error: OnError = "raise"
) -> Iterator[list[Outcome] | ImageError]:
    """Drive the runs about many images, some images at a time, and yield the outcomes of each image, in order.

    Args:
        server: The models.
        groups: The runs about each image, or why there are none; taken as they are needed.
        images_at_once: How many images are in work at a time.
        on_error: What is done where a model fails.

    Raises:
        Exception: What a model raises; the runs in work are over.
    """
    lockstep, rest, begun = Lockstep(server), iter(groups), deque[ImageRuns | ImageError]()
    try:
        while True:
            added = list(islice(rest, images_at_once - len(lockstep.groups)))
            for group in added:
                begun.append(group)
                if isinstance(group, ImageRuns):
                    lockstep.add(group)
            is_over = not added and not lockstep.groups
            lockstep.serve_once()
            for group in begun:
                if isinstance(group, ImageRuns) and group.error is not None and not _is_returned(group.error, on_error):
                    raise group.error
            while begun and (isinstance(begun[0], ImageError) or begun[0].is_done):
                group = begun.popleft()
                yield group if isinstance(group, ImageError) else group.outcomes
            if is_over and not begun:
                return
    except BaseException as error:
        for group in begun:
            if isinstance(group, ImageRuns):
                group.finish(error)
        raise


def _is_returned(error: Exception, on_error: OnError) -> bool:
    """Whether an error stands in the place of results; a mistake in a program is always raised."""
    return on_error == "return" and isinstance(error, Sam4MllmError)


def _can_share(request: Request, first: Request) -> bool:
    """Whether both requests can be served by one call: of proposals, those for one phrase."""
    if isinstance(first, ProposalRequest):
        return request == first
    return type(request) is type(first) and request.transform == first.transform


def _join(requests: Sequence[Request]) -> Request:
    """One request for all, which can share a call."""
    first = requests[0]
    if isinstance(first, ProposalRequest):
        return first
    if isinstance(first, MLLMRequest):
        questions = (question for request in requests if isinstance(request, MLLMRequest) for question in request.questions)
        return MLLMRequest(tuple(questions), first.transform)
    prompts = (prompt for request in requests if isinstance(request, SegmentRequest) for prompt in request.prompts)
    return SegmentRequest(tuple(prompts), first.transform)


def _split_results(requests: Sequence[Request], response: Response) -> Iterator[list[Any]]:
    """Yield each request's share of a call's results; of proposals, which are for one phrase, all of them."""
    results = iter(response.results)
    for request in requests:
        if isinstance(request, ProposalRequest):
            yield list(response.results)
        else:
            yield list(islice(results, len(request.questions if isinstance(request, MLLMRequest) else request.prompts)))
