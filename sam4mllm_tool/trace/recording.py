"""Record runs: a hook (requests.py) notes every request and response of a run, and makes a trace when the run ends.

Blocking, async, or many expressions at once, every method and every tool's own flow: each run has a hook of its own. The
models themselves are not touched.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

from sam4mllm_tool import __version__
from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.interactive import RefinementResult
from sam4mllm_tool.pipeline.requests import MLLMRequest, ProposalRequest, Request, Response, RunHook
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import Exchange, PointsByBox
from sam4mllm_tool.trace.files import require_replaceable, save
from sam4mllm_tool.trace.schema import (
    Failure,
    KnownSampler,
    MLLMStep,
    RecordedImage,
    RecordedObject,
    SegmentStep,
    Step,
    Trace,
    TraceSettings,
)
from sam4mllm_tool.types import Box, FreeText, Image, Point, Segmentation

__all__ = ["Recorder", "recorded"]


class Recorder:
    """Keeps a trace of every run of `models`, which segment as the models that they are made from.

    ```python
    recorder = Recorder(Sam4Mllm.load())
    recorder.models.segment(image, "the red mug")
    save(recorder.traces[-1], "mug.trace.json.gz")
    ```

    A run that fails leaves a trace too; one that is cancelled leaves none. Thread-safe.

    Args:
        models: The models to record.
        keep: Called with each trace when its run ends, in the thread that ends it; by default traces are added to `traces`.
    """

    def __init__(self, models: Sam4Mllm, *, keep: Callable[[Trace], object] | None = None) -> None:
        self._traces: list[Trace] = []
        self._images: dict[str, RecordedImage] = {}
        self._lock = threading.Lock()
        self._keep = keep or self._add
        self.models: Sam4Mllm = models.with_run_hooks(self._make_hook)

    @property
    def traces(self) -> tuple[Trace, ...]:
        """Traces of the runs that have ended, in the order of their ends."""
        with self._lock:
            return tuple(self._traces)

    def _make_hook(self, image: Image, context: RunContext) -> "_RecordingHook":
        return _RecordingHook(image, context, self._record_image, self._keep)

    def _add(self, trace: Trace) -> None:
        with self._lock:
            self._traces.append(trace)

    def _record_image(self, image: Image) -> RecordedImage:
        """Keep one copy of an image, however many runs are on it."""
        image = image.convert("RGB")  # a copy: its owner may draw on the original
        recorded_image = RecordedImage.of(image)
        with self._lock:
            return self._images.setdefault(recorded_image.sha256, recorded_image)


@contextmanager
def recorded(models: Sam4Mllm, path: str | os.PathLike[str] | None) -> Iterator[Sam4Mllm]:
    """Yield the models and save the trace of their last run in the block, a failed one too.

    Args:
        models: The models to record.
        path: Where to save the trace; None records nothing and yields `models` themselves.

    Raises:
        TraceError: The file can't be written, or holds what would be lost (see `require_replaceable`).
    """
    if path is None:
        yield models
        return
    require_replaceable(path)
    recorder = Recorder(models)
    try:
        yield recorder.models
    finally:
        for trace in recorder.traces[-1:]:
            save(trace, path)


class _RecordingHook(RunHook):
    """Collects the steps of one run."""

    def __init__(
        self,
        image: Image,
        context: RunContext,
        record_image: Callable[[Image], RecordedImage],
        keep: Callable[[Trace], object],
    ) -> None:
        self._image, self._context, self._record_image, self._keep = image, context, record_image, keep
        self._steps: list[Step] = []
        self._began, self._start = datetime.now(UTC), time.perf_counter()

    def after_request(self, request: Request, response: Response) -> None:
        transform = request.transform
        description = None if transform is None else transform.description
        if isinstance(request, MLLMRequest):
            exchanges = tuple(map(Exchange, request.questions, response.replies))
            self._steps.append(MLLMStep(exchanges, response.seconds, description, response.warnings or None))
        else:
            objects = tuple(map(RecordedObject.of, response.objects))
            crop = transform if isinstance(transform, Crop) else None
            prompts, phrase = tuple(segmented.prompt for segmented in response.objects), None
            if isinstance(request, ProposalRequest):
                phrase = request.phrase
            else:
                prompts = request.prompts
            self._steps.append(SegmentStep(prompts, objects, response.seconds, description, crop, phrase))

    def after_run(self, result: object, error: BaseException | None) -> None:
        is_cancelled = error is not None and not isinstance(error, Exception)
        if is_cancelled or not isinstance(self._context.expression, str | None):
            return
        trace = Trace(
            image=self._record_image(self._image),
            settings=_collect_settings(self._context),
            expression=self._context.expression,
            method=self._context.method,
            steps=tuple(self._steps),
            result=_result_json(result),
            error=None if error is None else Failure(type(error).__name__, str(error)),
            began=self._began.isoformat(timespec="milliseconds"),
            seconds=time.perf_counter() - self._start,
            written_by=__version__,
        )
        self._keep(trace)


def _result_json(result: object) -> dict[str, Any] | None:
    """The result as JSON if it is a segmentation, or holds one as a refinement's does."""
    if isinstance(result, RefinementResult):
        result = result.segmentation
    return result.to_dict() if isinstance(result, Segmentation) else None


def _collect_settings(context: RunContext) -> TraceSettings:
    config = context.config
    if not isinstance(config.sampler, get_args(KnownSampler)):
        config = replace(config, sampler=_sampled_points(context))
    return TraceSettings.of(context.traits, config)


def _sampled_points(context: RunContext) -> PointsByBox:
    """The points that a sampler of the caller's own gave.

    Where the answers about them were unreadable it is called again: a sampler gives the same points for the same box.
    """
    points: dict[Box, tuple[Point, ...]] = {}
    for answer in context.transcript.point_answers:
        points[answer.box] = (*points.get(answer.box, ()), Point(answer.point.x, answer.point.y))
    for exchange in context.transcript.exchanges:
        for box in _readable_boxes(context, exchange):
            points.setdefault(box, tuple(context.config.sampler(box)))
    return PointsByBox(tuple(points.items()))


def _readable_boxes(context: RunContext, exchange: Exchange) -> tuple[Box, ...]:
    if not isinstance(exchange.question.answer, FreeText):
        return ()
    try:
        return tuple(context.dialect.parse_boxes(exchange.question, exchange.reply, context.size))
    except ReplyError:
        return ()
