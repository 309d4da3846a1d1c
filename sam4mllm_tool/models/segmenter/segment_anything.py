"""Serve Meta's own `segment-anything` package, and MobileSAM's of the same interface, on weights as they were released.

The package's model is used, not its predictor, which holds one image at a time. Weights are read as tensors alone: a file that
holds anything else, which unpickling might run, is refused.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from PIL import Image as PILImage
from safetensors.torch import load_file
from torch import Tensor

from sam4mllm_tool.errors import MissingExtraError, SpecError, count_noun, quote_text
from sam4mllm_tool.models.devices import choose_device
from sam4mllm_tool.models.segmenter import SEGMENT_ANYTHING
from sam4mllm_tool.models.segmenter.decoder_grid import EncodedImage, scale_prompts
from sam4mllm_tool.models.segmenter.mask_choice import ChooseBy
from sam4mllm_tool.models.segmenter.promptable_segmenter import PromptableSegmenter
from sam4mllm_tool.optional_dependencies import root_message, wrap_import_errors
from sam4mllm_tool.text import first_line
from sam4mllm_tool.types import Image, ObjectPrompt

__all__ = ["SegmentAnythingSegmenter"]

_PACKAGES = {"vit_b": "segment_anything", "vit_l": "segment_anything", "vit_h": "segment_anything", "vit_t": "mobile_sam"}
"""Architecture -> the package that builds it."""
_MOBILE_SAM = "pip install git+https://github.com/ChaoningZhang/MobileSAM.git timm"
_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Width of the image encoder -> its architecture."""


class SegmentAnythingSegmenter(PromptableSegmenter):
    """A segmenter made of a `Sam` of the `segment-anything` package. Concurrent calls wait for each other.

    Args:
        model: A `segment_anything.modeling.Sam`, moved as in `PromptableSegmenter`.
        name: Name in `Usage` and in messages.
        device: As in `load_segmenter`.
        dtype: As in `load_segmenter`.
        by: As in `load_segmenter`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        name: str = "segment-anything",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> None:
        super().__init__(model, name=name, device=device, dtype=dtype, by=by)

    @classmethod
    def load(
        cls,
        spec: str,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        by: ChooseBy = "both",
    ) -> Self:
        """Load `segment-anything:ARCHITECTURE@FILE`, with an architecture of vit_b, vit_l, vit_h, and vit_t for MobileSAM.

        Raises:
            SpecError: The spec is of another form, or the file holds no weights of that architecture, or more than weights.
            MissingExtraError: The package or torchvision is not installed.
        """
        architecture, _, file = spec.removeprefix(SEGMENT_ANYTHING).partition("@")
        if architecture not in _PACKAGES or not file:
            raise SpecError(
                f"{quote_text(spec)}: expected {SEGMENT_ANYTHING}ARCHITECTURE@FILE, the architecture one of "
                f"{', '.join(_PACKAGES)}"
            )
        device = choose_device(device)
        weights = _read_weights(Path(file).expanduser(), architecture)
        model = _build_model(architecture)
        expected, actual = ({key: weight.shape for key, weight in each.items()} for each in (model.state_dict(), weights))
        if different := sorted(key for key in expected | actual if expected.get(key) != actual.get(key)):
            raise SpecError(
                f"{quote_text(file)} doesn't fit {architecture}: {count_noun(len(different), 'weight')} missing, unknown or of "
                f"another shape, {different[0]} first"
            )
        model.load_state_dict(weights)
        return cls(model, name=spec, device=device, dtype=dtype, by=by)

    @property
    def _encoder(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self._model.image_encoder)

    def _encode(self, image: Image) -> EncodedImage:
        side: int = self._model.image_encoder.img_size
        scale = side / max(image.size)
        width, height = (int(length * scale + 0.5) for length in image.size)  # as the package rounds
        resized = np.array(image.resize((width, height), PILImage.Resampling.BILINEAR))
        pixels = self._model.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None].to(self.device))
        with self._encoder_precision():
            embeddings = self._model.image_encoder(pixels).float()
        sizes = (image.height, image.width), (height, width), (side, side)
        return EncodedImage({"image_embeddings": embeddings}, *sizes, unpadding={})

    def _decode(self, encoded: EncodedImage, prompts: Sequence[ObjectPrompt]) -> tuple[Tensor, Tensor]:
        scaled, encoder = scale_prompts(prompts, encoded, self.device), self._model.prompt_encoder
        points = (scaled["points"], scaled["labels"]) if "points" in scaled else None
        sparse, dense = encoder(points=points, boxes=scaled.get("boxes"), masks=scaled.get("masks"))
        decoded: tuple[Tensor, Tensor] = self._model.mask_decoder(
            **encoded.embeddings,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return decoded

    def _resizer(self, encoded: EncodedImage) -> Callable[[Tensor], Tensor]:
        original, (height, width), padded = encoded.original, encoded.processed, encoded.padded
        threshold: float = self._model.mask_threshold
        interpolate = partial(torch.nn.functional.interpolate, mode="bilinear", align_corners=False)

        def resize(logits: Tensor) -> Tensor:
            """As `Sam.postprocess_masks` does."""
            return interpolate(interpolate(logits, padded)[..., :height, :width], original) > threshold

        return resize


def _build_model(architecture: str) -> torch.nn.Module:
    """Build the architecture's model, with weights that are yet to be loaded."""
    package = _PACKAGES[architecture]
    try:
        with wrap_import_errors():
            registry = import_module(package).sam_model_registry
    except MissingExtraError as error:
        if package == "mobile_sam":
            raise SpecError(
                f"vit_t is built by MobileSAM's package, which is incomplete ({root_message(error)}): {_MOBILE_SAM}"
            ) from error
        raise MissingExtraError(f"{package.replace('_', '-')}, or torchvision, which it needs,", "sam") from error
    model: torch.nn.Module = registry[architecture]()
    return model


def _read_weights(path: Path, architecture: str) -> Mapping[str, Tensor]:
    """Read a file of tensors by name.

    Raises:
        SpecError: There is no such file, it can't be read, or it holds something else.
    """
    place = quote_text(str(path))
    if not path.is_file():
        raise SpecError(
            f"there is no file {place}: expected the weights of {architecture}, as in {SEGMENT_ANYTHING}{architecture}@FILE"
        )
    try:
        if path.suffix == ".safetensors":
            weights: Any = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SpecError(
            f"{place} holds more than tensors, or is no file of weights; what could run code is never opened"
        ) from error
    except Exception as error:  # a broken file shows in many ways
        raise SpecError(f"{place} can't be read as weights: {first_line(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise SpecError(
            f"{place} holds no weights by name: expected a released file of {architecture}; SAM 2 and later are to be had "
            "from the hub, for example as facebook/sam2.1-hiera-large"
        )
    patches = weights.get("image_encoder.patch_embed.proj.weight")
    actual = "vit_t" if patches is None else _WIDTHS.get(patches.shape[0], architecture)
    if "image_encoder.patch_embed.seq.0.c.weight" not in weights and patches is None:
        raise SpecError(f"{place} holds no weights of a Segment Anything model: expected a released file of {architecture}")
    if actual != architecture:
        raise SpecError(f"{place} holds the weights of {actual}: write {SEGMENT_ANYTHING}{actual}@{path}")
    return weights
