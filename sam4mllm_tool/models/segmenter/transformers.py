"""The Segment Anything family through transformers: SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker behind one interface.

A picture is encoded once and kept; prompts then cost only the small decoder, many in one call. The encoder, which is nearly
all of the work, runs in the precision asked for; the rest stays in float32, since coordinates lose whole pixels in half
precision.
"""

import asyncio
import hashlib
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_MASK_GENERATION_MAPPING,
    AutoConfig,
    AutoModelForMaskGeneration,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from sam4mllm_tool.errors import BackendError, Sam4MllmError, SpecError
from sam4mllm_tool.models.checkpoints import (
    choose_device,
    choose_dtype,
    embedded_folder,
    load_errors,
    quiet_loading,
    require_complete,
    resolve_folder_or_hub_id,
)
from sam4mllm_tool.models.segmenter.choice import ChooseBy, choose, choose_object
from sam4mllm_tool.models.segmenter.prompts import clip_prompt
from sam4mllm_tool.types import Image, Mask, MaskCandidate, ObjectPrompt, PointPrompt, SegmentedObject, Size

__all__ = ["TransformersSegmenter"]

_KEPT = 2
"""Pictures whose encodings are kept: so many of those asked about in one call, as many of those asked about in several. Parts
of a picture, each asked about once, leave the picture's own where it is."""
_PROMPTS_AT_ONCE = 64
_UPSAMPLING_BYTES = 2**28
_ALTERNATIVES_BYTES = 2**30
_COMPARED_CELLS = 256


@dataclass(frozen=True)
class _Encoded:
    """A picture as the decoder wants it. Sizes are (height, width) in pixels.

    embeddings: the model's keyword arguments in place of pixel values. processed: the picture's size in the model's
    input, without padding. padded: the input's size. unpadding: what post-processing needs beside the original size.
    """

    embeddings: dict[str, Any]
    original: tuple[int, int]
    processed: tuple[int, int]
    padded: tuple[int, int]
    unpadding: dict[str, Any]


@dataclass(frozen=True)
class _Grid:
    """A grid over the decoder's view of a picture: the picture's pixel under the middle of each of its rows and columns.

    What lies under the padding is left out. scale: cells a pixel, across and down.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    scale: tuple[float, float]

    @classmethod
    def over(cls, encoded: _Encoded, height: int, width: int) -> "_Grid":
        sides = zip(encoded.original, encoded.processed, encoded.padded, (height, width), strict=True)
        down, across = ((cells / padded) * (processed / original) for original, processed, padded, cells in sides)
        rows = ((np.arange(height) + 0.5) / down).astype(np.int64)
        columns = ((np.arange(width) + 0.5) / across).astype(np.int64)
        return cls(rows[rows < encoded.original[0]], columns[columns < encoded.original[1]], (across, down))

    def moved(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """The prompt's points in cells; its box, which no candidate is judged by, as it was."""
        across, down = self.scale
        points = (PointPrompt(p.x * across, p.y * down, p.label, p.confidence) for p in prompt.points)
        return ObjectPrompt(prompt.box, tuple(points))


