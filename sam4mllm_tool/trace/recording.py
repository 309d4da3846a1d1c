"""Models that segment as before and leave a trace of every run.

What a run asks for and gets passes through its flow (flows.py), so that is where it is overheard: blocking, async, or many
expressions at once, every method and every tool's own flow, each run by itself however many are under way. The models
themselves are not touched.
"""

import asyncio
import copy
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from sam4mllm_tool import __version__
from sam4mllm_tool.errors import ExpressionError, ReplyError
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.interactive import RefinementResult
from sam4mllm_tool.pipeline.methods import Method, Methods
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, Request, Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import Exchange, FixedList, Grid, PointsByBox, PoissonDisk, Sampler
from sam4mllm_tool.trace.files import save
from sam4mllm_tool.trace.schema import Asked, Failure, Found, Picture, Prompted, Step, Trace
from sam4mllm_tool.types import Box, Image, Point, Reply, Segmentation, SegmentedObject, Size

__all__ = ["Recorder", "recorded"]

T = TypeVar("T")
_KNOWN = (Grid, FixedList, PoissonDisk, PointsByBox)
"""Samplers that can be written down; of another, the points that it gave are."""


class Recorder:
    """Keeps a trace of every run of `models`, which segment as those that it is made from.

    ```python
    recorder = Recorder(Sam4Mllm.load())
    recorder.models.segment(picture, "the red ring")
    save(recorder.traces[-1], "ring.trace.json.gz")
    ```
    keep: called with each trace when its run ends, in whatever thread that happens; by default they are added to `traces`. A
    run that fails leaves a trace too; one that is given up or cancelled leaves none. Safe for threads.
    """

    def __init__(self, models: Sam4Mllm, *, keep: Callable[[Trace], object] | None = None) -> None:
        self._traces: list[Trace] = []
        self._pictures: dict[str, Picture] = {}
        self._lock = threading.Lock()
        self._keep = keep or self._add
        self.models: Sam4Mllm = _RecordedModels(models, self)

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Of the runs that have ended, in that order."""
        with self._lock:
            return tuple(self._traces)

    def _add(self, trace: Trace) -> None:
        with self._lock:
            self._traces.append(trace)

    def _picture(self, image: Image) -> Picture:
        """One copy of a picture however many runs are about it."""
        image = image.convert("RGB")  # a copy: whoever owns it may draw on it
        picture = Picture.of(image)
        with self._lock:
            return self._pictures.setdefault(picture.sha256, picture)


@contextmanager
def recorded(models: Sam4Mllm, path: str | os.PathLike[str] | None) -> Iterator[Sam4Mllm]:
    """The models, whose last run inside is saved at the path, a failed one too; just the models where there is no path.

    Raises TraceError where it can't be written.
    """
    if path is None:
        yield models
        return
    recorder = Recorder(models)
    try:
        yield recorder.models
    finally:
        for trace in recorder.traces[-1:]:
            save(trace, path)


class _RecordedModels(Sam4Mllm):
    """The same models and settings. about, open: of a group that is under way, its picture and its runs."""

    def __init__(self, models: Sam4Mllm, recorder: Recorder) -> None:
        vars(self).update(vars(models))
        self._recorder = recorder
        self._about: Image | None = None
        self._open: list[_Overheard[Segmentation]] = []

    @property
    def flows(self) -> Methods:
        flows = super().flows
        own = {one.name: getattr(flows, one.name) for one in fields(Methods)}
        return _OverheardMethods(**own, models=self)

    def run(self, picture: Image, flow: Flow[T], talk: Transcript | None = None) -> T:
        overheard = self.overheard(flow, talk, picture)
        with overheard.failing():
            return super().run(picture, overheard, overheard.talk)

    async def arun(self, picture: Image, flow: Flow[T], talk: Transcript | None = None) -> T:
        overheard = self.overheard(flow, talk, picture)
        with overheard.failing():
            return await super().arun(picture, overheard, overheard.talk)

    def segment_group(
        self,
        image: ImageSource,
        expressions: Sequence[str],
        *,
        method: Method = "pqpp",
        policy: ImagePolicy = CALLER_POLICY,
    ) -> list[Segmentation | ReplyError | ExpressionError]:
        group = copy.copy(self)
        group._about, group._open = load_image(image, policy=policy), []
        try:
            return super(_RecordedModels, group).segment_group(group._about, expressions, method=method, policy=policy)
        except Exception as error:
            for overheard in group._open:
                overheard.fail(error)
            raise

    def overheard(self, flow: Flow[T], talk: Transcript | None, picture: Image | None) -> "_Overheard[T]":
        """A flow that leaves a trace; one that does already is told the picture."""
        if not isinstance(flow, _Overheard):
            flow = _Overheard(flow, talk, super().flows, None, None, self._recorder)
        flow.picture = picture or flow.picture
        return flow

    def start(self, flow: Flow[Segmentation], talk: Transcript, settings: Methods, run: tuple[str, str]) -> Flow[Segmentation]:
        """A method's flow overheard."""
        overheard = _Overheard(flow, talk, settings, *run, self._recorder)
        overheard.picture = self._about
        if self._about is not None:
            self._open.append(overheard)
        return overheard


