"""A trace run again: the real pipeline, on backends that answer from what was recorded, without any model.

A question or a prompt is looked up by itself, not by its turn in line; asked again, it gets what was said the next time. One
that was not recorded is told, with the nearest that was. What comes out must be what was recorded, seconds apart.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from PIL import Image as PILImage

from sam4mllm_tool import __version__
from sam4mllm_tool.errors import BackendError, Sam4MllmError, quote_text
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.pipeline.methods import METHODS, Methods
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.trace.schema import Asked, Found, Prompted, Trace, TraceError
from sam4mllm_tool.types import Image, ObjectPrompt, Question, Reply, Segmentation, SegmentedObject

__all__ = ["Replay", "first_difference", "replay", "replaying"]

K = TypeVar("K", Question, ObjectPrompt)
V = TypeVar("V")
_TIMED = ("seconds",)
"""What a replay need not repeat."""


@dataclass(frozen=True)
class Replay:
    """result: None where the run failed, as recorded or otherwise. difference: the first, in plain words; "" where none."""

    result: Segmentation | None
    difference: str


def replay(trace: Trace) -> Replay:
    """Runs the trace's method again and compares. Raises TraceError for a trace of no method's run: see `replaying`."""
    if trace.expression is None or trace.method not in METHODS:
        raise TraceError(
            f"the trace is of {'another flow' if trace.method is None else f'the method {trace.method!r}'}, which can't be "
            "run again from here; in Python: replaying(trace).run(picture, flow)"
        )
    models = replaying(trace)
    result, error, told = None, None, None
    try:
        result = models.segment(picture_of(trace), trace.expression, method=trace.method)
    except TraceError as missing:
        return Replay(None, str(missing))
    except Sam4MllmError as failed:
        error = {"type": type(failed).__name__, "message": str(failed)}
    if result is not None:
        told = result.to_dict()
    recorded = None if trace.error is None else {"type": trace.error.type, "message": trace.error.message}
    difference = first_difference(trace.result, told, "result", same_version=trace.written_by == __version__)
    difference = difference or first_difference(recorded, error, "error") or models.left_over()
    if not difference and trace.altered:
        difference = "the result is the same, but the file was changed after it was recorded: its seal doesn't fit"
    return Replay(result, difference)


def replaying(trace: Trace) -> "ReplayedModels":
    """Models that answer from the trace; whatever asks them what was asked gets the same."""
    return ReplayedModels(trace)


def picture_of(trace: Trace) -> Image:
    """The trace's picture, a black one of its size where it was not kept: a replay looks at none."""
    return trace.picture.image or PILImage.new("RGB", trace.picture.size)


class ReplayedModels(Sam4Mllm):
    """As `Sam4Mllm`, with the trace's settings and nothing loaded."""

    def __init__(self, trace: Trace) -> None:
        settings = trace.settings
        failed = trace.error.message if trace.error and trace.error.type == BackendError.__name__ else None
        self._told = _Recorded((pair for step in trace.steps for pair in _pairs(step)), "the model was not asked", failed)
        self._shown = _Recorded((pair for step in trace.steps for pair in _found(step)), "there was no prompt", failed)
        super().__init__(
            _Told(settings.mllm, settings.repeats, self._told),
            _Shown(settings.segmenter, self._shown),
            dialect=settings.dialect,
            sampler=settings.sampler,
            thresholds=settings.thresholds,
            retries=settings.retries,
        )
        self._settings = settings

    @property
    def flows(self) -> Methods:
        return replace(self._settings, dialect=self.dialect)

    def left_over(self) -> str:
        """What was recorded and nobody has asked for, in plain words; "" where all was."""
        for kept, what in ((self._told, "questions"), (self._shown, "prompts")):
            if rest := kept.rest():
                return f"{len(rest)} {what} of the trace were not asked this time, the first: {_words(rest[0])}"
        return ""


