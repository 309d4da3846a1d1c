"""The measurement of the embedded pair counts as its docstring says."""

import json
from pathlib import Path

import numpy as np
import pytest

from sam4mllm_tool.embedded import check
from sam4mllm_tool.embedded.check import KindTally, format_table, measure_models, measure_segmenter
from sam4mllm_tool.embedded.everyday import KINDS, EverydayExpression, EverydayScene, ObjectPart
from sam4mllm_tool.embedded.requirements import METHODS, REQUIREMENTS
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED, Thresholds
from sam4mllm_tool.types import Box, Labels, Mask, Question, Reply, Size
from tests.embedded_world import ABSENT, TEST_SEEDS, draw_scene

WHOLE_IMAGE = EMBEDDED.encode_box(Box(0, 0, 256, 256), Size(256, 256))


def test_a_tally_sums_for_ciou_and_averages_for_giou() -> None:
    tally = KindTally(box_hits=[True, False], refused=[False, True], points=[(True, True), (False, True), (True, False)])
    tally.areas = {method: [(50, 100), (0, 0), (0, 100)] for method in METHODS}
    figures = tally.compute_figures()
    assert figures["box_acc"] == 0.5
    assert figures["passing"] == pytest.approx(2 / 3)
    assert figures["right_of_passing"] == 0.5
    assert figures["pqpp_cIoU"] == 0.25
    assert figures["pqpp_gIoU"] == pytest.approx((0.5 + 1 + 0) / 3)


def build_models(reply: str) -> Sam4Mllm:
    """Build a pair whose MLLM gives the same reply to every question but those about points."""

    def answer(question: Question) -> Reply:
        return Reply("yes" if "point on" in question.turns[-1].text else reply)

    return Sam4Mllm(ScriptedMLLM(answer), BoxSegmenter(), dialect=EMBEDDED, retries=0)


@pytest.fixture(scope="module")
def scenes() -> list[EverydayScene]:
    return [draw_scene(seed) for seed in range(TEST_SEEDS, TEST_SEEDS + 6)]


def test_a_model_that_refuses_everything_is_right_on_absent_objects_alone(scenes: list[EverydayScene]) -> None:
    figures = measure_models(build_models("no object"), scenes)
    assert figures[ABSENT]["refused"] == figures["present"]["refused"] == 1
    assert figures[ABSENT]["pqpp_gIoU"] == 1
    assert figures["single"]["box_acc"] == figures["all"]["pqpp_cIoU"] == 0


def test_unreadable_replies_count_as_misses_and_none_is_dropped(scenes: list[EverydayScene]) -> None:
    figures = measure_models(build_models("gibberish"), scenes)
    assert figures["single"]["box_acc"] == figures["all"]["box_cIoU"] == 0
    assert set(figures) >= set(KINDS)


def test_the_whole_image_as_box_scores_the_objects_share_of_it(scenes: list[EverydayScene]) -> None:
    figures = measure_models(build_models(WHOLE_IMAGE), scenes)
    assert figures[ABSENT]["refused"] == 0
    assert 0 < figures["implicit"]["box_cIoU"] < 0.3
    table = format_table(figures)
    assert all(kind in table for kind in KINDS)


def test_ppg_without_points_counts_as_a_fallback_and_no_question_is_repeated(scenes: list[EverydayScene]) -> None:
    models = build_models(WHOLE_IMAGE)
    assert measure_models(models, scenes[:1])["all"]["ppg_fallback"] == 1
    assert isinstance(models.mllm, ScriptedMLLM)
    assert len(set(models.mllm.questions)) == len(models.mllm.questions)
    assert measure_models(build_models("no object"), scenes[:1])["all"]["ppg_fallback"] == 0


@pytest.mark.parametrize(
    ("thresholds", "share"),
    [pytest.param(Thresholds(), 1, id="the paper's"), pytest.param(Thresholds(0.85, 0.9), 0, id="stricter than the replies")],
)
def test_points_are_kept_by_the_thresholds_of_the_models(
    scenes: list[EverydayScene], thresholds: Thresholds, share: float
) -> None:
    def answer(question: Question) -> Reply:
        return Reply("yes", ((0.8, 0.2),)) if isinstance(question.answer, Labels) else Reply(WHOLE_IMAGE)

    models = Sam4Mllm(ScriptedMLLM(answer), BoxSegmenter(), dialect=EMBEDDED, thresholds=thresholds, retries=0)
    assert measure_models(models, scenes[:1])["all"]["passing"] == share


def test_every_requirement_reads_a_figure_that_is_measured(scenes: list[EverydayScene]) -> None:
    models = build_models(WHOLE_IMAGE)
    figures = measure_models(models, scenes)
    figures["segmenter"] = measure_segmenter(models, scenes[:1])
    assert all(np.isfinite(requirement.value(figures)) for requirement in REQUIREMENTS)


def test_the_command_prints_the_table_and_fails_for_an_unmet_requirement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_: build_models("no object"))
    assert check.main(["--scenes", "6", "--json", str(tmp_path / "figures.json")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["box_acc", "refused", "points"]
    limits = {required.description: required.limit for required in REQUIREMENTS}
    absent = [f"ok    {name}: 1.000 (>= {limit:.2f})" for name, limit in limits.items() if "absen" in name]
    assert [line for line in lines if line.startswith("ok ")] == absent != []
    assert "MISS  present refused: 1.000 (<= 0.03)" in lines
    right = "points that pass the thresholds, right"
    assert f"MISS  {right}: nan (>= {limits[right]:.2f})" in lines, "no point was answered"
    assert json.loads((tmp_path / "figures.json").read_text())["present"]["refused"] == 1


def test_points_are_labelled_by_the_part_that_the_expression_means(
    scenes: list[EverydayScene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = scenes[0]
    part = next(i for i, region in enumerate(scene.regions) if isinstance(region, ObjectPart))
    monkeypatch.setattr(check, "sample_expressions", lambda *_: [EverydayExpression("the part", "part", (part,))])
    reply = EMBEDDED.encode_box(scene.regions[part].box, Size(256, 256))
    figures = measure_models(build_models(reply), [scene])
    inside = crop(scene.mask(part), scene.regions[part].box)
    assert figures["parts"]["box_acc"] == 1
    assert figures["part"]["points"] == pytest.approx(inside.mean(), abs=0.25), "every answer is yes"


def crop(mask: Mask, box: Box) -> Mask:
    x1, y1, x2, y2 = map(int, box)
    return mask[y1:y2, x1:x2]
