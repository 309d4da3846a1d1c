"""Backends that turn boxes and points into masks, each in a file of its own that is opened on first use.

`load_segmenter` opens a checkpoint by its spec; `BoxSegmenter` follows its prompts to the letter and stands in for a model in
tests.
"""

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.segmenter.boxes import BoxSegmenter
from sam4mllm_tool.models.segmenter.choice import ChooseBy
from sam4mllm_tool.optional_dependencies import model_libraries
from sam4mllm_tool.types import Segmenter

__all__ = ["BoxSegmenter", "ChooseBy", "load_segmenter"]


def load_segmenter(spec: str, *, device: str | None = None, dtype: str | None = None, by: ChooseBy = "both") -> Segmenter:
    """The segmenter that a spec names.

    spec: `embedded`, the small one inside the package; a folder in Hugging Face format, or a hub id of one, of SAM,
        SAM-HQ, SAM 2, EdgeTAM or SAM 3's tracker.
    device: such as `cpu`, `cuda:1`; the first CUDA device where there is one, or else the CPU.
    dtype: the precision in which the picture is encoded: bfloat16 on a CUDA device that has it, or else float32.
    by: the choice among the three candidates; the paper's is `score` (see `segmenter.choice`).
    Raises SpecError where the spec names nothing that can be loaded or a library is broken, MissingExtraError where one is
    missing.
    """
    if spec.startswith("segment-anything:"):
        raise SpecError(f"{spec!r}: the segment-anything backend is not available yet; expected a checkpoint's folder")
    with model_libraries():
        from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter

    return TransformersSegmenter.load(spec, device=device, dtype=dtype, by=by)
