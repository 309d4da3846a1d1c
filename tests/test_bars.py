"""The bars that the first release is held to, on fresh test-split scenes and on this machine."""

import pytest

from sam4mllm_tool.embedded import check
from tests.benchmarks import segment

pytestmark = pytest.mark.slow


def test_the_embedded_pair_holds_every_bar(capsys: pytest.CaptureFixture[str]) -> None:
    code = check.main(["--scenes", "300"])
    assert code == 0, capsys.readouterr().out


def test_one_segmentation_is_fast_and_small() -> None:
    seconds, gigabytes = segment.whole_processes()
    assert min(seconds) < 10, "whole process"
    assert max(gigabytes) < 1.5
    assert min(segment.after_loading()) < 1.5
