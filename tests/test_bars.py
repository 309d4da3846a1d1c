"""What the embedded pair must reach on test-split scenes, and what one segmentation may cost."""

import statistics

import pytest

from sam4mllm_tool.embedded.check import REQUIREMENTS, measure_pair
from sam4mllm_tool.embedded.scenes import TEST_SEEDS
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.benchmarks import segment


@pytest.mark.slow
def test_the_embedded_pair_meets_its_requirements_on_300_scenes() -> None:
    figures = measure_pair(Sam4Mllm.load("embedded", "embedded"), range(TEST_SEEDS, TEST_SEEDS + 300))
    assert not {required.description: required.value(figures) for required in REQUIREMENTS if not required.holds(figures)}


@pytest.mark.slow
def test_one_segmentation_is_fast_and_small() -> None:
    seconds, gigabytes = segment.measure_processes()
    assert statistics.median(seconds) < 10, "whole process"
    assert max(gigabytes) < 1.5
    assert statistics.median(segment.measure_calls()) < 1.5
