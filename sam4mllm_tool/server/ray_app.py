"""The server on Ray Serve: three deployments that scale on their own.

- `Server` is the same ASGI application as that of `sam4mllm serve`, without models. Images and results are its own, so there is
  one replica of it.
- `MLLM` and `Segmenter` hold the models. Ray adds replicas when requests wait, and takes them away again. What several requests
  ask an MLLM at a time is answered in one call.

Questions about one image go to the replica that has read it, unless that one has too much to do (`ImageRouter`).

    serve run sam4mllm_tool.server.ray_app:build_app mllm=embedded segmenter=embedded max_replicas=4
"""

import asyncio
import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.request_router import FIFOMixin, PendingRequest, RequestRouter, RunningReplica

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.metadata import find_fingerprints
from sam4mllm_tool.models.mllm import EMBEDDED
from sam4mllm_tool.models.scene_check import SceneCheck
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm, choose_specs
from sam4mllm_tool.server.app import create_app
from sam4mllm_tool.server.concurrent_models import ConcurrentModels
from sam4mllm_tool.server.deployed_models import DeployedMLLM, DeployedSegmenter, MLLMTraits, SegmenterTraits, call_replica
from sam4mllm_tool.server.settings import RayServeSettings, ServerSettings, load_settings
from sam4mllm_tool.types import Image, ObjectPrompt, Proposal, Question, Reply, SegmentedObject

__all__ = ["build_app", "create_application", "serve_on_ray"]

_APPLICATION = "default"
_Answer = tuple[list[Reply], str | None]


class ImageRouter(FIFOMixin, RequestRouter):  # type: ignore[misc]  # Ray is not typed
    """Sends calls about one image to one replica, as long as that has room: what it has read about the image is kept there.

    Calls that wait are taken in the order in which they came. Ray's other way, each by its id, never takes the first ones of
    several that wait at once within one HTTP request, as they share an id.
    """

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas in the order of their hashes with the image's, each to be tried before the next."""
        if pending_request:
            pending_request.routing_context.should_backoff = True  # else this is called without a pause while all are busy
        key = next((value for value in pending_request.args if isinstance(value, bytes)), b"") if pending_request else b""

        def rank(replica: RunningReplica) -> bytes:
            return hashlib.blake2b(key + str(replica.replica_id).encode()).digest()

        return [[replica] for replica in sorted(candidate_replicas, key=rank)]


class MLLMReplica:
    """A replica of the MLLM."""

    def __init__(self, settings: ServerSettings, options: LoadOptions, threads: int) -> None:
        _set_threads(threads)
        mllm, segmenter = choose_specs(settings.mllm, settings.segmenter)
        models = Sam4Mllm.load(mllm, EMBEDDED, dialect=settings.dialect, options=options)
        self._mllm = models.mllm
        self._checks = [models.mllm, SceneCheck.for_pair(models.mllm, segmenter)]
        weights = {part: identity for part, identity in models.traits.weights.items() if part != "segmenter"}
        greedy = bool(getattr(models.mllm, "greedy", False))
        self._traits = MLLMTraits(models.mllm.name, models.dialect, models.calibration, greedy, weights)
        self._answer.set_max_batch_size(settings.max_batch)
        self._answer.set_batch_wait_timeout_s(settings.gather_ms / 1000)

    async def describe(self) -> MLLMTraits:
        """Return what the server has to know."""
        return self._traits

    async def reply(self, image: Image, questions: Sequence[Question], key: bytes) -> _Answer:  # noqa: ARG002 - the router's
        """Return the replies, and the warning about the image. Raises Sam4MllmError."""
        answer: _Answer | Sam4MllmError = await self._answer((image, questions))
        if isinstance(answer, Sam4MllmError):
            raise answer
        return answer

    @serve.batch  # type: ignore[untyped-decorator]
    async def _answer(self, batch: list[tuple[Image, Sequence[Question]]]) -> list[_Answer | Sam4MllmError]:
        return await asyncio.to_thread(self._answer_all, batch)

    def _answer_all(self, batch: Sequence[tuple[Image, Sequence[Question]]]) -> list[_Answer | Sam4MllmError]:
        reply_batch = getattr(self._mllm, "reply_batch", None)
        if reply_batch is not None and len(batch) > 1:
            try:
                return [(replies, self._check(image)) for replies, (image, _) in zip(reply_batch(batch), batch, strict=True)]
            except Sam4MllmError:  # perhaps because of one of them
                pass
        return [self._answer_one(image, questions) for image, questions in batch]

    def _answer_one(self, image: Image, questions: Sequence[Question]) -> _Answer | Sam4MllmError:
        try:
            return self._mllm.reply(image, questions), self._check(image)
        except Sam4MllmError as error:
            return error

    def _check(self, image: Image) -> str | None:
        checks = (getattr(model, "check_image", None) for model in self._checks)
        warnings = [check(image) for check in checks if check is not None]
        return next((warning for warning in warnings if warning is not None), None)


