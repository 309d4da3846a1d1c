"""An MLLM and a segmenter that run as deployments of Ray Serve, as the pipeline sees them.

A call goes to one of the deployment's replicas. If that dies under it, the call is made once more, at another one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.text import first_line
from sam4mllm_tool.types import Image, ObjectPrompt, Proposal, Question, Reply, SegmentedObject

__all__ = ["DeployedMLLM", "DeployedSegmenter", "MLLMTraits", "SegmenterTraits", "call_replica"]

_KEPT_WARNINGS = 256


@dataclass(frozen=True)
class MLLMTraits:
    """What the server has to know of the MLLM."""

    name: str
    dialect: Dialect
    calibration: Calibration
    greedy: bool
    weights: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmenterTraits:
    """What the server has to know of the segmenter."""

    name: str
    proposes: bool
    weights: dict[str, str] = field(default_factory=dict)


async def call_replica(handle: Any, method: str, *arguments: Any) -> Any:
    """Call a method of a deployment; once more if the replica dies.

    Raises:
        Sam4MllmError: What the method raises; a BackendError where no replica answers.
    """
    import ray

    for is_last in (False, True):
        try:
            return await getattr(handle, method).remote(*arguments)
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
            if is_last:
                raise BackendError(f"the replica died, and so did the next one: {first_line(error)}") from error
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Sam4MllmError):
                raise error.cause from error
            raise BackendError(f"the replica failed: {first_line(error.cause or error)}") from error
    raise AssertionError


class DeployedMLLM:
    """Answers by the deployment of an MLLM.

    Args:
        handle: Ray Serve's handle of the deployment.
        traits: As the deployment describes itself.
    """

    def __init__(self, handle: Any, traits: MLLMTraits) -> None:
        self._handle, self.name, self.greedy = handle, traits.name, traits.greedy
        self._warnings: OrderedDict[bytes, str | None] = OrderedDict()

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Return one reply per question, in order. Raises Sam4MllmError."""
        rgb = ensure_rgb(image)
        key = await asyncio.to_thread(hash_pixels, rgb)
        replies, warning = await call_replica(self._handle, "reply", rgb, tuple(questions), key)
        self._warnings[key] = warning
        while len(self._warnings) > _KEPT_WARNINGS:
            self._warnings.popitem(last=False)
        answers: list[Reply] = replies
        return answers

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `areply`, blocking."""
        return asyncio.run(self.areply(image, questions))

    def check_image(self, image: Image) -> str | None:
        """Return the warning that came with the last reply about an image."""
        return self._warnings.get(hash_pixels(ensure_rgb(image)))


class DeployedSegmenter:
    """Segments by the deployment of a segmenter.

    Args:
        handle: Ray Serve's handle of the deployment.
        traits: As the deployment describes itself.
    """

    def __init__(self, handle: Any, traits: SegmenterTraits) -> None:
        self._handle, self.name = handle, traits.name
        self.propose = self._propose if traits.proposes else None

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Return one object per prompt, in order. Raises Sam4MllmError."""
        rgb = ensure_rgb(image)
        objects: list[SegmentedObject] = await call_replica(
            self._handle, "segment", rgb, tuple(prompts), await asyncio.to_thread(hash_pixels, rgb)
        )
        return objects

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `asegment`, blocking."""
        return asyncio.run(self.asegment(image, prompts))

    def _propose(self, image: Image, phrase: str) -> Sequence[Proposal]:
        rgb = ensure_rgb(image)
        proposals: Sequence[Proposal] = asyncio.run(call_replica(self._handle, "propose", rgb, phrase, hash_pixels(rgb)))
        return proposals
