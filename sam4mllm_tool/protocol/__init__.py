"""The dialogue with no model and no I/O in it: standard library, NumPy and the package's own types alone."""

from sam4mllm_tool.protocol.dialect import DIALECTS, EMBEDDED, JOINT, PLAIN, RELEASED, Dialect
from sam4mllm_tool.protocol.dialogues import PPG, PQPP, BoxOnly, Dialogue, Exchange, Thresholds, replay, turns
from sam4mllm_tool.protocol.oracle import TrueObject, true_dialogue, true_replies
from sam4mllm_tool.protocol.samplers import FixedList, Grid, Placed, PoissonDisk, Sampler
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
    "Placed",
    "PoissonDisk",
    "Sampler",
    "Thresholds",
    "TrueObject",
    "Verified",
    "replay",
    "true_dialogue",
    "true_replies",
    "turns",
]
