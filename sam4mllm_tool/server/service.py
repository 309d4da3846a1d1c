"""What the server's doors share: the models behind their queue, and the images and results of each owner."""

import asyncio
import base64
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from sam4mllm_tool.errors import Sam4MllmError, ServiceBusyError, ServiceError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.images.output_formats import export_outputs, get_media_type
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.pipeline.lockstep import Outcome
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.requests import RunHook
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.server.api_schemas import SegmentBody
from sam4mllm_tool.server.mcp.handle_store import HandleStore
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings
from sam4mllm_tool.server.mcp.named_images import NamedImages
from sam4mllm_tool.server.problems import describe_error
from sam4mllm_tool.server.scheduled_models import ScheduledModels
from sam4mllm_tool.server.server_metrics import ServerMetrics, StageHook
from sam4mllm_tool.server.settings import ServerSettings
from sam4mllm_tool.server.trace_store import TraceStore
from sam4mllm_tool.tools.artifacts import build_result_artifact, get_image_name
from sam4mllm_tool.tools.events import EventHook, EventWriter
from sam4mllm_tool.tools.image_blocks import clean_name
from sam4mllm_tool.tools.image_references import ConversationImage
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.trace import Recorder, Trace
from sam4mllm_tool.types import Image, Segmentation, Size

__all__ = ["Service", "describe_result", "record_traces"]

logger = logging.getLogger(__name__)


class Service:
    """The models, once they are loaded, with the images and results of each owner.

    Args:
        models: Loaded models, or a function that loads them, which `start` calls in a thread.
        settings: The server's settings.
    """

    def __init__(self, models: Sam4Mllm | Callable[[], Sam4Mllm], settings: ServerSettings) -> None:
        self.settings, self.metrics = settings, ServerMetrics()
        self.pixels = ImageStore(max_bytes=settings.store_bytes)
        self.handles = HandleStore(max_bytes=settings.store_bytes)
        shared = McpSettings(policy=settings.policy, method=settings.method, is_shared=True)
        self.traces = TraceStore(self.pixels)
        self.images = NamedImages(shared, self.pixels, self.handles)
        self._source, self._models = models, None if callable(models) else self._schedule(models)
        self._loading: threading.Thread | None = None
        self._load_error: Exception | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Load the models in a thread, if they are not loaded."""
        if self._models is None:
            self._loading = threading.Thread(target=self._load, name="sam4mllm-load", daemon=True)
            self._loading.start()

    def wait_until_loaded(self) -> None:
        """Wait until the models are loaded, or can't be."""
        if self._loading is not None:
            self._loading.join()

    def stop(self) -> None:
        """Accept nothing more, and finish what was begun."""
        self._is_stopping = True
        if self._models is not None:
            self._models.close(self.settings.shutdown_timeout_s)

    def _load(self) -> None:
        try:
            self._models = self._schedule(self._source() if callable(self._source) else self._source)
        except Exception as error:  # every request says so
            known = isinstance(error, Sam4MllmError)
            logger.error("the models could not be loaded: %s", error, exc_info=None if known else error)
            self._load_error = error

    def _schedule(self, models: Sam4Mllm) -> ScheduledModels:
        watched = models.with_run_hooks(lambda _image, _context: StageHook(self.metrics))
        if isinstance(watched, ScheduledModels):  # whose calls are scheduled elsewhere
            scheduled = watched
        else:
            scheduled = ScheduledModels(watched, self.settings.limits, self.metrics)
        scheduler = scheduled.scheduler
        self.metrics.watch_queue(lambda: scheduler.waiting, lambda: scheduler.in_work)
        return scheduled

    @property
    def models(self) -> ScheduledModels:
        """The models.

        Raises:
            ServiceBusyError: They are being loaded, or the server is stopping.
            ServiceError: They can't be loaded.
        """
        if self._load_error is not None:
            raise ServiceError("the models could not be loaded; the server's log says why")
        if self._models is None or self._is_stopping:
            raise ServiceBusyError(f"the server is {'stopping' if self._is_stopping else 'loading its models'}; try again", 5.0)
        return self._models

    async def open_image(self, owner: str, source: str | bytes, name: str = "") -> tuple[str, Image]:
        """Return the handle and the pixels of an image.

        Args:
            owner: Whose request it is.
            source: A data URI, a handle, a path or a URL; or the bytes of a file.
            name: Of the image's file, where the client gave one.

        Raises:
            Sam4MllmError: It can't be opened, or isn't this owner's.
        """
        return await asyncio.to_thread(self._open_image, owner, source, name)

    def _open_image(self, owner: str, source: str | bytes, name: str) -> tuple[str, Image]:
        if isinstance(source, str):
            image_id = self.images.resolve(owner, source)
        else:
            image_id = self.pixels.put(load_image(source, policy=self.settings.policy))
        image = self.pixels.get(image_id)
        if name or isinstance(source, bytes):
            self.handles.put_image(owner, ConversationImage(image_id, *image.size, clean_name(name)))
        return image_id, image

    async def segment(
        self, owner: str, source: str | bytes, body: SegmentBody, write_event: EventWriter | None = None
    ) -> list[dict[str, Any]]:
        """Segment expressions about one image, and keep the results.

        Args:
            owner: Whose request it is.
            source: As in `open_image`.
            body: What to segment, and what to make of it.
            write_event: Takes the events of tools/events.py while the runs go on, each with the `index` of its expression.

        Returns:
            The results, in order; if one of several expressions fails, its entry is a problem.

        Raises:
            Sam4MllmError: The image, the only expression or the models failed.
        """
        body.check()
        models = self.models
        image_id, image = await self.open_image(owner, source, body.image_name)
        method, size = body.method or self.settings.method, Size(*image.size)
        runs = [models.start_run(size, expression, method) for expression in body.expressions]
        flows = [(segment_expression(run, text, method), run) for run, text in zip(runs, body.expressions, strict=True)]
        if write_event is not None:
            models = _report_events(models, runs, write_event)
        traces: list[Trace] = []
        outcomes = await record_traces(models, body.trace, traces).arun_group(image, flows)
        if len(outcomes) == 1 and isinstance(outcomes[0], Exception):
            raise outcomes[0]
        name = clean_name(body.image_name) or self.handles.get_image_name(owner, image_id)
        named = ConversationImage(image_id, *image.size, name)
        results = await asyncio.to_thread(self._keep_results, owner, named, image, outcomes, body.outputs)
        by_expression = {trace.expression: trace for trace in traces}
        for text, result in zip(body.expressions, results, strict=True) if body.trace else ():
            if "id" in result:
                await asyncio.to_thread(self.traces.put, owner, result["id"], image_id, by_expression[text])
        return results

    def _keep_results(
        self, owner: str, named: ConversationImage, image: Image, outcomes: Sequence[Outcome], outputs: Sequence[str]
    ) -> list[dict[str, Any]]:
        kept = []
        for result in outcomes:
            if isinstance(result, Exception):
                self.metrics.count_error(result)
                kept.append(describe_error(result).model_dump())
                continue
            state = InteractiveState.from_segmentation(result)
            artifact = build_result_artifact(named.image_id, result, state, name=named.name)
            self.handles.put(owner, artifact, "")
            files = export_outputs(image, result, outputs, image_name=get_image_name(artifact)) if outputs else {}
            kept.append(describe_result(artifact, result, files))
        return kept

    def get_result(self, owner: str, result_id: str) -> dict[str, Any]:
        """Return the artifact of a result.

        Raises:
            UnknownResultError: This owner has none of that id.
        """
        kept = self.handles.get(owner, result_id)
        if kept is None or kept.artifact.get("kind") != "result":
            raise UnknownResultError(f"there is no result {result_id[:40]!r}, or it is no longer kept: segment once more")
        return kept.artifact


