"""Boxes as the families write them, by their own documentation where it says so, and not by our codecs: to test these by."""

import math
from collections.abc import Callable, Sequence

from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from sam4mllm_tool.types import Box, Size

__all__ = ["NATIVE_ANSWERS", "QWEN_RESIZING", "SIZES"]

SIZES = (Size(640, 480), Size(333, 777), Size(1920, 1080), Size(224, 224), Size(3001, 1999))
QWEN_RESIZING = (28, 56 * 56, 28 * 28 * 1280)
"""Multiple of the sides, least and most pixels, as in the configs of Qwen2.5-VL."""

Answer = Callable[[Box, Size], str]


def _scale(box: Box, size: Size, end: float) -> list[float]:
    return [value / side * end for value, side in zip(box, (*size, *size), strict=True)]


def _integers(box: Box, size: Size, end: int) -> list[int]:
    """Rounded down, as most converters of data sets do it."""
    return [int(value) for value in _scale(box, size, end)]


def _steps(box: Box, size: Size, count: int) -> list[int]:
    return [min(int(value), count - 1) for value in _scale(box, size, count)]


def _y_first(values: Sequence[int]) -> tuple[int, ...]:
    x1, y1, x2, y2 = values
    return y1, x1, y2, x2


def _processed(box: Box, size: Size) -> list[int]:
    """Pixels of the image after Qwen's resizing."""
    height, width = smart_resize(size.height, size.width, *QWEN_RESIZING)
    return [round(share * side) for share, side in zip(_scale(box, size, 1), (width, height) * 2, strict=True)]


def _shrunk(box: Box, size: Size) -> list[int]:
    """Pixels of the image after the resizing that Claude's documentation describes."""
    shrink = min(1.0, 1568 / max(size), math.sqrt(1_150_000 / (size.width * size.height)))
    return [round(value * shrink) for value in box]


def _fitted(box: Box, size: Size) -> list[int]:
    """Pixels of the image after the two steps that OpenAI's documentation describes."""
    shrink = min(1.0, 2048 / max(size))
    shrink *= min(1.0, 768 / (min(size) * shrink))
    return [round(value * shrink) for value in box]


NATIVE_ANSWERS: dict[str, Answer] = {
    "released": lambda box, size: "\n[{:03d},{:03d},{:03d},{:03d}]".format(*_steps(box, size, 1000)),
    "plain": lambda box, size: "[{},{},{},{}]".format(*_steps(box, size, 1000)),
    "qwen2_vl": lambda box, size: "<|box_start|>({},{}),({},{})<|box_end|>".format(*_integers(box, size, 1000)),
    "qwen2_5_vl": lambda box, size: f'```json\n[{{"bbox_2d": {_processed(box, size)}, "label": "ring"}}]\n```',
    "qwen3_vl": lambda box, size: f'```json\n[{{"bbox_2d": {_integers(box, size, 1000)}, "label": "ring"}}]\n```',
    "internvl": lambda box, size: f"<ref>ring</ref><box>[{_integers(box, size, 1000)}]</box>",
    "glm4v": lambda box, size: f"It is at <|begin_of_box|>[{_integers(box, size, 1000)}]<|end_of_box|>.",
    "gemma": lambda box, size: f'[{{"box_2d": {list(_y_first(_integers(box, size, 1000)))}, "label": "ring"}}]',
    "paligemma": lambda box, size: "".join(f"<loc{step:04d}>" for step in _y_first(_steps(box, size, 1024))) + " ring",
    "florence2": lambda box, size: "ring" + "".join(f"<loc_{step}>" for step in _steps(box, size, 1000)),
    "molmo": lambda box, size: '<points x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" alt="ring">ring</points>'.format(
        *_scale(box, size, 100)
    ),
    "molmo2": lambda box, size: '<points coords="1 1 {:03d} {:03d} 2 {:03d} {:03d}">ring</points>'.format(
        *_integers(box, size, 1000)
    ),
    "kimi_vl": lambda box, size: '{{"bbox_2d": [{:.3f}, {:.3f}, {:.3f}, {:.3f}]}}'.format(*_scale(box, size, 1)),
    "llava": lambda box, size: "[{:.2f}, {:.2f}, {:.2f}, {:.2f}]".format(*_scale(box, size, 1)),
    "idefics": lambda box, size: "[{:.3f}, {:.3f}, {:.3f}, {:.3f}]".format(*_scale(box, size, 1)),
    "mistral": lambda box, size: f"The ring is at {_integers(box, size, 1000)}.",
    "claude": lambda box, size: f'[{{"box": {_shrunk(box, size)}, "label": "ring"}}]',
    "gpt": lambda box, size: f'[{{"box": {_fitted(box, size)}, "label": "ring"}}]',
}
"""By the dialect's name. Those of Idefics, Mistral, Kimi, Claude and GPT are assumptions, with no published format behind."""
