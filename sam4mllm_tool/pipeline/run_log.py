"""One line of JSON per run in the log, and OpenTelemetry spans where the process uses it.

Lines go to the logger `sam4mllm_tool.runs`, at INFO; with the logger at DEBUG they hold the expression too. They hold no image,
no reply and no message of an error, which may quote the expression or a path.
"""

import json
import logging
import sys
import time
from typing import Any
from uuid import uuid4

from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, Response, RunHook, SegmentRequest
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.types import Segmentation

__all__ = ["LOGGER", "RunLog", "watch_run"]

LOGGER = logging.getLogger("sam4mllm_tool.runs")


def watch_run(context: RunContext) -> list[RunHook]:
    """Return the hooks that log and trace a run: none where nobody listens."""
    tracing = sys.modules.get("opentelemetry.trace")  # loaded by whoever set up spans
    if tracing is None and not LOGGER.isEnabledFor(logging.INFO):
        return []
    return [RunLog(context, None if tracing is None else tracing.get_tracer("sam4mllm_tool"))]


class RunLog(RunHook):
    """Logs one run when it is over, and has a span for it, with a child for each call of a model.

    Args:
        context: The run.
        tracer: OpenTelemetry's, if the process uses it.
    """

    def __init__(self, context: RunContext, tracer: Any = None) -> None:
        self.id = uuid4().hex
        self._context, self._tracer = context, tracer
        self._started = self._request_started = time.time_ns()
        self._calls = {"mllm": 0, "segmenter": 0}
        self._span = None if tracer is None else tracer.start_span("sam4mllm.run", start_time=self._started)

    def before_request(self, _: Request) -> None:
        self._request_started = time.time_ns()

    def after_request(self, request: Request, _: Response) -> None:
        model = "mllm" if isinstance(request, MLLMRequest) else "segmenter"
        self._calls[model] += 1
        if self._span is not None:
            tracing = sys.modules["opentelemetry.trace"]
            parent = tracing.set_span_in_context(self._span)
            child = self._tracer.start_span(f"sam4mllm.{model}", context=parent, start_time=self._request_started)
            child.set_attribute(*_count_items(request))
            child.end()

    def after_run(self, result: object, error: BaseException | None) -> None:
        record = self._describe(result, error)
        if LOGGER.isEnabledFor(logging.INFO):
            expression = {"expression": self._context.expression} if LOGGER.isEnabledFor(logging.DEBUG) else {}
            LOGGER.info("%s", json.dumps(record | expression))
        if self._span is not None:
            for name, value in record.items():
                if not isinstance(value, dict | type(None)):
                    self._span.set_attribute(f"sam4mllm.{name}", value)
            if error is not None:
                tracing = sys.modules["opentelemetry.trace"]
                self._span.set_status(tracing.Status(tracing.StatusCode.ERROR, type(error).__name__))
            self._span.end()

    def _describe(self, result: object, error: BaseException | None) -> dict[str, Any]:
        """Return the line's fields, as plain JSON."""
        context, transcript = self._context, self._context.transcript
        return {
            "event": "run",
            "id": self.id,
            "method": context.method,
            "width": context.size.width,
            "height": context.size.height,
            "mllm": context.traits.mllm,
            "segmenter": context.traits.segmenter,
            "calls": self._calls,
            "questions": len(transcript.exchanges),
            "seconds": {
                "total": round((time.time_ns() - self._started) / 1e9, 4),
                **{model: round(seconds, 4) for model, seconds in transcript.seconds.items()},
            },
            "outcome": _describe_outcome(result, error),
            "objects": len(result.objects) if isinstance(result, Segmentation) else None,
        }


def _count_items(request: Request) -> tuple[str, int]:
    """Return the name and the value of the attribute that says how much a call held."""
    if isinstance(request, MLLMRequest):
        return "sam4mllm.questions", len(request.questions)
    return "sam4mllm.prompts", len(request.prompts) if isinstance(request, SegmentRequest) else 1


def _describe_outcome(result: object, error: BaseException | None) -> str:
    """Return one word: an error's class, `abstained`, `absent`, `segmented`, or `done` for other flows."""
    if error is not None:
        return type(error).__name__
    if not isinstance(result, Segmentation):
        return "done"
    return "abstained" if result.abstained else "segmented" if result.objects else "absent"
