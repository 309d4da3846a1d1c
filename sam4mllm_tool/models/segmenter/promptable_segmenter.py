"""What all models of the Segment Anything family share: an image is encoded once and cached, then prompted as often as wanted.

Each prompt costs only the small decoder, with many prompts per call. The encoder does nearly all of the work and runs in the
requested precision. The rest stays in float32: in half precision coordinates would be off by whole pixels.
"""

import asyncio
import copy
import math
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam4mllm_tool.errors import BackendError, Sam4MllmError
from sam4mllm_tool.images.rgb_conversion import ensure_rgb, hash_pixels
from sam4mllm_tool.models.device_memory import move_to_cpu, run_within_memory
from sam4mllm_tool.models.devices import choose_device, choose_dtype, describe_hardware
from sam4mllm_tool.models.segmenter.decoder_grid import DecoderGrid, EncodedImage, grid_ious
from sam4mllm_tool.models.segmenter.deferred_candidates import CandidateSet
from sam4mllm_tool.models.segmenter.mask_choice import ChooseBy, choose_object, rank_candidates
from sam4mllm_tool.models.segmenter.prompt_clipping import clip_prompt
from sam4mllm_tool.types import Image, Mask, MaskCandidate, ObjectPrompt, SegmentedObject, Size

__all__ = ["PromptableSegmenter"]

_CACHED_IMAGES, _CACHED_BYTES, _KEPT_IMAGES = 32, 2**27, 2
"""Limits of each of three caches: of images used in one call, in several, and in none yet. Crops that are used once therefore
don't evict the image that they were cut from. The last so many images stay however large they are."""
_PROMPTS_PER_RUN = 64
_UPSAMPLING_BYTES = 2**28
_ALTERNATIVES_BYTES = 2**30


