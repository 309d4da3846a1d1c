"""What the embedded pair must reach on test-split scenes, and the memory that one segmentation may take."""

import pytest

from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.check import measure_pair
from sam4mllm_tool.embedded.requirements import REQUIREMENTS
from tests.benchmarks import segment


@pytest.mark.slow
def test_the_embedded_pair_meets_its_requirements_on_300_scenes() -> None:
    # In two processes, and by two expressions a scene in place of seven: it takes longer than any other test.
    seeds = range(TEST_SEEDS, TEST_SEEDS + 300)
    figures = measure_pair("embedded", "embedded", seeds, expressions=2, processes=2)
    assert not {required.description: required.value(figures) for required in REQUIREMENTS if not required.holds(figures)}


@pytest.mark.slow
def test_one_segmentation_fits_in_little_memory() -> None:  # `python -m tests.benchmarks.segment` prints its seconds
    _, gigabytes = segment.measure_processes(runs=1)
    assert max(gigabytes) < 1.5
