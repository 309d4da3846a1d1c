"""The measurement of the embedded pair counts as its docstring says."""

import numpy as np
import pytest

from sam4mllm_tool.embedded.check import BARS, METHODS, Tally, measure, table
from sam4mllm_tool.embedded.expressions import KINDS
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED, Thresholds
from sam4mllm_tool.types import Box, Labels, Question, Reply, Size


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        (Box(0, 0, 2, 2), Box(0, 0, 2, 2), 1.0),
        (Box(0, 0, 2, 2), Box(1, 0, 3, 2), 1 / 3),
        (Box(0, 0, 2, 2), Box(2, 0, 4, 2), 0.0),
        (Box(0, 0, 4, 4), Box(1, 1, 2, 2), 1 / 16),
    ],
    ids=["same", "half over", "side by side", "inside"],
)
def test_box_iou(a: Box, b: Box, iou: float) -> None:
    assert a.iou(b) == pytest.approx(iou)


def test_tally_sums_for_ciou_and_averages_for_giou() -> None:
    tally = Tally(boxes=[True, False], refused=[False, True], points=[(True, True), (False, True), (True, False)])
    tally.overlaps = {method: [(50, 100), (0, 0), (0, 100)] for method in METHODS}
    figures = tally.figures()
    assert figures["box_acc"] == 0.5
    assert figures["passing"] == pytest.approx(2 / 3)
    assert figures["right_of_passing"] == 0.5
    assert figures["pqpp_cIoU"] == 0.25
    assert figures["pqpp_gIoU"] == pytest.approx((0.5 + 1 + 0) / 3)


def _models(reply: str) -> Sam4Mllm:
    def answer(question: Question) -> Reply:
        return Reply("yes" if "point on" in question.turns[-1].text else reply)

    return Sam4Mllm(ScriptedMLLM(answer), BoxSegmenter(), dialect=EMBEDDED, retries=0)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed) for seed in range(6)]


def test_a_model_that_never_finds_anything_is_right_on_absent_ones_alone(scenes: list[Scene]) -> None:
    figures = measure(_models("no object"), scenes)
    assert figures["absent"]["refused"] == figures["present"]["refused"] == 1
    assert figures["absent"]["pqpp_gIoU"] == 1
    assert figures["single"]["box_acc"] == figures["all"]["pqpp_cIoU"] == 0


def test_unreadable_replies_count_as_misses_and_none_is_dropped(scenes: list[Scene]) -> None:
    figures = measure(_models("gibberish"), scenes)
    assert figures["single"]["box_acc"] == figures["all"]["box_cIoU"] == 0
    assert set(figures) >= set(KINDS)


def test_the_whole_picture_as_a_box_scores_the_objects_share_of_it(scenes: list[Scene]) -> None:
    size = Size(256, 256)
    figures = measure(_models(EMBEDDED.encode_box(Box(0, 0, 256, 256), size)), scenes)
    assert figures["absent"]["refused"] == 0
    assert 0 < figures["implicit"]["box_cIoU"] < 0.3
    rendered = table(figures)
    assert all(kind in rendered for kind in KINDS)


def test_ppg_without_points_counts_as_fallen_back_and_no_question_is_asked_twice(scenes: list[Scene]) -> None:
    models = _models(EMBEDDED.encode_box(Box(0, 0, 256, 256), Size(256, 256)))
    assert measure(models, scenes[:1])["all"]["ppg_fallback"] == 1
    assert isinstance(models.mllm, ScriptedMLLM)
    assert len(set(models.mllm.questions)) == len(models.mllm.questions)
    assert measure(_models("no object"), scenes[:1])["all"]["ppg_fallback"] == 0


def test_points_pass_the_thresholds_that_the_models_are_used_with(scenes: list[Scene]) -> None:
    def answer(question: Question) -> Reply:
        if isinstance(question.answer, Labels):
            return Reply("yes", ((0.8, 0.2),))
        return Reply(EMBEDDED.encode_box(Box(0, 0, 256, 256), Size(256, 256)))

    for thresholds, share in ((Thresholds(), 1), (Thresholds(0.85, 0.9), 0)):
        models = Sam4Mllm(ScriptedMLLM(answer), BoxSegmenter(), dialect=EMBEDDED, thresholds=thresholds, retries=0)
        assert measure(models, scenes[:1])["all"]["passing"] == share


def test_every_bar_reads_a_figure_that_is_measured(scenes: list[Scene]) -> None:
    figures = measure(_models(EMBEDDED.encode_box(Box(0, 0, 256, 256), Size(256, 256))), scenes)
    figures["segmenter"] = {"mean_iou": 0.5}
    assert all(np.isfinite(figure(figures)) for _, figure, _, _ in BARS)
