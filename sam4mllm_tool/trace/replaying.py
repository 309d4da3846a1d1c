"""Run a trace again: the real pipeline, on backends that answer from what was recorded, without any model.

A question or a prompt is looked up by its content, not by its position; when it comes again, it gets the next recorded answer.
One that was not recorded is reported together with the nearest that was. The result must be the recorded one, seconds aside.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from PIL import Image as PILImage

from sam4mllm_tool import __version__
from sam4mllm_tool.errors import BackendError, Sam4MllmError, quote_text
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.trace.schema import MLLMStep, RecordedObject, SegmentStep, Trace, TraceError
from sam4mllm_tool.types import Image, ObjectPrompt, Proposal, Question, Reply, Segmentation, SegmentedObject

__all__ = ["Replay", "ReplayedModels", "first_difference", "replay", "replaying"]

K = TypeVar("K", Question, ObjectPrompt, str)
V = TypeVar("V")
_UNREPEATABLE = ("seconds",)
"""Keys of a result that a replay need not repeat."""
_ABSENT = "nothing"


@dataclass(frozen=True)
class Replay:
    """What a replay gave.

    Args:
        result: None where the run failed, as recorded or otherwise.
        difference: The first difference from what was recorded, in plain words; "" if there is none.
    """

    result: Segmentation | None
    difference: str


def replay(trace: Trace) -> Replay:
    """Run the trace's method again and compare the result.

    Raises:
        TraceError: The trace is of a run that is no method's; `replaying` gives models for its flow.
    """
    if not trace.is_of_method:
        flow = "another flow" if trace.method is None else f"the method {trace.method!r}"
        raise TraceError(
            f"the trace is of {flow}, which can't be run again from here; in Python: replaying(trace).run(image, flow)"
        )
    models = replaying(trace)
    result, error = None, None
    try:
        result = models.segment(image_of(trace), trace.expression or "", method=trace.method)  # type: ignore[arg-type]
    except TraceError as missing:
        return Replay(None, str(missing))
    except Sam4MllmError as failure:
        error = {"type": type(failure).__name__, "message": str(failure)}
    return Replay(result, _find_difference(trace, result, error) or models.describe_unused() or _describe_alteration(trace))


def _find_difference(trace: Trace, result: Segmentation | None, error: dict[str, str] | None) -> str:
    replayed = None if result is None else result.to_dict()
    recorded_error = None if trace.error is None else {"type": trace.error.type, "message": trace.error.message}
    same_version = trace.written_by == __version__
    difference = first_difference(trace.result, replayed, "result", same_version=same_version)
    return difference or first_difference(recorded_error, error, "error")


def _describe_alteration(trace: Trace) -> str:
    if not trace.altered:
        return ""
    return "the result is the same, but the file was changed after it was recorded: its seal doesn't fit"


def replaying(trace: Trace) -> "ReplayedModels":
    """Return models that answer from the trace: what was asked before gets the recorded answer."""
    return ReplayedModels(trace)


def image_of(trace: Trace) -> Image:
    """Return the trace's image, or a black one of its size where the pixels were not saved: a replay looks at none."""
    return trace.image.pixels or PILImage.new("RGB", trace.image.size)


class ReplayedModels(Sam4Mllm):
    """A `Sam4Mllm` with the trace's settings that loads no model.

    Raises:
        TraceError: A setting is out of its range.
    """

    def __init__(self, trace: Trace) -> None:
        settings = trace.settings
        failure = trace.error.message if trace.error and trace.error.type == BackendError.__name__ else None
        exchanges = ((exchange.question, exchange.reply) for exchange in trace.exchanges)
        self._replies = _RecordedAnswers(exchanges, "the model was not asked", failure)
        self._objects = _RecordedAnswers(_prompts_with_objects(trace), "there was no prompt", failure)
        self._proposals = _RecordedAnswers(_phrases_with_proposals(trace), "nothing was proposed for the phrase", failure)
        try:
            config = settings.config
        except ValueError as error:
            raise TraceError(f"trace.settings: {error}") from error
        super().__init__(
            _ReplayMLLM(settings.mllm, settings.greedy, self._replies, _first_warning(trace)),
            _ReplaySegmenter(settings.segmenter, self._objects, self._proposals),
            dialect=settings.dialect,
            calibration=settings.calibration,
            config=config,
        )
        self._weights = settings.weights

    def describe_unused(self) -> str:
        """Describe what was recorded and has not been asked for; "" if all was."""
        questions, prompts, phrases = self._replies.unused(), self._objects.unused(), self._proposals.unused()
        for unused, kind in ((questions, "questions"), (prompts, "prompts"), (phrases, "phrases")):
            if unused:
                return f"{len(unused)} {kind} of the trace were not asked this time, the first: {_describe(unused[0])}"
        return ""


def _first_warning(trace: Trace) -> str | None:
    return next((warning for step in trace.steps if isinstance(step, MLLMStep) for warning in step.warnings or ()), None)


def _phrases_with_proposals(trace: Trace) -> list[tuple[str, Sequence[RecordedObject]]]:
    steps = (step for step in trace.steps if isinstance(step, SegmentStep))
    return [(step.phrase, step.objects) for step in steps if step.phrase is not None]


def _prompts_with_objects(trace: Trace) -> list[tuple[ObjectPrompt, RecordedObject]]:
    steps = (step for step in trace.steps if isinstance(step, SegmentStep) and step.phrase is None)
    return [pair for step in steps for pair in zip(step.prompts, step.objects, strict=True)]