@dataclass(frozen=True)
class _OverheardMethods(Methods):
    """models: whom to tell of every method's run."""

    models: _RecordedModels = field(kw_only=True, compare=False, repr=False)

    def segment(
        self, expression: str, size: Size, method: Method = "pqpp", talk: Transcript | None = None
    ) -> Flow[Segmentation]:
        talk = Transcript() if talk is None else talk
        own = Methods(**{one.name: getattr(self, one.name) for one in fields(Methods)})
        if type(own.sampler) not in _KNOWN:
            own = replace(own, sampler=_Noted(own.sampler))
        return self.models.start(own.segment(expression, size, method, talk), talk, own, (expression, method))


class _Noted:
    """A sampler of the caller's own, and the points that it gave."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self.given = sampler, dict[Box, tuple[Point, ...]]()

    def __call__(self, box: Box) -> tuple[Point, ...]:
        if box not in self.given:
            self.given[box] = tuple(self._sampler(box))
        return self.given[box]


class _Overheard(Generator[Request, Any, T]):
    """The flow that it is made from, and what was asked, prompted and sent."""

    def __init__(
        self,
        flow: Flow[T],
        talk: Transcript | None,
        settings: Methods,
        expression: str | None,
        method: str | None,
        recorder: Recorder,
    ) -> None:
        self.talk = Transcript() if talk is None else talk
        self.picture: Image | None = None
        self._flow, self._settings, self._run, self._recorder = flow, settings, (expression, method), recorder
        self._steps: list[Step] = []
        self._need: Request | None = None
        self._over = False
        self._began, self._clock = datetime.now(UTC), time.perf_counter()
        self._spent = 0.0

    def send(self, value: Any) -> Request:
        if self._need is not None:
            self._steps.append(self._step(self._need, value))
        try:
            self._need = self._flow.send(value)
        except StopIteration as done:
            self._end(result=self._result(done.value))
            raise
        except Exception as error:
            self.fail(error)
            raise
        return self._need

    def _result(self, value: object) -> dict[str, Any] | None:
        """What the flow came to, where that is masks."""
        if isinstance(value, RefinementResult):
            value = value.segmentation(self._settings)
        return value.to_dict() if isinstance(value, Segmentation) else None

    def throw(self, *error: Any) -> Request:
        self._need = self._flow.throw(*error)
        return self._need

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Around the drive: what the models raise reaches no flow."""
        try:
            yield
        except asyncio.CancelledError:
            self._over = True  # whatever a thread still does for it
            raise
        except Exception as error:
            self.fail(error)
            raise

    def fail(self, error: Exception) -> None:
        """The run ended so, if it had not ended before."""
        self._end(error=Failure(type(error).__name__, str(error)))

    def _step(self, need: Request, given: Sequence[Reply] | Sequence[SegmentedObject]) -> Step:
        spent = sum(self.talk.seconds.values())
        seconds, self._spent = spent - self._spent, spent
        shown = None if need.sight is None else need.sight.words
        if isinstance(need, MLLMRequest):
            replies = [one for one in given if isinstance(one, Reply)]
            return Asked(tuple(map(Exchange, need.questions, replies)), seconds, shown)
        objects = [one for one in given if isinstance(one, SegmentedObject)]
        view = need.sight if isinstance(need.sight, Crop) else None
        return Prompted(need.prompts[: len(objects)], tuple(map(Found.of, objects)), seconds, shown, view)

    def _end(self, *, result: dict[str, Any] | None = None, error: Failure | None = None) -> None:
        expression, method = self._run
        if self._over or self.picture is None or not isinstance(expression, str | None):
            return
        self._over = True
        settings = self._settings
        if type(settings.sampler) not in _KNOWN:
            settings = replace(settings, sampler=PointsByBox(tuple(getattr(settings.sampler, "given", {}).items())))
        trace = Trace(
            picture=self._recorder._picture(self.picture),
            settings=settings,
            expression=expression,
            method=method,
            steps=tuple(self._steps),
            result=result,
            error=error,
            began=self._began.isoformat(timespec="milliseconds"),
            seconds=time.perf_counter() - self._clock,
            written_by=__version__,
        )
        self._recorder._keep(trace)
