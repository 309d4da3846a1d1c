"""One file per family of checkpoints; `DIALECTS` holds them by name, `BY_MODEL_TYPE` by the `model_type` of a config,
`BY_MODEL_NAME` by the name of a remote model."""

import re

from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialects.embedded import EMBEDDED
from sam4mllm_tool.protocol.dialects.gemma import GEMMA
from sam4mllm_tool.protocol.dialects.glm import GLM4V
from sam4mllm_tool.protocol.dialects.internvl import INTERNVL
from sam4mllm_tool.protocol.dialects.joint import JOINT
from sam4mllm_tool.protocol.dialects.kimi import KIMI_VL
from sam4mllm_tool.protocol.dialects.plain import PLAIN
from sam4mllm_tool.protocol.dialects.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from sam4mllm_tool.protocol.dialects.released import RELEASED

__all__ = ["BY_MODEL_NAME", "BY_MODEL_TYPE", "DIALECTS", "EMBEDDED", "JOINT", "PLAIN", "RELEASED", "find_by_model_name"]

_NATIVE = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, GLM4V, GEMMA, KIMI_VL)

DIALECTS = {dialect.name: dialect for dialect in (RELEASED, EMBEDDED, PLAIN, JOINT, *_NATIVE)}

BY_MODEL_TYPE = {
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
    "qwen3_5": QWEN3_VL,
    "qwen3_5_moe": QWEN3_VL,
    "internvl": INTERNVL,
    "glm4v": GLM4V,
    "glm4v_moe": GLM4V,
    "glm46v": GLM4V,
    "gemma3": GEMMA,
    "gemma3n": GEMMA,
    "gemma4": GEMMA,
    "kimi_k25": KIMI_VL,
}
"""The dialect in which the checkpoints of a family were trained to ground; others are asked in `PLAIN`."""

BY_MODEL_NAME = {
    "qwen2vl": QWEN2_VL,
    "qwen25vl": QWEN2_5_VL,
    "qwen3vl": QWEN3_VL,
    "qwen35": QWEN3_VL,
    "internvl": INTERNVL,
    "glm4v": GLM4V,
    "glm41v": GLM4V,
    "glm45v": GLM4V,
    "glm46v": GLM4V,
    "gemma3": GEMMA,
    "gemma4": GEMMA,
    "gemini": GEMMA,
    "kimivl": KIMI_VL,
    "kimik25": KIMI_VL,
}
"""What the names of a family's models contain, in small letters and digits alone: "Qwen/Qwen2.5-VL-7B" has "qwen25vl"."""


def find_by_model_name(name: str) -> Dialect | None:
    """Return the dialect of the family that a model's name names, however the server spells it; None for any other name."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((dialect for part, dialect in BY_MODEL_NAME.items() if part in plain), None)
