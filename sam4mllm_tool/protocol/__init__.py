"""The dialogue with no model and no I/O in it: standard library, NumPy and the package's own types alone."""

import warnings
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialects import DIALECTS, EMBEDDED, JOINT, PLAIN, RELEASED
from sam4mllm_tool.protocol.dialogues import PPG, PQPP, BoxOnly, Thresholds
from sam4mllm_tool.protocol.exchanges import Dialogue, Exchange, flatten_turns, replay
from sam4mllm_tool.protocol.oracle import TrueObject, build_true_dialogue, build_true_replies
from sam4mllm_tool.protocol.samplers import FixedList, Grid, PointsByBox, PoissonDisk, Sampler
from sam4mllm_tool.protocol.verified import Verified

__all__ = [
    "DIALECTS",
    "EMBEDDED",
    "JOINT",
    "PLAIN",
    "PPG",
    "PQPP",
    "RELEASED",
    "BoxOnly",
    "Dialect",
    "Dialogue",
    "Exchange",
    "FixedList",
    "Grid",
    "PointsByBox",
    "PoissonDisk",
    "Sampler",
    "Thresholds",
    "TrueObject",
    "Verified",
    "build_true_dialogue",
    "build_true_replies",
    "flatten_turns",
    "replay",
]

if not TYPE_CHECKING:  # a type checker should refuse the old names
    _RENAMED = {
        "Placed": PointsByBox,
        "true_dialogue": build_true_dialogue,
        "true_replies": build_true_replies,
        "turns": flatten_turns,
    }

    def __getattr__(name: str) -> Any:
        """Return what version 0.1 called `name`, for one release."""
        if name not in _RENAMED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        renamed = _RENAMED[name]
        warnings.warn(f"sam4mllm_tool.protocol.{name} is now {renamed.__name__}", DeprecationWarning, stacklevel=2)
        return renamed
