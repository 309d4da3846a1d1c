"""Backends that turn boxes and points into masks, each in its own module that is imported on first use.

`load_segmenter` loads a checkpoint by its spec; `BoxSegmenter` draws its prompts and replaces a model in tests.
"""

from typing import TYPE_CHECKING, Unpack

from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.segmenter.box_segmenter import BoxSegmenter
from sam4mllm_tool.models.segmenter.mask_choice import ChooseBy
from sam4mllm_tool.optional_dependencies import wrap_import_errors
from sam4mllm_tool.types import Segmenter

if TYPE_CHECKING:
    from sam4mllm_tool.models.segmenter.promptable_segmenter import PromptableSegmenter

__all__ = ["SEGMENT_ANYTHING", "BoxSegmenter", "ChooseBy", "load_segmenter"]

SEGMENT_ANYTHING = "segment-anything:"
"""How the specs of Meta's own checkpoints begin: `segment-anything:vit_h@FILE`."""


def load_segmenter(
    spec: str, *, options: LoadOptions = LoadOptions(), by: ChooseBy = "both", **overrides: Unpack[LoadOverrides]
) -> Segmenter:
    """Load the segmenter that a spec names.

    Args:
        spec: `embedded`; a folder in Hugging Face format or a hub id of SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3; or
            `segment-anything:vit_h@FILE`, also of vit_b, vit_l and vit_t, with the weights that Meta and MobileSAM released.
        options: Where the model runs, and the precision of its image encoder; those of the MLLM alone are ignored.
        by: How to choose among the three candidate masks; the paper's rule is `score` (see `mask_choice`).
        overrides: Single options that differ from `options`, as in `device="cuda:1"`; see `LoadOptions`.

    Raises:
        SpecError: The spec names nothing that can be loaded, or a library is broken.
        MissingExtraError: A library is not installed.
    """
    chosen = options.override(**overrides).for_segmenter
    with wrap_import_errors():
        segmenter = _import_family(spec).load(spec, device=chosen.device, dtype=chosen.dtype, by=by)
    if chosen.compile:
        segmenter.compile_encoder()
    segmenter.cpu_fallback = chosen.cpu_fallback and segmenter.device.type != "cpu"
    return segmenter


def _import_family(spec: str) -> "type[PromptableSegmenter]":
    if spec.startswith(SEGMENT_ANYTHING):
        from sam4mllm_tool.models.segmenter.segment_anything import SegmentAnythingSegmenter

        return SegmentAnythingSegmenter
    from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter

    return TransformersSegmenter
