"""Tell whether texts that share their beginning can branch in one pass, each with the logits that it gets alone."""

import inspect
from typing import Any

__all__ = ["can_branch", "can_pack", "find_image_token"]

_PACKABLE_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_BRANCHING_MODEL_TYPES = (
    *_PACKABLE_MODEL_TYPES,
    *("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text", "glm4v_text", "gemma3_text", "gemma4_text"),
)
"""Decoders whose tokens see those before them, all or the last few, and nothing else once the image is read."""
_ROPE_TYPES = ("default", "linear", "llama3", "yarn", "proportional")
"""Rotations that don't depend on the length of the text."""


def find_image_token(model: Any) -> int | None:
    """Return the id of the token that stands for an image; None in families without one."""
    token: int | None = getattr(model.config, "image_token_id", None) or getattr(model.config, "image_token_index", None)
    return token


def can_branch(model: Any) -> bool:
    """Whether texts can branch after the image, which was read with the model's own masks and positions.

    They can in decoders whose tokens see those before them, if the rotation of a position doesn't depend on the length. They
    can't with a recurrent state (Qwen3.5, Mamba) or where the image is not among the tokens (Llama 3.2 Vision), nor in models
    that read prompts in both directions. Flash attention is excluded because it takes no mask of this kind.
    """
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    by_layer = [each for each in rope.values() if isinstance(each, dict)] or [rope]
    return (
        text.model_type in _BRANCHING_MODEL_TYPES
        and {each.get("rope_type", "default") for each in by_layer} <= set(_ROPE_TYPES)
        and set(getattr(text, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
        and getattr(text, "_attn_implementation", None) in ("sdpa", "eager")
        and find_image_token(model) is not None
        and "logits_to_keep" in inspect.signature(model.forward).parameters
    )


def can_pack(model: Any) -> bool:
    """Whether texts can branch in one pass from the first token on, the image's included, as in decoders of Llama's kind.

    They can't with a sliding window, with three-dimensional positions (Qwen2-VL), or if the image's tokens see each other in
    both directions (Gemma 3).
    """
    text = model.config.get_text_config()
    windowed = getattr(text, "sliding_window", None) is not None and getattr(text, "use_sliding_window", True)
    return (
        can_branch(model)
        and text.model_type in _PACKABLE_MODEL_TYPES
        and "mrope_section" not in (getattr(text, "rope_parameters", None) or {})
        and not windowed
        and set(getattr(text, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and getattr(model.config, "image_token_id", None) is not None
    )
