"""Load a model with the dialect that fits it, and measure that dialect where it is wanted and not known yet.

What measures is imported when it is used, so that loading a model by its known dialect stays fast.
"""

import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sam4mllm_tool.errors import ModelWarning, quote_text
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.metadata import (
    find_family_dialect,
    find_probed_dialect,
    find_trained_dialect,
    identify_mllm,
    list_candidate_dialects,
)
from sam4mllm_tool.models.mllm import load_mllm, load_remote_mllm, parse_remote_spec, wrap_chat_model
from sam4mllm_tool.models.mllm.model_specs import find_parts
from sam4mllm_tool.models.probing.probed_dialects import save_probed_dialect
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.types import MLLM

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from sam4mllm_tool.models.probing.measurement import ProbeReport

__all__ = ["find_adapter_dialect", "keep_measured_dialect", "load_with_dialect", "measured_dialect", "wrap_with_dialect"]


def load_with_dialect(spec: str, options: LoadOptions, *, probe: bool = False) -> tuple[MLLM, Dialect]:
    """Load the MLLM that a spec names, and find the dialect in which to ask it, as `find_dialect` does.

    Args:
        spec: Model spec.
        options: How it is loaded.
        probe: Whether to measure the dialect where no dialect.json lies beside the weights and no measurement was kept.

    Raises:
        SpecError: The spec names nothing that can be loaded.
        MissingExtraError: A dependency is not installed.
        BackendError: The model failed, or the coordinate frame of its answers is in doubt.

    Warns:
        ModelWarning: As in `find_adapter_dialect`.
    """
    if parse_remote_spec(spec):
        return _load_remote(spec, options, probe=probe)
    if not probe:
        dialect = find_adapter_dialect(spec)
        return load_mllm(spec, dialect=dialect, options=options), dialect
    if known := find_trained_dialect(spec) or find_probed_dialect(spec):
        return load_mllm(spec, dialect=known, options=options), known
    candidates = list_candidate_dialects(spec)
    mllm = load_mllm(spec, dialect=candidates[0], options=options)
    return mllm, _measure(spec, mllm, candidates)


def find_adapter_dialect(spec: str) -> Dialect:
    """Return the dialect of a checkpoint as `find_dialect` does, with a warning where an adapter's is a guess.

    Raises:
        SpecError: As in `find_dialect`.

    Warns:
        ModelWarning: There is an adapter, and nothing says in which dialect it was trained.
    """
    if known := find_trained_dialect(spec) or find_probed_dialect(spec):
        return known
    dialect = find_family_dialect(spec) or PLAIN
    _, adapter = find_parts(spec)
    if adapter is not None:
        message = (
            f"the adapter {quote_text(adapter)} has no dialect.json, and is asked in the dialect {dialect.name!r}, as its base "
            "would be: name the one that it was trained in with --dialect or dialect="
        )
        warnings.warn(message, ModelWarning, stacklevel=2)
    return dialect


def wrap_with_dialect(
    mllm: "MLLM | BaseChatModel", dialect: Dialect | None, options: LoadOptions, *, probe: bool = False
) -> tuple[MLLM, Dialect]:
    """Return an MLLM or a chat model that is loaded already as an MLLM, and the dialect in which to ask it.

    Args:
        mllm: An MLLM, or a chat model of LangChain that takes images.
        dialect: That dialect; by default as the model's name says, else `plain`.
        options: Of them only `max_pixels` counts.
        probe: Whether to measure the dialect where none is given. It is not kept.

    Raises:
        SpecError: It is neither, or the chat model takes no images.
        BackendError: The model failed, or the coordinate frame of its answers is in doubt.
    """
    wrapped = wrap_chat_model(mllm, dialect=dialect, max_pixels=options.max_pixels)
    own: Dialect = getattr(wrapped, "dialect", PLAIN)
    chosen = dialect or own
    if dialect is not None or not probe:
        return wrapped, chosen
    from sam4mllm_tool.models.probing.measurement import probe_mllm

    measured = measured_dialect(probe_mllm(wrapped, tuple(dict.fromkeys((chosen, PLAIN)))), is_sent=wrapped is not mllm)
    return wrap_chat_model(mllm, dialect=measured, max_pixels=options.max_pixels), measured


def measured_dialect(report: "ProbeReport", *, is_sent: bool) -> Dialect:
    """Return the dialect that was measured, for later loads.

    Args:
        report: The measurement.
        is_sent: Whether images are resized on our side before they are sent to the model, so that pixels of what was sent are
            known at any size.

    Raises:
        BackendError: The frame is in doubt.
    """
    from sam4mllm_tool.models.probing.frame_fit import WHOLE_IMAGE

    dialect = report.require_dialect()
    return replace(dialect, resizing=None) if is_sent and dialect.resizing == WHOLE_IMAGE else dialect


def keep_measured_dialect(spec: str, mllm: MLLM, dialect: Dialect) -> Path:
    """Keep what was measured for a model, and return the file. Raises OSError."""
    return save_probed_dialect(identify_mllm(spec, getattr(mllm, "version", None)), dialect)


def _measure(spec: str, mllm: MLLM, candidates: tuple[Dialect, ...]) -> Dialect:
    from sam4mllm_tool.models.probing.measurement import probe_mllm

    dialect = measured_dialect(probe_mllm(mllm, candidates), is_sent=parse_remote_spec(spec) is not None)
    with suppress(OSError):  # where nothing can be kept, as in a container, the next load measures again
        keep_measured_dialect(spec, mllm, dialect)
    return dialect


def _load_remote(spec: str, options: LoadOptions, *, probe: bool) -> tuple[MLLM, Dialect]:
    """Load a model behind a server, which says only then which version it runs."""
    candidates = list_candidate_dialects(spec)
    mllm = load_remote_mllm(spec, dialect=candidates[0], options=options)
    dialect = find_probed_dialect(spec, getattr(mllm, "version", None))
    if dialect is None:
        dialect = _measure(spec, mllm, candidates) if probe else candidates[0]
    mllm.ask_in(dialect)
    return mllm, dialect
