"""Drive many runs at once, about one or several images: each model call serves all runs that wait for it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ImageError, ReplyError
from sam4mllm_tool.pipeline.model_server import ModelServer
from sam4mllm_tool.pipeline.requests import MLLMRequest, ProposalRequest, Request, Response, SegmentRequest
from sam4mllm_tool.pipeline.run_driver import RunDriver
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["ImageRuns", "Outcome", "drive_in_lockstep"]

Outcome: TypeAlias = Segmentation | ReplyError | ExpressionError | EmptyMaskError
"""A result, or the error of one expression alone."""


class ImageRuns:
    """The runs of several expressions about one image.

    Args:
        image: RGB.
        drivers: One per expression.
    """

    def __init__(self, image: Image, drivers: Sequence[RunDriver[Segmentation]]) -> None:
        self.image, self._drivers = image, drivers
        self._errors: dict[int, ReplyError | ExpressionError | EmptyMaskError] = {}
        self._pending: dict[int, Request] = {}
        """The requests that wait, by the index of their run, the oldest first."""

    @property
    def is_done(self) -> bool:
        """Whether all runs are at their ends."""
        return not self._pending

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each expression, in order, after all runs."""
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


def drive_in_lockstep(
    server: ModelServer, groups: Iterable[ImageRuns | ImageError], images_at_once: int
) -> Iterator[list[Outcome] | ImageError]:
    """Drive the runs about many images, some images at a time, and yield the outcomes of each image, in order.

    Args:
        server: The models.
        groups: The runs about each image, or why there are none; taken as they are needed.
        images_at_once: How many images are in work at a time.

    Raises:
        Exception: What a model raises; the runs in work are over.
    """
    rest, begun = iter(groups), deque[ImageRuns | ImageError]()
    try:
        while True:
            working = [group for group in begun if isinstance(group, ImageRuns) and not group.is_done]
            for group in islice(rest, images_at_once - len(working)):
                begun.append(group)
                if isinstance(group, ImageRuns):
                    group.start()
                    working.append(group)
            _serve_once(server, [group for group in working if not group.is_done])
            while begun and (isinstance(begun[0], ImageError) or begun[0].is_done):
                group = begun.popleft()
                yield group if isinstance(group, ImageError) else group.outcomes
            if not begun and not working:
                return
    except BaseException as error:
        for group in begun:
            if isinstance(group, ImageRuns):
                group.finish(error)
        raise


def _serve_once(server: ModelServer, groups: Sequence[ImageRuns]) -> None:
    """Serve the next requests about each image: all questions in one call, masks and proposals in one for each image."""
    waiting: list[tuple[ImageRuns, dict[int, Request]]] = []
    for group in groups:
        requests = group.next_requests()
        joined = _join(list(requests.values()))
        if isinstance(joined, MLLMRequest):
            waiting.append((group, requests))
        else:
            group.send(requests, server.serve(group.image, joined))
    batch: list[tuple[Image, Any]] = [(group.image, _join(list(requests.values()))) for group, requests in waiting]
    for (group, requests), response in zip(waiting, server.serve_questions(batch), strict=True):
        group.send(requests, response)


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
