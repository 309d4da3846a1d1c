"""Find instances by words with the concept head of SAM 3, which shares its image encoder with the tracker."""

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel, ProcessorMixin, Sam3Model, Sam3Processor

from sam4mllm_tool.images.rgb_conversion import hash_pixels
from sam4mllm_tool.models.checkpoints import quiet_loading, require_complete, wrap_load_errors
from sam4mllm_tool.types import Box, Image, Proposal, Size

__all__ = ["ConceptProposer"]

_MIN_SCORE = 0.3
"""Score from which an instance is proposed, as in transformers: rather too many, as the MLLM decides."""
_MAX_TOKENS = 32
"""Length of the text that the concept head reads."""


class ConceptProposer:
    """Proposes the instances that a noun phrase names.

    Args:
        model: A Sam3Model. It is moved to the device, in float32, in evaluation mode.
        processor: A Sam3Processor.
        device: Where it runs.
        dtype: Precision of the image encoder.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, *, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> None:
        self._model = cast(Any, model).to(device, torch.float32).eval().requires_grad_(False)
        self._processor: Any = processor
        self._device, self._dtype = device, dtype
        self._encoded: tuple[bytes, Any] | None = None

    @classmethod
    def load(cls, source: str, *, device: torch.device, dtype: torch.dtype, backbone: torch.nn.Module) -> Self:
        """Load the concept head of a checkpoint in the layout of `facebook/sam3`.

        Args:
            source: Folder or hub id.
            device: Where it runs.
            dtype: Precision of the image encoder.
            backbone: The tracker's image encoder on that device, which is used in place of a second one.

        Raises:
            SpecError: The checkpoint lacks a part of it.
        """
        with quiet_loading(), wrap_load_errors(source, extra="sam"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=False).detector_config
            processor = Sam3Processor.from_pretrained(source, trust_remote_code=False)
            model, info = cast(Any, Sam3Model).from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        require_complete(source, info)
        model.vision_encoder.backbone = backbone
        return cls(model, processor, device=device, dtype=dtype)

    def _encode(self, image: Image) -> Any:
        """Return the features of an image; of the last one they are kept, as several phrases may be asked about it."""
        key = hash_pixels(image)
        if self._encoded is None or self._encoded[0] != key:
            pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                features = self._model.get_vision_features(pixels)
            for name, value in features.items():
                features[name] = _to_float(value)  # in half precision boxes would be off by whole pixels
            self._encoded = key, features
        return type(self._encoded[1])(**self._encoded[1])

    def propose(self, image: Image, phrase: str) -> list[Proposal]:
        """Return the instances of a concept, best first.

        Args:
            image: RGB, any size.
            phrase: A short noun phrase such as "red mug"; what is longer than 32 tokens is cut off.
        """
        text = self._processor.tokenizer(
            phrase, return_tensors="pt", padding="max_length", max_length=_MAX_TOKENS, truncation=True
        )
        with torch.inference_mode():
            features = self._encode(image)
            ids, attention_mask = (text[name].to(self._device) for name in ("input_ids", "attention_mask"))
            output = self._model(vision_embeds=features, input_ids=ids, attention_mask=attention_mask)
        sizes = [(image.height, image.width)]
        (instances,) = self._processor.post_process_instance_segmentation(output, threshold=_MIN_SCORE, target_sizes=sizes)
        return _build_proposals(instances, Size(*image.size))


def _to_float(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    return tuple(map(_to_float, value)) if isinstance(value, Sequence) else value


def _build_proposals(instances: dict[str, Tensor], size: Size) -> list[Proposal]:
    """Return the instances on the image, best first."""
    columns = instances["boxes"].tolist(), instances["masks"].bool().cpu().numpy(), instances["scores"].tolist()
    proposals = [Proposal(Box(*box).clip(size), mask, score) for box, mask, score in zip(*columns, strict=True)]
    on_image = [proposal for proposal in proposals if proposal.box.area > 0]
    return sorted(on_image, key=lambda proposal: -proposal.score)
