"""One file per family of checkpoints; `DIALECTS` holds them by name, `BY_MODEL_TYPE` by the `model_type` of a config,
`BY_MODEL_NAME` by the name of a remote model."""

import re
from collections.abc import Mapping
from typing import Any

from sam4mllm_tool.protocol.dialect import Dialect
from sam4mllm_tool.protocol.dialects.claude import CLAUDE
from sam4mllm_tool.protocol.dialects.embedded import EMBEDDED
from sam4mllm_tool.protocol.dialects.florence import FLORENCE2
from sam4mllm_tool.protocol.dialects.gemma import GEMMA
from sam4mllm_tool.protocol.dialects.glm import GLM4V
from sam4mllm_tool.protocol.dialects.gpt import GPT
from sam4mllm_tool.protocol.dialects.idefics import IDEFICS
from sam4mllm_tool.protocol.dialects.internvl import INTERNVL
from sam4mllm_tool.protocol.dialects.joint import JOINT
from sam4mllm_tool.protocol.dialects.kimi import KIMI_VL
from sam4mllm_tool.protocol.dialects.llava import LLAVA
from sam4mllm_tool.protocol.dialects.mistral import MISTRAL
from sam4mllm_tool.protocol.dialects.molmo import MOLMO, MOLMO2
from sam4mllm_tool.protocol.dialects.paligemma import PALIGEMMA
from sam4mllm_tool.protocol.dialects.plain import PLAIN
from sam4mllm_tool.protocol.dialects.qwen import QWEN2_5_VL, QWEN2_VL, QWEN3_VL
from sam4mllm_tool.protocol.dialects.released import RELEASED

__all__ = [
    "BY_MODEL_NAME",
    "BY_MODEL_TYPE",
    "DIALECTS",
    "EMBEDDED",
    "JOINT",
    "PLAIN",
    "RELEASED",
    "find_by_config",
    "find_by_model_name",
]

_NATIVE = (
    *(QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, GLM4V, GEMMA, PALIGEMMA, FLORENCE2, MOLMO, MOLMO2, KIMI_VL, LLAVA),
    *(IDEFICS, MISTRAL, CLAUDE, GPT),
)

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
    "paligemma": PALIGEMMA,
    "florence2": FLORENCE2,
    "molmo2": MOLMO2,
    "llava": LLAVA,
    "llava_next": LLAVA,
    "llava_onevision": LLAVA,
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
    "mistral3": MISTRAL,
    "pixtral": MISTRAL,
}
"""The dialect in which the checkpoints of a family were trained to ground; others are asked in `PLAIN`."""

BY_MODEL_NAME = {
    "paligemma": PALIGEMMA,
    "llava": LLAVA,
    "qwen2vl": QWEN2_VL,
    "qwen25vl": QWEN2_5_VL,
    r"qwen[3-9]\d?(?:vl|omni)": QWEN3_VL,
    "qwen3[56]": QWEN3_VL,
    "qwenvlmax": QWEN3_VL,
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
    "florence2": FLORENCE2,
    "molmo2": MOLMO2,
    "molmo": MOLMO,
    "idefics3": IDEFICS,
    "smolvlm": IDEFICS,
    "pixtral": MISTRAL,
    "mistralsmall": MISTRAL,
    "mistralmedium": MISTRAL,
    "ministral": MISTRAL,
    "magistral": MISTRAL,
    "claude": CLAUDE,
    "gpt4": GPT,
    "gpt5": GPT,
}
"""Regular expressions of what the names of a family's models contain, in small letters and digits alone: "Qwen/Qwen2.5-VL-7B"
has "qwen25vl".

The first that fits counts: PaliGemma 3B has "gemma3" too.
"""


def find_by_config(config: Mapping[str, Any]) -> Dialect | None:
    """Return the dialect of the family that a checkpoint's config names; None for any other.

    Pixtral's configs call it LLaVA, with a vision tower of its own.
    """
    vision = config.get("vision_config")
    is_pixtral = isinstance(vision, Mapping) and vision.get("model_type") == "pixtral" and config.get("model_type") == "llava"
    return BY_MODEL_TYPE.get("pixtral" if is_pixtral else str(config.get("model_type")))


def find_by_model_name(name: str) -> Dialect | None:
    """Return the dialect of the family that a model's name names, however the server spells it; None for any other name."""
    if re.match(r"(?:.*/)?o[1-9](?![a-z0-9.])", name.lower()):  # OpenAI's "o3" and "o4-mini": too short to look for anywhere
        return GPT
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((dialect for pattern, dialect in BY_MODEL_NAME.items() if re.search(pattern, plain)), None)
