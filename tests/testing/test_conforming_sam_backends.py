"""The Segment Anything backends pass the public conformance suite, on tiny checkpoints in their real formats."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.models.segmenter.segment_anything import SegmentAnythingSegmenter
from sam4mllm_tool.testing import ConformanceCase, SegmenterConformance, draw_conformance_cases
from sam4mllm_tool.types import Segmenter
from tests.models.segmenter.test_segment_anything import build_tiny, needs_package
from tests.sam2_checkpoints import SAVED
from tests.sam_checkpoints import randomise_weights, save_sam, save_sam_hq
from tests.video_checkpoints import needs_torchvision

load_once = cache(load_segmenter)


class SamConformance(SegmenterConformance):
    """Checks with one object of each size, since untrained models know none."""

    def make_cases(self) -> Sequence[ConformanceCase]:
        cases = draw_conformance_cases()
        return (*cases[:12:3], cases[-1])


@pytest.fixture(scope="session", params=[save_sam, save_sam_hq], ids=["sam", "sam_hq"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved: Path = request.param(tmp_path_factory.mktemp("weights"))
    return saved


class TestTransformersSegmenters(SamConformance):
    @pytest.fixture(autouse=True)
    def _use(self, folder: Path) -> None:
        self._folder = folder

    def make_backend(self) -> Segmenter:
        return load_once(str(self._folder))


@pytest.fixture(scope="session", params=[name for name in SAVED if name != "edgetam"])
def newer_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved: Path = SAVED[request.param](tmp_path_factory.mktemp(request.param))
    return saved


@needs_torchvision
@pytest.mark.filterwarnings("ignore:.*timm.*")
class TestTransformersSegmentersThatNeedTorchvision(SamConformance):
    @pytest.fixture(autouse=True)
    def _use(self, newer_folder: Path) -> None:
        self._folder = newer_folder

    def make_backend(self) -> Segmenter:
        return load_once(str(self._folder))


@needs_package
class TestSegmentAnythingSegmenter(SamConformance):
    def make_backend(self) -> Segmenter:
        return _build_segment_anything()


@cache
def _build_segment_anything() -> Segmenter:
    model = build_tiny().eval()
    randomise_weights(model)
    return SegmentAnythingSegmenter(model)
