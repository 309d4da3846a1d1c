"""The dialogue with no model and no I/O in it: standard library, NumPy and the package's own types alone."""

from sam4mllm_tool.protocol.checked import Checked
from sam4mllm_tool.protocol.dialect import DIALECTS, EMBEDDED, JOINT, PLAIN, RELEASED, Dialect
from sam4mllm_tool.protocol.dialogue import PPG, PQPP, BoxOnly, Dialogue, Exchange, Thresholds, replay, turns
from sam4mllm_tool.protocol.points import FixedList, Grid, Placed, PoissonDisk, Sampler
from sam4mllm_tool.protocol.truth import TrueObject, true_dialogue, true_replies

__all__ = [
    "DIALECTS",
    "EMBEDDED",
    "JOINT",
    "PLAIN",
    "PPG",
    "PQPP",
    "RELEASED",
    "BoxOnly",
    "Checked",
    "Dialect",
    "Dialogue",
    "Exchange",
    "FixedList",
    "Grid",
    "Placed",
    "PoissonDisk",
    "Sampler",
    "Thresholds",
    "TrueObject",
    "replay",
    "true_dialogue",
    "true_replies",
    "turns",
]