class UnknownResultError(Sam4MllmError, LookupError):
    """A result that this client doesn't have."""


def _report_events(models: ScheduledModels, runs: Sequence[RunContext], write_event: EventWriter) -> ScheduledModels:
    """Return the models with a hook that reports the boxes and points of these runs."""

    def make_hook(_: Image, context: RunContext) -> RunHook:
        index = next(index for index, run in enumerate(runs) if run is context)
        return EventHook(lambda event: write_event({**event, "index": index}), context)

    watched = models.with_run_hooks(make_hook)
    assert isinstance(watched, ScheduledModels)
    return watched


def record_traces(models: ScheduledModels, is_wanted: bool, traces: list[Trace]) -> ScheduledModels:
    """Return the models; where traces are wanted, those of their runs go into the list."""
    recorded = Recorder(models, keep=traces.append).models if is_wanted else models
    assert isinstance(recorded, ScheduledModels)
    return recorded


def describe_result(artifact: dict[str, Any], result: Segmentation, files: dict[str, bytes]) -> dict[str, Any]:
    """Return a result as clients get it, with its handle, its image's, and the files that they asked for as data URIs."""
    encoded = {
        name: f"data:{get_media_type(name)};base64,{base64.b64encode(content).decode()}" for name, content in files.items()
    }
    return {**result.to_dict(), "id": artifact["handle"], "image": artifact["picture"], "outputs": encoded}
