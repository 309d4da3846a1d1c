"""What Prometheus reads at /metrics: requests, queue, batches, seconds by stage, errors by kind."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, Response, RunHook, SegmentRequest
from sam4mllm_tool.server.scheduler import SchedulerObserver

__all__ = ["METRICS_TYPE", "ServerMetrics", "StageHook"]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics(SchedulerObserver):
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("sam4mllm_requests", "Requests by path and status.", ["path", "status"], registry=registry)
        self.errors = Counter("sam4mllm_errors", "Requests that failed, by kind.", ["kind"], registry=registry)
        self.stage = Histogram("sam4mllm_stage_seconds", "Seconds of a model call, by stage.", ["stage"], registry=registry)
        self.batch = Histogram("sam4mllm_batch_images", "Images in a call.", registry=registry, buckets=(1, 2, 4, 8, 16, 32))
        self.dropped = Counter("sam4mllm_dropped", "Requests dropped, by reason.", ["reason"], registry=registry)
        self._waiting = Gauge("sam4mllm_queue_waiting", "Requests that wait.", registry=registry)
        self._in_work = Gauge("sam4mllm_queue_in_work", "Requests in work.", registry=registry)

    def watch_queue(self, count_waiting: Callable[[], float], count_in_work: Callable[[], float]) -> None:
        """Read the queue's lengths from these functions."""
        self._waiting.set_function(count_waiting)
        self._in_work.set_function(count_in_work)

    def after_call(self, images: int) -> None:
        """Count a call of the MLLM."""
        self.batch.observe(images)

    def after_drop(self, reason: str) -> None:
        """Count a dropped request."""
        self.dropped.labels(reason).inc()

    def count_error(self, error: Exception) -> None:
        """Count an error that is not the status of an answer: of one expression alone, of a tool, after the first event."""
        self.errors.labels(type(error).__name__).inc()

    def write(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class StageHook(RunHook):
    """Measures what the model calls of a run take."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics

    def after_request(self, request: Request, response: Response) -> None:
        """Note the seconds of a call."""
        stage = "mllm" if isinstance(request, MLLMRequest) else "masks" if isinstance(request, SegmentRequest) else "proposals"
        self._metrics.stage.labels(stage).observe(response.seconds)