class _Recorded(Generic[K, V]):
    """Answers by what they were given to. failed: what the backend said when it failed, once all else is asked."""

    def __init__(self, pairs: Iterable[tuple[K, V]], missing: str, failed: str | None) -> None:
        self._left: dict[K, deque[V]] = defaultdict(deque)
        for asked, given in pairs:
            self._left[asked].append(given)
        self._counts: Counter[K] = Counter({asked: len(given) for asked, given in self._left.items()})
        self._missing, self._failed = missing, failed

    def take(self, asked: K) -> V:
        """Raises TraceError where it was not recorded, or not as often."""
        if self._left.get(asked):
            return self._left[asked].popleft()
        if self._failed is not None and not self.rest():
            raise BackendError(self._failed)
        if count := self._counts[asked]:
            raise TraceError(f"{_words(asked)} comes once more than the {count} times that were recorded")
        words = {_words(one): one for one in self._counts}
        near = get_close_matches(_words(asked), words, n=1, cutoff=0.0)
        also = f"; the nearest that was recorded is {near[0]}{_why(asked, words[near[0]])}" if near else ""
        raise TraceError(f"{self._missing} {_words(asked)} when this was recorded{also}")

    def rest(self) -> list[K]:
        """What is still to be asked for."""
        return [asked for asked, given in self._left.items() for _ in given]


@dataclass(frozen=True)
class _Told:
    """An MLLM that has said it all before."""

    name: str
    greedy: bool
    recorded: _Recorded[Question, Reply]

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
        return [self.recorded.take(question) for question in questions]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


@dataclass(frozen=True)
class _Shown:
    """A segmenter that has found it all before."""

    name: str
    recorded: _Recorded[ObjectPrompt, Found]

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:  # noqa: ARG002
        return [self.recorded.take(prompt).object() for prompt in prompts]

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


def first_difference(recorded: Any, replayed: Any, where: str, *, same_version: bool = True) -> str:
    """The first place where two JSON values differ, in plain words; "" where they don't. Seconds may.

    same_version: else what was not yet recorded is passed over.
    """
    if isinstance(recorded, Mapping) and isinstance(replayed, Mapping):
        if {"size", "counts"} == recorded.keys() == replayed.keys():
            return _masks_differ(recorded, replayed, where)
        names = [*recorded, *(name for name in replayed if name not in recorded and same_version)]
        names = [name for name in names if name not in _TIMED]
        absent = "nothing"
        pairs = [(f"{where}.{name}", recorded.get(name, absent), replayed.get(name, absent)) for name in names]
    elif isinstance(recorded, list | tuple) and isinstance(replayed, list | tuple):
        if len(recorded) != len(replayed):
            return f"{where}: {len(recorded)} were recorded, there are {len(replayed)} this time"
        both = zip(recorded, replayed, strict=True)
        pairs = [(f"{where}[{number}]", one, other) for number, (one, other) in enumerate(both)]
    else:
        same = recorded == replayed and isinstance(recorded, bool) == isinstance(replayed, bool)
        return "" if same else f"{where}: {_short(recorded)} was recorded, it is {_short(replayed)} this time"
    told = (first_difference(one, other, place, same_version=same_version) for place, one, other in pairs)
    return next(filter(None, told), "")


def _masks_differ(recorded: Mapping[str, Any], replayed: Mapping[str, Any], where: str) -> str:
    if list(recorded["size"]) != list(replayed["size"]):
        return f"{where}: {list(recorded['size'])} pixels were recorded, there are {list(replayed['size'])} this time"
    if recorded["counts"] == replayed["counts"]:
        return ""
    pixels = int((rle.decode(recorded) != rle.decode(replayed)).sum())
    return f"{where}: the masks differ in {pixels:,} pixels"


def _pairs(step: Asked | Prompted) -> list[tuple[Question, Reply]]:
    return [(one.question, one.reply) for one in step.exchanges] if isinstance(step, Asked) else []


def _found(step: Asked | Prompted) -> list[tuple[ObjectPrompt, Found]]:
    return list(zip(step.prompts, step.found, strict=True)) if isinstance(step, Prompted) else []


def _words(asked: Question | ObjectPrompt) -> str:
    if isinstance(asked, Question):
        return quote_text(asked.turns[-1].text)
    places = (f"{'on' if point.label else 'off'} ({point.x:g}, {point.y:g})" for point in asked.points)
    return quote_text(f"box [{', '.join(f'{side:g}' for side in asked.box)}] {' '.join(places)}".strip())


def _why(asked: Question | ObjectPrompt, near: Question | ObjectPrompt) -> str:
    """What differs where the words are the same."""
    if _words(asked) != _words(near):
        return ""
    if isinstance(asked, Question) and isinstance(near, Question):
        return ", after other turns" if asked.turns != near.turns else ", for another kind of answer"
    return ", with other confidences"


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
