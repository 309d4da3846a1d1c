"""The bars that the embedded pair is held to, on 300 fresh test-split scenes, and what one segmentation may cost."""

import statistics

import pytest

from sam4mllm_tool.embedded.check import BARS, measure, measure_segmenter
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, draw_scene
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.benchmarks import segment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, float]]:
    models = Sam4Mllm.load("embedded", "embedded")
    seeds = range(TEST_SEEDS, TEST_SEEDS + 300)
    measured = measure(models, (draw_scene(seed) for seed in seeds))
    return measured | {"segmenter": {"mean_iou": measure_segmenter(models, (draw_scene(seed) for seed in seeds))}}


@pytest.mark.parametrize("bar", [pytest.param(bar, id=bar[0]) for bar in BARS])
def test_the_embedded_pair_holds_the_bar(bar, figures: dict[str, dict[str, float]]) -> None:
    _, figure, way, limit = bar
    value = figure(figures)
    assert {">=": value >= limit, ">": value > limit, "<=": value <= limit}[way], value


def test_one_segmentation_is_fast_and_small() -> None:
    seconds, gigabytes = segment.measure_processes()
    assert statistics.median(seconds) < 10, "whole process"
    assert max(gigabytes) < 1.5
    assert statistics.median(segment.measure_calls()) < 1.5
