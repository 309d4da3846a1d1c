"""The dialogue with no model and no I/O in it: standard library, NumPy and the package's own types alone."""

from typing import TYPE_CHECKING

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialects import DIALECTS, EMBEDDED, JOINT, PLAIN, RELEASED
from sam4mllm_tool.protocol.dialogues import PPG, PQPP, BoxOnly, Thresholds
from sam4mllm_tool.protocol.exchanges import Dialogue, Exchange, flatten_turns, replay
from sam4mllm_tool.protocol.oracle import TrueObject, build_true_dialogue, build_true_replies
from sam4mllm_tool.protocol.pointing import Pointing
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
    "Pointing",
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
    _OLD_NAMES = "Placed PointsByBox, true_dialogue build_true_dialogue, true_replies build_true_replies, turns flatten_turns"
    __getattr__ = deprecated_names(__name__, __name__, _OLD_NAMES)
