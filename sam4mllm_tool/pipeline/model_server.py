"""Serve the requests of flows with an MLLM and a segmenter, and validate what they return."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.scene_check import SceneCheck
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.pipeline.model_calls import acall_model, call_model
from sam4mllm_tool.pipeline.requests import MLLMRequest, ProposalRequest, Request, Response
from sam4mllm_tool.types import MLLM, Image, ObjectPrompt, Proposal, Reply, SegmentedObject, Segmenter, Size

__all__ = ["ModelServer"]

M = TypeVar("M", MLLM, Segmenter)


@dataclass(frozen=True)
class ModelServer:
    """The models of a pair.

    Attributes:
        mllm: Answers questions.
        segmenter: Segments prompts.
        scene_check: Warns of images that the segmenter doesn't know.
        timeout_s: Time limit of one call of a model, in seconds; None for no limit.
    """

    mllm: MLLM
    segmenter: Segmenter
    scene_check: SceneCheck | None = None
    timeout_s: float | None = None

    @property
    def takes_several_images(self) -> bool:
        """Whether one call of the MLLM may be about several images."""
        return getattr(self.mllm, "reply_batch", None) is not None

    def replicate(self, count: int) -> list["ModelServer"]:
        """Return up to so many servers that threads may use at once, over the same weights; this one is the first.

        Fewer, or this one alone, where a model can't be called by several threads at once.
        """
        pairs = zip(_replicate(self.mllm, count), _replicate(self.segmenter, count), strict=False)
        return [replace(self, mllm=mllm, segmenter=segmenter) for mllm, segmenter in pairs]

    def prepare(self, image: Image) -> None:
        """Let a segmenter that can encode an image while the MLLM answers begin to."""
        if (prepare := getattr(self.segmenter, "prepare", None)) is not None:
            prepare(image)

    def serve(self, image: Image, request: Request) -> Response:
        """Return the response to one request. Raises BackendError and whatever the models raise."""
        began = time.perf_counter()
        shown = _transform(image, request)
        if isinstance(request, MLLMRequest):
            questions = request.questions
            replies = call_model(self.mllm.name, lambda: self.mllm.reply(shown, questions), self.timeout_s)
            return self._reply_response(request, replies, began, self._check_image(image, request))
        if isinstance(request, ProposalRequest):
            phrase = request.phrase
            proposed = call_model(self.segmenter.name, lambda: self._propose(shown, phrase), self.timeout_s)
            return self._object_response(None, shown, proposed, began)
        prompts = request.prompts
        objects = call_model(self.segmenter.name, lambda: self.segmenter.segment(shown, prompts), self.timeout_s)
        return self._object_response(prompts, shown, objects, began)

    async def aserve(self, image: Image, request: Request) -> Response:
        """Do as `serve` does, without blocking the event loop."""
        began = time.perf_counter()
        shown = await asyncio.to_thread(_transform, image, request)
        if isinstance(request, MLLMRequest):
            mllm, questions = self.mllm, request.questions
            replies = await acall_model(
                mllm.name, lambda: mllm.areply(shown, questions), lambda: mllm.reply(shown, questions), self.timeout_s
            )
            warnings = await asyncio.to_thread(self._check_image, image, request)
            return self._reply_response(request, replies, began, warnings)
        if isinstance(request, ProposalRequest):
            propose = partial(self._propose, shown, request.phrase)
            proposed = await acall_model(self.segmenter.name, partial(asyncio.to_thread, propose), propose, self.timeout_s)
            return self._object_response(None, shown, proposed, began)
        segmenter, prompts = self.segmenter, request.prompts
        objects = await acall_model(
            segmenter.name,
            lambda: segmenter.asegment(shown, prompts),
            lambda: segmenter.segment(shown, prompts),
            self.timeout_s,
        )
        return self._object_response(prompts, shown, objects, began)

    def serve_questions(self, batch: Sequence[tuple[Image, MLLMRequest]]) -> list[Response]:
        """Return the responses to requests about several images, from one call of the MLLM where it takes several images."""
        reply_batch: Callable[..., Sequence[Sequence[Reply]]] | None = getattr(self.mllm, "reply_batch", None)
        if reply_batch is None or len(batch) < 2:
            return [self.serve(image, request) for image, request in batch]
        began = time.perf_counter()
        shown = [(_transform(image, request), request.questions) for image, request in batch]
        replies = call_model(self.mllm.name, lambda: reply_batch(shown), self.timeout_s)
        if len(replies) != len(batch):
            raise BackendError(f"{self.mllm.name!r} answered about {len(replies)} images, expected {len(batch)}")
        seconds = (time.perf_counter() - began) / len(batch)
        responses = []
        for (image, request), answers in zip(batch, replies, strict=True):
            valid = validate_replies(self.mllm.name, request.questions, answers)
            responses.append(Response(valid, seconds, self._check_image(image, request)))
        return responses

    def _propose(self, image: Image, phrase: str) -> list[SegmentedObject]:
        """The segmenter's proposals as objects, each with its box as its prompt."""
        propose: Callable[[Image, str], Sequence[Proposal]] | None = getattr(self.segmenter, "propose", None)
        proposals = () if propose is None else propose(image, phrase)
        return [SegmentedObject(proposal.mask, ObjectPrompt(proposal.box), proposal.score) for proposal in proposals]

    def _check_image(self, image: Image, request: MLLMRequest) -> tuple[str, ...]:
        """The warnings about a whole image: the MLLM's, and that of an embedded segmenter behind another MLLM."""
        if request.transform is not None:
            return ()
        checks = [getattr(model, "check_image", None) for model in (self.mllm, self.scene_check)]
        warnings = [check(image) for check in checks if check is not None]
        return tuple(warning for warning in warnings if warning is not None)

    def _reply_response(
        self, request: MLLMRequest, replies: Sequence[object], began: float, warnings: tuple[str, ...]
    ) -> Response:
        valid = validate_replies(self.mllm.name, request.questions, replies)  # type: ignore[arg-type]  # it checks the types
        return Response(valid, time.perf_counter() - began, warnings)

    def _object_response(
        self, prompts: Sequence[ObjectPrompt] | None, shown: Image, objects: Sequence[SegmentedObject], began: float
    ) -> Response:
        """Validate the objects of prompts, or those that were proposed."""
        expected = [segmented.prompt for segmented in objects] if prompts is None else prompts
        valid = validate_objects(self.segmenter.name, Size(*shown.size), expected, objects)
        return Response(valid, time.perf_counter() - began)


def _replicate(model: M, count: int) -> list[M]:
    replicate: Callable[[int], list[M]] | None = getattr(model, "replicate", None)
    return [model] if replicate is None else replicate(count)


def _transform(image: Image, request: Request) -> Image:
    return image if request.transform is None else request.transform.apply(image)