class TransformersSegmenter:
    """A segmenter made of a mask-generation model of transformers and its processor.

    One picture at a time: calls from several threads wait for one another.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        name: str = "",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> None:
        """Takes the model over: moves it to the device, in float32, in evaluation mode.

        name: what it is called in results. device, dtype, by: as in `segmenter.load_segmenter`.
        """
        self.name: str = name or str(model.name_or_path)
        self.by = by
        self.device = choose_device(device)
        self._dtype = choose_dtype(dtype, self.device)
        self._model = cast(Any, model).to(self.device, torch.float32).eval().requires_grad_(False)
        self._processor: Any = processor
        self._once: OrderedDict[bytes, _Encoded] = OrderedDict()
        self._often: OrderedDict[bytes, _Encoded] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        spec: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> Self:
        """Opens `embedded`, a folder in Hugging Face format, or a hub id, its weights as safetensors, never pickled,
        and its own code never run.

        Raises SpecError, MissingExtraError.
        """
        source = embedded_folder("sam") if spec == "embedded" else resolve_folder_or_hub_id(spec)
        device = choose_device(device)
        with quiet_loading(), load_errors(spec, extra="sam"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            if type(config) not in MODEL_FOR_MASK_GENERATION_MAPPING:
                raise SpecError(_not_a_segmenter(spec, config.model_type))
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            if not hasattr(processor, "post_process_masks"):
                raise SpecError(f"the checkpoint {spec!r} has no processor of a segmenter: expected processor_config.json")
            model, info = AutoModelForMaskGeneration.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        require_complete(spec, info)
        return cls(model, processor, name=spec, device=device, dtype=dtype, by=by)

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """One mask per prompt, on the image's own pixel grid, and beside it the candidates not chosen.

        image: RGB, any size; encoded once for all prompts, and not again in a later call while it is one of the last two, or of
        the last two that came more than once.
        prompts: in pixels of the image; boxes and points that reach over its edge are cut, and returned so.
        Returns objects in prompt order; each mask is (H, W) bool, maybe without a pixel set, score is SAM's predicted IoU
        cut to [0, 1], confidence the agreement of the mask with the points (`choice.choose_object`). Where all candidates
        of all prompts would take more than 1 GiB, the masks not chosen are left out, and a mask a prompt is what remains.
        Raises ValueError for a prompt that can't be meant (`prompts.clip_prompt`), BackendError where the model fails.
        """
        clipped = [clip_prompt(prompt, Size(*image.size)) for prompt in prompts]
        if not clipped:
            return []
        with self._lock, self._failures(image, len(clipped)), torch.inference_mode():
            return self._objects(self._encode_once(image), clipped)

    def compare(self, image: Image, prompts: Sequence[ObjectPrompt], truth: Mask) -> npt.NDArray[np.float64]:
        """(n,) IoU of each prompt's mask with the truth, for choosing among many prompts.

        truth: (H, W) bool on the picture. The mask is the one that `segment` would choose, but looked at on a grid of some
        256 cells a side instead of the picture's own, which is several times faster and off by a cell along the edges.
        Raises as `segment` does, and ValueError for a truth of another size.
        """
        if truth.shape != (image.height, image.width):
            raise ValueError(f"expected a truth of {image.height} x {image.width} pixels, got {truth.shape}")
        clipped = [clip_prompt(prompt, Size(*image.size)) for prompt in prompts]
        ious = np.zeros(len(clipped))
        with self._lock, self._failures(image, len(clipped)), torch.inference_mode():
            encoded = self._encode_once(image)
            for indices in _alike(clipped):
                some = [clipped[index] for index in indices]
                logits, scores = self._run(encoded, some)
                ious[indices] = _ious(self._choose(logits, scores, some, encoded), truth, encoded)
        return ious

    def _choose(self, logits: Tensor, scores: Tensor, prompts: Sequence[ObjectPrompt], encoded: _Encoded) -> Tensor:
        """(prompts, h, w): of each prompt's candidates the logits of the best."""
        grid = _Grid.over(encoded, *logits.shape[-2:])
        best = []
        for masks, row, prompt in zip((logits > 0).cpu().numpy(), scores.tolist(), prompts, strict=True):
            candidates = [MaskCandidate(mask, score) for mask, score in zip(masks, row, strict=True)]
            best.append(choose(candidates, grid.moved(prompt), by=self.by)[0])
        return logits[torch.arange(len(prompts)), torch.tensor(best)]

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `segment`, in a thread of its own."""
        return await asyncio.to_thread(self.segment, image, prompts)

    @contextmanager
    def _failures(self, image: Image, prompts: int) -> Iterator[None]:
        try:
            yield
        except Sam4MllmError:
            raise
        except Exception as error:
            raise BackendError(
                f"the segmenter {self.name!r} failed on a picture of {image.width} x {image.height} pixels with "
                f"{prompts} prompts: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
            ) from error

    def _encode_once(self, image: Image) -> _Encoded:
        """Known by its pixels, not by its identity: a picture drawn upon is another, one opened again is the same."""
        image = image.convert("RGB")
        key = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%dx%d" % image.size).digest()
        known = self._often.pop(key, None) or self._once.pop(key, None)
        kept = self._once if known is None else self._often
        encoded = kept[key] = known or self._encode(image)
        if len(kept) > _KEPT:
            kept.popitem(last=False)
        return encoded

    def _encode(self, image: Image) -> _Encoded:
        inputs = self._processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            found = self._model.get_image_embeddings(pixels)
        padded = (pixels.shape[-2], pixels.shape[-1])
        # SAM and SAM-HQ keep the aspect ratio and pad, so they say what lies under the padding; the others stretch.
        unpadding = {key: inputs[key] for key in ("reshaped_input_sizes",) if key in inputs}
        height, width = unpadding["reshaped_input_sizes"][0].tolist() if unpadding else padded
        return _Encoded(_as_arguments(found), (image.height, image.width), (height, width), padded, unpadding)

    def _objects(self, encoded: _Encoded, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """The object of every prompt, in prompt order."""
        height, width = encoded.original
        found: dict[int, SegmentedObject] = {}
        for indices in _alike(prompts):
            masks, scores = self._decode(encoded, [prompts[index] for index in indices])
            keeps = len(prompts) * scores.shape[1] * height * width <= _ALTERNATIVES_BYTES
            for index, row in zip(indices, scores.tolist(), strict=True):
                candidates = [MaskCandidate(next(masks), score) for score in row]
                chosen = choose_object(candidates, prompts[index], by=self.by)
                found[index] = chosen if keeps else replace(chosen, alternatives=())
        return [found[index] for index in range(len(prompts))]

    def _decode(self, encoded: _Encoded, prompts: Sequence[ObjectPrompt]) -> tuple[Iterator[Mask], Tensor]:
        """One run of the decoder over prompts with equally many points.

        Returns the masks, prompt by prompt and candidate by candidate, and the scores (prompts, candidates) in [0, 1].
        """
        logits, scores = self._run(encoded, prompts)
        return self._upsample(logits.flatten(0, 1), encoded), scores

    def _run(self, encoded: _Encoded, prompts: Sequence[ObjectPrompt]) -> tuple[Tensor, Tensor]:
        """Mask logits (prompts, candidates, h, w) on the decoder's grid, and scores (prompts, candidates) in [0, 1]."""
        output = self._model(**encoded.embeddings, **_as_tensors(prompts, encoded, self.device), multimask_output=True)
        scores = output.iou_scores[0].float()
        if not torch.isfinite(scores).all():
            raise BackendError(f"the segmenter {self.name!r} gives scores that are not numbers: its weights are broken")
        return output.pred_masks[0], scores.clamp(0, 1)

    def _upsample(self, logits: Tensor, encoded: _Encoded) -> Iterator[Mask]:
        """Masks on the original picture, (H, W) bool each, from logits (masks, h, w), some at a time to bound memory."""
        pixels = max(encoded.original[0] * encoded.original[1], encoded.padded[0] * encoded.padded[1])
        at_once = max(1, _UPSAMPLING_BYTES // (pixels * logits.element_size()))
        for some in torch.split(logits[:, None], at_once):
            masks = self._processor.post_process_masks([some], [encoded.original], **encoded.unpadding)[0]
            yield from (np.array(mask, np.bool_) for mask in masks[:, 0].cpu().numpy())


def _ious(logits: Tensor, truth: Mask, encoded: _Encoded) -> npt.NDArray[np.float64]:
    """(n,) IoU of masks with the truth; logits: (n, h, w) on the decoder's grid."""
    finer = max(1, _COMPARED_CELLS // max(logits.shape[-2:]))
    if finer > 1:
        logits = torch.nn.functional.interpolate(logits[:, None], scale_factor=finer, mode="bilinear")[:, 0]
    grid = _Grid.over(encoded, *logits.shape[-2:])
    seen = torch.from_numpy(truth[np.ix_(grid.rows, grid.columns)]).to(logits.device)
    masks = logits[:, : grid.rows.size, : grid.columns.size] > 0
    both, either = (masks & seen).sum((1, 2)), (masks | seen).sum((1, 2))
    return (both / either.clamp(min=1)).double().cpu().numpy()


def _as_arguments(found: Any) -> dict[str, Any]:
    """What `get_image_embeddings` gives, as the model's keyword arguments, in float32."""
    if isinstance(found, tuple):  # SAM-HQ: beside the embedding, what its encoder's early layers saw
        image, early = found
        return {"image_embeddings": image.float(), "intermediate_embeddings": [layer.float() for layer in early]}
    if isinstance(found, list):  # SAM 2 and its descendants: finest first
        return {"image_embeddings": [level.float() for level in found]}
    return {"image_embeddings": found.float()}


def _alike(prompts: Sequence[ObjectPrompt]) -> Iterator[list[int]]:
    """Indices of prompts with equally many points, so many that the decoder can take them in one run.

    Prompts are not padded to equal length: transformers embeds its padding, label -10, as zeros, yet the decoder attends
    to it like to any other token, and masks move as far as with a wrong point.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[len(prompt.points)].append(index)
    for group in groups.values():
        yield from (group[start : start + _PROMPTS_AT_ONCE] for start in range(0, len(group), _PROMPTS_AT_ONCE))


def _as_tensors(prompts: Sequence[ObjectPrompt], encoded: _Encoded, device: torch.device) -> dict[str, Tensor]:
    """Boxes (1, n, 4), points (1, n, k, 2) and labels (1, n, k) in pixels of the model's input, as the processor scales."""
    scale = torch.tensor([encoded.processed[1] / encoded.original[1], encoded.processed[0] / encoded.original[0]])
    boxes = torch.tensor([prompt.box for prompt in prompts]) * scale.repeat(2)
    tensors = {"input_boxes": boxes[None].to(device)}
    if prompts[0].points:
        points = torch.tensor([[(point.x, point.y) for point in prompt.points] for prompt in prompts]) * scale
        labels = torch.tensor([[point.label for point in prompt.points] for prompt in prompts])
        tensors |= {"input_points": points[None].to(device), "input_labels": labels[None].to(device)}
    return tensors


def _not_a_segmenter(spec: str, model_type: str) -> str:
    known = sorted({config.model_type for config in MODEL_FOR_MASK_GENERATION_MAPPING})
    return f"{spec!r} is a model of type {model_type!r}: expected a segmenter, one of {', '.join(known)}"