class PromptableSegmenter(ABC):
    """A segmenter made of an image encoder and a mask decoder. Concurrent calls wait for each other.

    Args:
        model: Encoder and decoder. It is moved to the device, in float32, in evaluation mode.
        name: Name in `Usage` and in messages.
        device: As in `load_segmenter`.
        dtype: As in `load_segmenter`.
        by: As in `load_segmenter`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        name: str,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> None:
        self.name: str = name
        self.by = by
        self.device = choose_device(device)
        self._dtype = choose_dtype(dtype, self.device)
        self._model: Any = model.to(self.device, torch.float32).eval().requires_grad_(False)
        self._encodes_early = self.device.type != "cpu"
        self.cpu_fallback: bool = False
        """Whether a prompt that the device has no memory for is segmented on the CPU."""
        self._start_cache()

    def _start_cache(self) -> None:
        self._used_once: OrderedDict[bytes, EncodedImage] = OrderedDict()
        self._used_again: OrderedDict[bytes, EncodedImage] = OrderedDict()
        self._encoded_early: OrderedDict[bytes, EncodedImage] = OrderedDict()
        self._early_thread: ThreadPoolExecutor | None = None
        self._early_encoding: Future[None] | None = None
        self._lock = threading.Lock()
        self._replicas: list[Self] = []

    def replicate(self, count: int) -> list[Self]:
        """Return up to so many segmenters over the same weights that threads may call at once; this one is the first.

        Each caches the images that it encoded for itself. On a GPU, where calls would take turns anyway, it is this one alone;
        likewise SAM 3, whose concept head is a model of its own.
        """
        if getattr(self, "propose", None) is not None:
            return [self]
        while self.device.type == "cpu" and len(self._replicas) + 1 < count:
            replica = copy.copy(self)
            replica._start_cache()
            self._replicas.append(replica)
        return [self, *self._replicas][:count]

    @classmethod
    @abstractmethod
    def load(
        cls,
        spec: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> Self:
        """Load the model that a spec names, as `load_segmenter` describes."""

    @abstractmethod
    def _encode(self, image: Image) -> EncodedImage:
        """Run the encoder on an RGB image, inside `_encoder_precision`."""

    @abstractmethod
    def _decode(self, encoded: EncodedImage, prompts: Sequence[ObjectPrompt]) -> tuple[Tensor, Tensor]:
        """Run the decoder once over prompts that `_group_into_runs` puts together.

        Returns:
            Mask logits (prompts, candidates, h, w) on the decoder's grid, and predicted IoUs (prompts, candidates).
        """

    @abstractmethod
    def _resizer(self, encoded: EncodedImage) -> Callable[[Tensor], Tensor]:
        """Return a function from (n, 1, h, w) logits to (n, 1, H, W) bool masks on the original image.

        It lives as long as the results do, so it must not hold the model.
        """

    def compile_encoder(self) -> None:
        """Compile the image encoder by torch.compile, on the first image. On a CPU this needs a C++ compiler."""
        self._encoder.compile()

    @property
    @abstractmethod
    def _encoder(self) -> torch.nn.Module:
        """The image encoder, which `_encode` calls."""

    @property
    def hardware(self) -> str:
        """Where it runs, in which precision its image encoder does, and how much memory its weights take."""
        return describe_hardware(self._model, self._dtype)

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Return one object per prompt, in order, with its mask on the image's own pixel grid.

        The image is encoded once for all prompts, and again in a later call only if it is no longer cached.

        Args:
            image: RGB, any size.
            prompts: In pixels of the image. Boxes and points over its edge are clipped, and returned so.

        Returns:
            Objects whose mask is (H, W) bool, maybe empty; score is SAM's predicted IoU, clipped to [0, 1]; confidence is as
            in `mask_choice.choose_object`; alternatives are the other candidates, left out if those of all prompts would take
            more than 1 GiB.

        Raises:
            ValueError: A prompt is invalid (see `clip_prompt`).
            BackendError: The model failed.
        """
        clipped = [clip_prompt(prompt, Size(*image.size)) for prompt in prompts]
        if not clipped:
            return []
        with self._lock, self._wrap_failures(image, len(clipped)), torch.inference_mode():
            return run_within_memory(
                lambda prompts: self._segment(self._encode_cached(image), prompts),
                clipped,
                release=self._clear_caches,
                on_cpu=self._on_cpu if self.cpu_fallback else None,
            )

    def prepare(self, image: Image) -> None:
        """Begin to encode an image that will probably be segmented, in a thread, and return at once.

        A later `segment` waits for it, or encodes the image itself and raises what goes wrong. One image at a time: while one
        is being encoded, further calls do nothing. On a CPU no call does anything: the MLLM needs all of its cores meanwhile.

        Args:
            image: RGB, any size. It may be changed afterwards.
        """
        if not self._encodes_early or (self._early_encoding is not None and not self._early_encoding.done()):
            return
        if self._early_thread is None:
            self._early_thread = ThreadPoolExecutor(1, "image encoder")
        self._early_encoding = self._early_thread.submit(self._encode_early, ensure_rgb(image).copy())

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `segment`, in a thread."""
        return await asyncio.to_thread(self.segment, image, prompts)

    def compare(self, image: Image, prompts: Sequence[ObjectPrompt], truth: Mask) -> npt.NDArray[np.float64]:
        """Return the (n,) IoU of each prompt's mask with the true mask, for choosing among many prompts.

        The masks are those that `segment` would choose, compared on a grid of about 256 cells a side instead of the image's
        pixels: several times faster, and off by at most a cell along the edges.

        Args:
            image: RGB, any size.
            prompts: In pixels of the image.
            truth: (H, W) bool on the image.

        Raises:
            ValueError: `truth` has another size, or as in `segment`.
            BackendError: The model failed.
        """
        if truth.shape != (image.height, image.width):
            raise ValueError(f"expected a truth of {image.height} x {image.width} pixels, got {truth.shape}")
        clipped = [clip_prompt(prompt, Size(*image.size)) for prompt in prompts]
        ious = np.zeros(len(clipped))
        with self._lock, self._wrap_failures(image, len(clipped)), torch.inference_mode():
            encoded = self._encode_cached(image)
            for indices in _group_into_runs(clipped):
                group = [clipped[index] for index in indices]
                logits, scores = self._run_decoder(encoded, group)
                ious[indices] = grid_ious(self._best_logits(logits, scores, group, encoded), truth, encoded)
        return ious

    @contextmanager
    def _wrap_failures(self, image: Image, prompts: int) -> Iterator[None]:
        try:
            yield
        except Sam4MllmError:
            raise
        except Exception as error:
            raise BackendError(
                f"the segmenter {self.name!r} failed on an image of {image.width} x {image.height} pixels with "
                f"{prompts} prompts: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            ) from error

    @contextmanager
    def _on_cpu(self) -> Iterator[None]:
        self.device = torch.device("cpu")
        try:
            with move_to_cpu(self._model):
                yield
        finally:
            self._clear_caches()
            self.device = next(self._model.parameters()).device

    def _clear_caches(self) -> None:
        for cache in (self._used_once, self._used_again, self._encoded_early):
            cache.clear()

    def _encode_cached(self, image: Image) -> EncodedImage:
        """Look the image up by its pixels, not its identity: an image that was drawn on is new, one loaded again is not."""
        image = ensure_rgb(image)
        key = hash_pixels(image)
        cached = self._used_again.pop(key, None) or self._used_once.pop(key, None)
        cache = self._used_once if cached is None else self._used_again
        return _keep(cache, key, cached or self._encoded_early.pop(key, None) or self._encode(image))

    def _encode_early(self, image: Image) -> None:
        """Encode the image unless it is cached. An error is left to the call that needs the image."""
        key = hash_pixels(image)
        with self._lock, torch.inference_mode(), suppress(Exception):
            if not any(key in cache for cache in (self._used_again, self._used_once, self._encoded_early)):
                _keep(self._encoded_early, key, self._encode_beside(image))

    def _encode_beside(self, image: Image) -> EncodedImage:
        """Encode the image on a stream of its own, so that a GPU does it beside what the MLLM does.

        The stream's memory isn't reused too early: before an encoded image is dropped, `segment` has copied its masks.
        """
        if self.device.type != "cuda":
            return self._encode(image)
        stream = torch.cuda.Stream(self.device)
        with torch.cuda.stream(stream):
            encoded = self._encode(image)
        stream.synchronize()
        return encoded

    def _segment(self, encoded: EncodedImage, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Return the object of each prompt, in prompt order."""
        height, width = encoded.original
        upsample = partial(_upsample, resize=self._resizer(encoded), pixels=max(height * width, math.prod(encoded.padded)))
        objects: dict[int, SegmentedObject] = {}
        for indices in _group_into_runs(prompts):
            logits, scores = self._run_decoder(encoded, [prompts[index] for index in indices])
            keep_alternatives = len(prompts) * scores.shape[1] * height * width <= _ALTERNATIVES_BYTES
            candidates = {
                index: CandidateSet(masks.cpu().clone(), row, prompts[index], self.by, upsample)
                for index, masks, row in zip(indices, logits, scores.tolist(), strict=True)
            }
            _add_needed_masks(list(candidates.values()), logits, upsample)
            for index, proposed in candidates.items():
                chosen = choose_object([proposed.best()], prompts[index], by=self.by)
                objects[index] = replace(chosen, alternatives=proposed.others() if keep_alternatives else ())
        return [objects[index] for index in range(len(prompts))]

    def _encoder_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _run_decoder(self, encoded: EncodedImage, prompts: Sequence[ObjectPrompt]) -> tuple[Tensor, Tensor]:
        """Run the decoder as `_decode` does, with scores in [0, 1]."""
        logits, predicted_ious = self._decode(encoded, prompts)
        scores = predicted_ious.float()
        if not torch.isfinite(scores).all():
            raise BackendError(f"the segmenter {self.name!r} returned scores that are not numbers: its weights are broken")
        return logits, scores.clamp(0, 1)

    def _best_logits(self, logits: Tensor, scores: Tensor, prompts: Sequence[ObjectPrompt], encoded: EncodedImage) -> Tensor:
        """Return the (prompts, h, w) logits of each prompt's best candidate, chosen on the decoder's grid."""
        grid = DecoderGrid.over(encoded, *logits.shape[-2:])
        best = []
        for masks, row, prompt in zip((logits > 0).cpu().numpy(), scores.tolist(), prompts, strict=True):
            candidates = [MaskCandidate(mask, score) for mask, score in zip(masks, row, strict=True)]
            best.append(rank_candidates(candidates, grid.scale_points(prompt), by=self.by)[0])
        return logits[torch.arange(len(prompts)), torch.tensor(best)]


