"""What a step may ask for, and what may watch or limit a run.

A flow is a generator that yields requests (`MLLMRequest`, `SegmentRequest`, `ProposalRequest`) and is sent a `Response` to
each. Flows are composed with `yield from`. They hold no model and no clock: thin drivers (sam4mllm.py) serve them, so that
blocking, async and batched callers get the same results.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.geometry.crops import ImageTransform
from sam4mllm_tool.types import ObjectPrompt, Question, Reply, SegmentedObject

__all__ = ["Flow", "MLLMRequest", "ProposalRequest", "Request", "Response", "RunHook", "SegmentRequest", "on_crop"]

T = TypeVar("T")


@dataclass(frozen=True)
class MLLMRequest:
    """Questions to answer, all at once. The driver validates the replies (models/validation.py).

    Args:
        questions: One reply is wanted for each.
        transform: How the image is to be shown; None shows it as it is.
    """

    questions: tuple[Question, ...]
    transform: ImageTransform | None = None


@dataclass(frozen=True)
class SegmentRequest:
    """Prompts to segment. The driver validates the objects (models/validation.py).

    Args:
        prompts: One object is wanted for each, in pixels of the image as it is shown.
        transform: How the image is to be shown; None shows it as it is.
    """

    prompts: tuple[ObjectPrompt, ...]
    transform: ImageTransform | None = None


@dataclass(frozen=True)
class ProposalRequest:
    """Instances of a concept to propose, where `ModelTraits.proposes`; the driver validates them as objects.

    Args:
        phrase: A short noun phrase.
        transform: How the image is to be shown; None shows it as it is.
    """

    phrase: str
    transform: ImageTransform | None = None


Request: TypeAlias = MLLMRequest | SegmentRequest | ProposalRequest


@dataclass(frozen=True)
class Response:
    """What the driver sends for a request.

    Args:
        results: Replies to an `MLLMRequest`, objects to a `SegmentRequest`, in its order; any number of objects to a
            `ProposalRequest`, each with its box alone as its prompt.
        seconds: What serving the request took; of a call that several runs share, this run's share.
        warnings: Why the MLLM's answers about this image may mean nothing, in plain words (`types.MLLM`).
    """

    results: Sequence[Reply] | Sequence[SegmentedObject]
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def replies(self) -> list[Reply]:
        """The results of an `MLLMRequest`."""
        return [result for result in self.results if isinstance(result, Reply)]

    @property
    def objects(self) -> list[SegmentedObject]:
        """The results of a `SegmentRequest` or a `ProposalRequest`."""
        return [result for result in self.results if isinstance(result, SegmentedObject)]


Flow: TypeAlias = Generator[Request, Response, T]


class RunHook:
    """Watches or limits one run. The driver calls it around every request; override what you need.

    Traces, progress events and budgets are hooks. A hook serves one run at a time, maybe in several threads in turn.
    """

    def before_request(self, request: Request) -> None:
        """Look at a request before it is served; a Sam4MllmError raised here is thrown into the flow instead of serving it."""

    def after_request(self, request: Request, response: Response) -> None:
        """Look at a request and its response."""

    def after_run(self, result: object, error: BaseException | None) -> None:
        """Look at what the flow returned, or at the error that ended the run (a cancellation included); called once."""


def on_crop(transform: ImageTransform, flow: Flow[T]) -> Flow[T]:
    """Run a flow on the image as `transform` shows it: its coordinates are in pixels of that.

    Raises:
        ValueError: The flow is about a transformed image already.
    """
    try:
        request = next(flow)
        while True:
            try:
                if request.transform is not None:
                    raise ValueError(
                        f"the flow is about {request.transform.description} already, it can't be about {transform.description}"
                    )
                response = yield replace(request, transform=transform)
            except Sam4MllmError as error:  # a hook refused the request: the flow decides what then
                request = flow.throw(error)
            else:
                request = flow.send(response)
    except StopIteration as end:
        result: T = end.value
        return result