class _RecordedAnswers(Generic[K, V]):
    """Recorded answers by the question, prompt or phrase that they were given to.

    Args:
        pairs: Questions, prompts or phrases with their answers, in order.
        missing: How the message begins about one that was not recorded.
        failure: The recorded backend error, which is raised once all recorded answers are used up.
    """

    def __init__(self, pairs: Iterable[tuple[K, V]], missing: str, failure: str | None) -> None:
        self._left: dict[K, deque[V]] = defaultdict(deque)
        for query, answer in pairs:
            self._left[query].append(answer)
        self._counts: Counter[K] = Counter({query: len(answers) for query, answers in self._left.items()})
        self._missing, self._failure = missing, failure

    def take(self, query: K) -> V:
        """Return the next answer. Raises TraceError where it was not recorded, or not as often."""
        if self._left.get(query):
            return self._left[query].popleft()
        if self._failure is not None and not self.unused():
            raise BackendError(self._failure)
        if count := self._counts[query]:
            raise TraceError(f"{_describe(query)} comes once more than the {count} times that were recorded")
        raise TraceError(f"{self._missing} {_describe(query)} when this was recorded{self._describe_nearest(query)}")

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded."""
        return not self._counts

    def unused(self) -> list[K]:
        """Return the queries whose answers have not been taken."""
        return [query for query, answers in self._left.items() for _ in answers]

    def _describe_nearest(self, query: K) -> str:
        recorded = {_describe(known): known for known in self._counts}
        nearest = get_close_matches(_describe(query), recorded, n=1, cutoff=0.0)
        if not nearest:
            return ""
        return f"; the nearest that was recorded is {nearest[0]}{_describe_reason(query, recorded[nearest[0]])}"


@dataclass(frozen=True)
class _ReplayMLLM:
    """An MLLM that gives the recorded replies."""

    name: str
    greedy: bool
    answers: _RecordedAnswers[Question, Reply]
    warning: str | None

    def check_image(self, image: Image) -> str | None:  # noqa: ARG002
        return self.warning

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
        return [self.answers.take(question) for question in questions]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


@dataclass(frozen=True)
class _ReplaySegmenter:
    """A segmenter that gives the recorded objects."""

    name: str
    answers: _RecordedAnswers[ObjectPrompt, RecordedObject]
    proposals: _RecordedAnswers[str, Sequence[RecordedObject]]

    @property
    def propose(self) -> Callable[[Image, str], list[Proposal]] | None:
        return None if self.proposals.is_empty else self._propose

    def _propose(self, image: Image, phrase: str) -> list[Proposal]:  # noqa: ARG002
        recorded = self.proposals.take(phrase)
        return [Proposal(proposal.prompt.box, proposal.mask.mask(), proposal.score) for proposal in recorded]

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:  # noqa: ARG002
        return [self.answers.take(prompt).object() for prompt in prompts]

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


def first_difference(recorded: Any, replayed: Any, place: str, *, same_version: bool = True) -> str:
    """Describe the first place where two JSON values differ, seconds aside.

    Args:
        recorded: The value in the trace.
        replayed: The value of the replay.
        place: Where the values stand, for the message.
        same_version: Whether this version wrote the trace; if not, keys that it lacks are ignored.

    Returns:
        The difference in plain words; "" if there is none.
    """
    if isinstance(recorded, Mapping) and isinstance(replayed, Mapping):
        if {"size", "counts"} == recorded.keys() == replayed.keys():
            return _mask_difference(recorded, replayed, place)
        keys = [*recorded, *(key for key in replayed if key not in recorded and same_version)]
        keys = [key for key in keys if key not in _UNREPEATABLE]
        pairs = [(f"{place}.{key}", recorded.get(key, _ABSENT), replayed.get(key, _ABSENT)) for key in keys]
    elif isinstance(recorded, list | tuple) and isinstance(replayed, list | tuple):
        if len(recorded) != len(replayed):
            return f"{place}: {len(recorded)} were recorded, there are {len(replayed)} this time"
        items = enumerate(zip(recorded, replayed, strict=True))
        pairs = [(f"{place}[{index}]", first, second) for index, (first, second) in items]
    else:
        is_same = recorded == replayed and isinstance(recorded, bool) == isinstance(replayed, bool)
        return "" if is_same else f"{place}: {_shorten(recorded)} was recorded, it is {_shorten(replayed)} this time"
    differences = (first_difference(first, second, part, same_version=same_version) for part, first, second in pairs)
    return next(filter(None, differences), "")


def _mask_difference(recorded: Mapping[str, Any], replayed: Mapping[str, Any], place: str) -> str:
    if list(recorded["size"]) != list(replayed["size"]):
        return f"{place}: {list(recorded['size'])} pixels were recorded, there are {list(replayed['size'])} this time"
    if recorded["counts"] == replayed["counts"]:
        return ""
    count = int((rle.decode(recorded) != rle.decode(replayed)).sum())
    return f"{place}: the masks differ in {count:,} pixels"


def _describe(query: Question | ObjectPrompt | str) -> str:
    if isinstance(query, str):
        return quote_text(query)
    if isinstance(query, Question):
        return quote_text(query.turns[-1].text)
    points = (f"{'on' if point.label else 'off'} ({point.x:g}, {point.y:g})" for point in query.points)
    box = "points" if query.points_only else f"box [{', '.join(f'{side:g}' for side in query.box)}]"
    return quote_text(f"{box} {' '.join(points)}".strip())


def _describe_reason(query: Question | ObjectPrompt | str, nearest: Question | ObjectPrompt | str) -> str:
    """What differs where the words are the same."""
    if _describe(query) != _describe(nearest):
        return ""
    if isinstance(query, Question) and isinstance(nearest, Question):
        return ", after other turns" if query.turns != nearest.turns else ", for another kind of answer"
    if isinstance(query, ObjectPrompt) and isinstance(nearest, ObjectPrompt) and query.mask_input != nearest.mask_input:
        return ", with another mask input"
    return ", with other confidences"


def _shorten(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