class SegmenterReplica:
    """A replica of the segmenter."""

    def __init__(self, settings: ServerSettings, options: LoadOptions, threads: int) -> None:
        _set_threads(threads)
        _, spec = choose_specs(settings.mllm, settings.segmenter)
        self._segmenter = load_segmenter(spec, options=options)
        weights = {part: identity for part, identity in find_fingerprints(None, spec).items() if identity}
        proposes = getattr(self._segmenter, "propose", None) is not None
        self._traits = SegmenterTraits(self._segmenter.name, proposes, weights)

    async def describe(self) -> SegmenterTraits:
        """Return what the server has to know."""
        return self._traits

    async def segment(self, image: Image, prompts: Sequence[ObjectPrompt], key: bytes) -> list[SegmentedObject]:  # noqa: ARG002
        """Return one object per prompt. Raises Sam4MllmError."""
        return await asyncio.to_thread(self._segmenter.segment, image, prompts)

    async def propose(self, image: Image, phrase: str, key: bytes) -> Sequence[Proposal]:  # noqa: ARG002
        """Return proposals for a phrase. Raises Sam4MllmError."""
        propose: Callable[..., Sequence[Proposal]] = getattr(self._segmenter, "propose", None) or (lambda *_: ())
        return await asyncio.to_thread(propose, image, phrase)


_REPLICAS: dict[str, type] = {"MLLM": MLLMReplica, "Segmenter": SegmenterReplica}


def create_application(settings: ServerSettings, options: LoadOptions, replicas: RayServeSettings, name: str) -> Any:
    """Return Ray Serve's application of this name, for `serve.run`."""

    mllm, segmenter = choose_specs(settings.mllm, settings.segmenter)  # not as each replica's environment says
    settings = settings.model_copy(update={"mllm": mllm, "segmenter": segmenter})

    def create_server() -> FastAPI:
        # A replica gets requests once its lifespan has begun: where settings are rolled out, those before it answer till then.
        return create_app(lambda: _connect(settings, name), settings, waits_for_models=True)

    scaling = AutoscalingConfig(
        min_replicas=replicas.min_replicas,
        max_replicas=replicas.max_replicas,
        target_ongoing_requests=max(1.0, replicas.ongoing_requests / 2),
    )
    of_models: dict[str, Any] = {
        "autoscaling_config": scaling,
        "max_ongoing_requests": replicas.ongoing_requests,
        "request_router_config": RequestRouterConfig(request_router_class=ImageRouter),
        "ray_actor_options": {"num_cpus": replicas.cpus_per_replica, "num_gpus": replicas.gpus_per_replica},
    }
    arguments = (settings, options, max(1, int(replicas.cpus_per_replica)))
    server = serve.deployment(serve.ingress(create_server)(), name="Server").options(
        max_ongoing_requests=settings.max_batch + settings.max_queue, ray_actor_options={"num_cpus": 0}
    )
    models = [serve.deployment(kind, name=model).options(**of_models) for model, kind in _REPLICAS.items()]
    return server.bind(*(deployment.bind(*arguments) for deployment in models))


def serve_on_ray(
    settings: ServerSettings, options: LoadOptions, replicas: RayServeSettings, address: str | None, *, keep_alive_s: int
) -> None:
    """Serve until the process is interrupted or terminated.

    Args:
        settings: The server's settings.
        options: How the models are loaded.
        replicas: How many replicas there are.
        address: The Ray cluster's; None for the environment's, else a new one on this machine.
        keep_alive_s: How long an idle connection is kept, in seconds.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's handler would abort without ending the application
    ran_before = bool(serve.status().proxies)
    place = f"http://{settings.host}:{settings.port}"
    if ran_before:
        place = "the host and port that it was started with (--host and --port hold after `serve shutdown`)"
    try:
        http = {"host": settings.host, "port": settings.port, "keep_alive_timeout_s": keep_alive_s}
        serve.start(http_options=http)
        serve.run(create_application(settings, options, replicas, _APPLICATION), name=_APPLICATION)
        print(f"sam4mllm: Ray Serve answers at {place}", file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("sam4mllm: ending", file=sys.stderr, flush=True)
    finally:
        serve.delete(_APPLICATION)
        if not ran_before and not serve.status().applications:
            serve.shutdown()
        ray.shutdown()


def build_app(args: Mapping[str, Any]) -> Any:
    """Return the application for `serve run` and for Serve's config files, whose `args` are settings by their names.

    Those of `RayServeSettings` and `LoadOptions` are taken from `args`; those of `ServerSettings` also from the environment.
    """
    values = dict(args)
    replicas = {key: values.pop(key) for key in RayServeSettings.model_fields if key in values}
    options = {key: values.pop(key) for key in ("device", "dtype", "quantize", "attention", "compile") if key in values}
    name = values.pop("app_name", _APPLICATION)
    return create_application(load_settings(None, **values), LoadOptions(**options), RayServeSettings(**replicas), name)


def _connect(settings: ServerSettings, name: str) -> ConcurrentModels:
    """Return the models behind their deployments, once these are there."""
    handles = [serve.get_deployment_handle(model, name) for model in _REPLICAS]

    async def describe() -> list[Any]:
        return [await call_replica(handle, "describe") for handle in handles]

    mllm_traits, segmenter_traits = asyncio.run(describe())
    models = Sam4Mllm(
        DeployedMLLM(handles[0], mllm_traits),
        DeployedSegmenter(handles[1], segmenter_traits),
        dialect=mllm_traits.dialect,
        calibration=mllm_traits.calibration,
    )
    return ConcurrentModels(models, settings.limits, mllm_traits.weights | segmenter_traits.weights)


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
