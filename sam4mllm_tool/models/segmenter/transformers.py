"""Serve the Segment Anything family of transformers: SAM, SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker behind one interface."""

from collections.abc import Callable, Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_MASK_GENERATION_MAPPING,
    AutoConfig,
    AutoModelForMaskGeneration,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Sam3TrackerProcessor,
)

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.images.rgb_conversion import ensure_rgb
from sam4mllm_tool.models.checkpoints import (
    embedded_folder,
    quiet_loading,
    require_complete,
    resolve_folder_or_hub_id,
    wrap_load_errors,
)
from sam4mllm_tool.models.devices import choose_device
from sam4mllm_tool.models.segmenter.concept_proposer import ConceptProposer
from sam4mllm_tool.models.segmenter.decoder_grid import EncodedImage, scale_prompts
from sam4mllm_tool.models.segmenter.mask_choice import ChooseBy
from sam4mllm_tool.models.segmenter.promptable_segmenter import PromptableSegmenter
from sam4mllm_tool.types import Image, ObjectPrompt, Proposal

__all__ = ["TransformersSegmenter"]


class TransformersSegmenter(PromptableSegmenter):
    """A segmenter made of a mask-generation model of transformers and its processor. Concurrent calls wait for each other.

    Args:
        model: Is moved to the device, in float32, in evaluation mode.
        processor: The model's processor.
        name: Name in `Usage` and in messages; by default the model's own.
        device: As in `load_segmenter`.
        dtype: As in `load_segmenter`.
        by: As in `load_segmenter`.
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
        super().__init__(cast(Any, model), name=name or str(model.name_or_path), device=device, dtype=dtype, by=by)
        self._processor: Any = processor
        self._concept_source: str | None = None
        self._concepts: ConceptProposer | None = None

    @classmethod
    def load(
        cls,
        spec: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> Self:
        """Load `embedded`, a folder in Hugging Face format, or a hub id: from safetensors only, without running its code.

        Raises:
            SpecError: The spec names no segmenter that can be loaded.
            MissingExtraError: A library is not installed.
        """
        source = embedded_folder("sam") if spec == "embedded" else resolve_folder_or_hub_id(spec)
        device = choose_device(device)
        with quiet_loading(), wrap_load_errors(spec, extra="sam"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            _require_segmenter(config, spec)
            # facebook/sam3 holds a tracker and a concept head over one encoder, with the processor of a video model of both
            loader = Sam3TrackerProcessor if config.model_type == "sam3_video" else AutoProcessor
            processor = loader.from_pretrained(source, trust_remote_code=False)
            if not hasattr(processor, "post_process_masks"):
                raise SpecError(f"the checkpoint {spec!r} has no segmenter's processor: expected processor_config.json")
            model, info = AutoModelForMaskGeneration.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        require_complete(spec, info)
        segmenter = cls(model, processor, name=spec, device=device, dtype=dtype, by=by)
        segmenter._concept_source = source if config.model_type == "sam3_video" else None
        return segmenter

    @property
    def propose(self) -> Callable[[Image, str], list[Proposal]] | None:
        """Finds instances by words (`types.Segmenter`) if this is SAM 3; its concept head is loaded on first use."""
        return None if self._concept_source is None else self._propose

    def _propose(self, image: Image, phrase: str) -> list[Proposal]:
        with self._lock, self._wrap_failures(image, 1):
            if self._concepts is None:
                source, backbone = str(self._concept_source), self._model.vision_encoder.backbone
                self._concepts = ConceptProposer.load(source, device=self.device, dtype=self._dtype, backbone=backbone)
            return self._concepts.propose(ensure_rgb(image), phrase)

    @property
    def _encoder(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self._model.vision_encoder)

    def _encode(self, image: Image) -> EncodedImage:
        inputs = self._processor(images=image, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)
        with self._encoder_precision():
            embeddings = self._model.get_image_embeddings(pixels)
        padded = (pixels.shape[-2], pixels.shape[-1])
        # SAM and SAM-HQ keep the aspect ratio and pad, so their processors return the size without padding; others stretch.
        unpadding = {key: inputs[key] for key in ("reshaped_input_sizes",) if key in inputs}
        height, width = unpadding["reshaped_input_sizes"][0].tolist() if unpadding else padded
        return EncodedImage(_embedding_arguments(embeddings), (image.height, image.width), (height, width), padded, unpadding)

    def _decode(self, encoded: EncodedImage, prompts: Sequence[ObjectPrompt]) -> tuple[Tensor, Tensor]:
        scaled = scale_prompts(prompts, encoded, self.device)
        tensors = {f"input_{kind}": tensor[None] for kind, tensor in scaled.items() if kind != "masks"}
        if "masks" in scaled:
            tensors["input_masks"] = scaled["masks"]  # one for the image
        output = self._model(**encoded.embeddings, **tensors, multimask_output=True)
        return output.pred_masks[0], output.iou_scores[0]

    def _resizer(self, encoded: EncodedImage) -> Callable[[Tensor], Tensor]:
        resize, size, unpadding = self._processor.post_process_masks, encoded.original, encoded.unpadding
        return lambda logits: cast(Tensor, resize([logits], [size], **unpadding)[0])


def _require_segmenter(config: Any, spec: str) -> None:
    if type(config) not in MODEL_FOR_MASK_GENERATION_MAPPING:
        known = sorted({config.model_type for config in MODEL_FOR_MASK_GENERATION_MAPPING})
        raise SpecError(f"{spec!r} is a model of type {config.model_type!r}: expected a segmenter, one of {', '.join(known)}")


def _embedding_arguments(embeddings: Any) -> dict[str, Any]:
    """Turn the result of `get_image_embeddings` into the model's keyword arguments, in float32."""
    if isinstance(embeddings, tuple):  # SAM-HQ: the image's embeddings, and those of the encoder's early layers
        last, early = embeddings
        return {"image_embeddings": last.float(), "intermediate_embeddings": [layer.float() for layer in early]}
    if isinstance(embeddings, list):  # SAM 2 and its descendants: finest level first
        return {"image_embeddings": [level.float() for level in embeddings]}
    return {"image_embeddings": embeddings.float()}