def _upsample(logits: Tensor, *, resize: Callable[[Tensor], Tensor], pixels: int) -> Iterator[Mask]:
    """Yield (H, W) bool masks on the original image from (n, h, w) logits, in batches of `pixels` a mask that bound memory."""
    batch_size = max(1, _UPSAMPLING_BYTES // (pixels * logits.element_size()))
    for batch in torch.split(logits[:, None], batch_size):
        yield from (np.array(mask, np.bool_) for mask in resize(batch)[:, 0].cpu().numpy())


def _add_needed_masks(candidates: Sequence[CandidateSet], logits: Tensor, upsample: Callable[[Tensor], Iterator[Mask]]) -> None:
    """Upsample what is needed to choose for each prompt, for all prompts together.

    Args:
        candidates: Those of each prompt.
        logits: (prompts, candidates, h, w) on the decoder's grid.
        upsample: Turns (n, h, w) logits into n masks on the image.
    """
    while True:
        needed = [(row, index) for row, each in enumerate(candidates) if (index := each.next_needed()) is not None]
        if not needed:
            return
        rows, indices = zip(*needed, strict=True)
        for (row, index), mask in zip(needed, upsample(logits[list(rows), list(indices)]), strict=True):
            candidates[row].add_mask(index, mask)


def _keep(cache: OrderedDict[bytes, EncodedImage], key: bytes, encoded: EncodedImage) -> EncodedImage:
    cache[key] = encoded
    size = sum(each.bytes for each in cache.values())
    while len(cache) > _CACHED_IMAGES or (size > _CACHED_BYTES and len(cache) > _KEPT_IMAGES):
        size -= cache.popitem(last=False)[1].bytes
    return encoded


def _group_into_runs(prompts: Sequence[ObjectPrompt]) -> Iterator[list[int]]:
    """Yield indices of prompts with equally many points and all with or without a box, as many as the decoder takes in one run.

    Prompts are not padded to equal length: transformers embeds its padding, label -10, as zeros, but the decoder attends to it
    like to any other token, and masks change as much as with a wrong point. transformers takes one mask input per image, so a
    prompt with a mask input runs alone.
    """
    by_shape: dict[tuple[int, bool, int | None], list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_shape[len(prompt.points), prompt.points_only, None if prompt.mask_input is None else index].append(index)
    for indices in by_shape.values():
        yield from (indices[start : start + _PROMPTS_PER_RUN] for start in range(0, len(indices), _PROMPTS_PER_RUN))
