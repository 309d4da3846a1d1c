"""Compare results of the same question."""

from typing import Any

import pytest

from sam4mllm_tool.types import Segmentation


def assert_equal_but_for_rounding(result: Segmentation, expected: Segmentation) -> None:
    """Check that results are equal but for timings, and for rounding in their numbers: it depends on what is computed together.

    Segment Anything's decoder runs the prompts of all expressions about an image at once, and an MLLM reads what it is asked at
    the same time in one pass.
    """
    assert_equal_json(_without_seconds(result), _without_seconds(expected))


def _without_seconds(result: Segmentation) -> dict[str, Any]:
    return {key: value for key, value in result.to_dict().items() if key != "seconds"}


def assert_equal_json(value: Any, expected: Any, place: str = "result") -> None:
    """Check that values of JSON are equal but for rounding."""
    if isinstance(value, dict) and isinstance(expected, dict):
        assert value.keys() == expected.keys(), place
        for key in value:
            assert_equal_json(value[key], expected[key], f"{place}.{key}")
    elif isinstance(value, list) and isinstance(expected, list):
        assert len(value) == len(expected), place
        for i, pair in enumerate(zip(value, expected, strict=True)):
            assert_equal_json(*pair, f"{place}[{i}]")
    elif isinstance(value, float) and isinstance(expected, float):
        assert value == pytest.approx(expected, abs=1e-5), f"{place}: {value} in place of {expected}"
    else:
        assert value == expected, place
