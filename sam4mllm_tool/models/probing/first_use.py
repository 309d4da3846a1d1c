"""Load a model with the dialect that fits it, measuring that where nobody knows it yet."""

from contextlib import suppress

from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.metadata import (
    find_probed_dialect,
    find_trained_dialect,
    identify_mllm,
    list_candidate_dialects,
)
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.probing.measurement import probe_mllm
from sam4mllm_tool.models.probing.probed_dialects import save_probed_dialect
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import MLLM

__all__ = ["load_and_probe"]


def load_and_probe(spec: str, options: LoadOptions) -> tuple[MLLM, Dialect]:
    """Load the MLLM that a spec names, and measure its dialect on first use.

    Nothing is measured where a dialect.json lies beside the weights, or where a measurement was kept.

    Raises:
        SpecError: The spec names nothing that can be loaded.
        MissingExtraError: A dependency is not installed.
        BackendError: The model failed, or the coordinate frame of its answers is in doubt.
    """
    known = find_trained_dialect(spec) or find_probed_dialect(spec)
    candidates = (known,) if known else list_candidate_dialects(spec)
    mllm = load_mllm(spec, dialect=candidates[0], options=options)
    if known:
        return mllm, known
    dialect = probe_mllm(mllm, candidates).require_dialect()
    with suppress(OSError):  # where nothing can be kept, as in a container, the next load measures again
        save_probed_dialect(identify_mllm(spec), dialect)
    return mllm, dialect
