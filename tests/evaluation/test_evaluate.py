"""What an evaluation records of each sample, how it treats failures, and when it refuses a folder or a dataset."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.config import SegmentationConfig
from sam4mllm_tool.errors import BackendError, DataError
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import Reply
from tests.data.layouts import HEIGHT, WIDTH, rectangle, write_image, write_json
from tests.evaluation.evaluation_helpers import (
    box_reply,
    read_reports,
    read_samples,
    sample_line,
    scripted_models,
    write_samples,
)

SQUARE, TALL, WIDE = (4, 3, 24, 18), (28, 3, 36, 27), (4, 21, 24, 27)


def box_config(root: Path, **settings) -> EvaluationConfig:
    return EvaluationConfig("jsonl", root, **{"method": "box", **settings})


def square_models(yes: float = 0.8):
    return scripted_models(lambda _: box_reply(*SQUARE), yes)


def error_types(samples: list[dict]) -> list[str]:
    return [(sample["error"] or "").partition(":")[0] for sample in samples]


# Records ------------------------------------------------------------------------------------------------------------


def test_a_record_holds_counts_answers_mask_and_seconds(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("square", SQUARE, kind="shape"))
    models = scripted_models(lambda _: box_reply(4, 3, 24, 12))  # 20 x 9 of 20 x 15
    metrics = evaluate(box_config(root, method="pqpp"), tmp_path / "out", models=models)
    (sample,) = read_samples(tmp_path / "out", timed=True)
    assert (sample["id"], sample["kind"], sample["size"]) == ("square", "shape", "large")
    assert (sample["I"], sample["U"], sample["IoU"]) == (180, 300, 0.6)
    assert (sample["truth"], sample["predicted"], sample["stated_none"], sample["error"]) == (300, 180, False, None)
    assert sample["box_hit"] is True
    assert (len(sample["points"]), sample["questions"], sample["tokens"]) == (25, 2, None)
    assert {point["confidence"] for point in sample["points"]} == {0.8}
    assert {point["truth"] for point in sample["points"]} == {1}
    assert [(predicted["right"], predicted["iou"]) for predicted in sample["objects"]] == [(True, 0.6)]
    assert np.array_equal(rle.decode(sample["mask"]), rectangle(4, 3, 24, 12))
    assert set(sample["seconds"]) == {"mllm", "segmenter"}
    assert metrics["cIoU"] == metrics["mIoU"] == 0.6
    assert (metrics["Pr@0.5"], metrics["Pr@0.6"]) == (1, 0)
    assert metrics["point ECE"] == pytest.approx(0.2)
    assert "N-acc" not in metrics
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


def test_warnings_of_results_are_kept_and_counted(tmp_path: Path) -> None:
    class Warned(ScriptedMLLM):
        def check_image(self, image: Image.Image) -> str | None:
            return "unlike anything known" if image.getpixel((0, 0)) == (0, 0, 0) else None

    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE, image="black.png"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "black.png")
    models = Sam4Mllm(Warned(lambda _: Reply(box_reply(*SQUARE)), greedy=True), BoxSegmenter(), dialect=JOINT)
    metrics = evaluate(box_config(root), tmp_path / "out", models=models)
    assert [sample["warnings"] for sample in read_samples(tmp_path / "out")] == [[], ["unlike anything known"]]
    assert metrics["warnings"] == ["1 of 2 samples: unlike anything known"]
    assert "Warning: 1 of 2 samples: unlike anything known." in (tmp_path / "out" / "report.md").read_text()


def test_timings_sum_over_the_steps(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE))
    evaluate(box_config(root), tmp_path / "out", models=square_models())
    recorded = [sample["seconds"] for sample in read_samples(tmp_path / "out", timed=True)]
    timings = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert set(timings) == {"mllm", "segmenter", "all"}
    for step in ("mllm", "segmenter"):
        assert timings[step]["mean"] == pytest.approx(sum(seconds[step] for seconds in recorded) / 2)
    assert timings["all"]["mean"] == pytest.approx(timings["mllm"]["mean"] + timings["segmenter"]["mean"])


def test_metrics_are_grouped_by_kind_and_by_size(tmp_path: Path) -> None:
    dot = (5, 5, 7, 7)
    lines = (sample_line("a", SQUARE, kind="shape"), sample_line("b", TALL, kind="shape"), sample_line("c", dot))
    root = write_samples(tmp_path, *lines, sample_line("d"))
    replies = {"a": box_reply(*SQUARE), "b": box_reply(*SQUARE), "c": box_reply(*dot), "d": "no such object"}
    metrics = evaluate(box_config(root), tmp_path / "out", models=scripted_models(replies.__getitem__))
    assert metrics["gIoU"] == 0.75
    by_kind = {kind: (group["samples"], group["gIoU"]) for kind, group in metrics["by_kind"].items()}
    assert by_kind == {"all": (2, 1), "shape": (2, 0.5)}
    assert {size: group["samples"] for size, group in metrics["by_size"].items()} == {"small": 1, "large": 2, "none": 1}
    assert metrics["by_size"]["none"]["gIoU"] == 1
    assert "cIoU" not in metrics["by_size"]["none"]
    low, high = metrics["intervals"]["gIoU"]
    assert low < 0.75 < high


def test_points_are_scored_against_the_object_of_their_box(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("both", SQUARE, TALL), sample_line("wrong", WIDE))
    replies = {"both": f"{box_reply(*SQUARE)} {box_reply(*TALL)}", "wrong": box_reply(*TALL)}
    metrics = evaluate(box_config(root, method="pqpp"), tmp_path / "out", models=scripted_models(replies.__getitem__))
    both, wrong = read_samples(tmp_path / "out")
    assert len(both["points"]) == 50
    assert all(point["truth"] == 1 and point["right_box"] and point["kept"] for point in both["points"])
    assert all(point["truth"] == 0 and not point["right_box"] for point in wrong["points"])
    assert metrics["point accuracy"] == pytest.approx(50 / 75)
    assert metrics["point accuracy, right box"] == 1
    assert [predicted["right"] for predicted in both["objects"]] == [True, True]
    assert [predicted["right"] for predicted in wrong["objects"]] == [False]
    assert "object ECE" not in metrics, "the paper's methods give no confidence"


def test_point_answers_below_the_thresholds_are_recorded_too(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("square", SQUARE))
    evaluate(box_config(root, method="pqpp"), tmp_path / "out", models=square_models(yes=0.6))
    (sample,) = read_samples(tmp_path / "out")
    assert [(point["kept"], point["confidence"]) for point in sample["points"]] == [(False, 0.6)] * 25


def test_points_written_by_ppg_are_answers_without_a_confidence(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("square", SQUARE))
    across, down = 1000 / WIDTH, 1000 / HEIGHT
    points = [f"({round(x * across):03d},{round(y * down):03d})" for x, y in ((6, 6), (20, 15), (26, 4))]
    reply = f"{box_reply(*SQUARE)} on {points[0]} {points[1]} off {points[2]}"
    metrics = evaluate(box_config(root, method="ppg"), tmp_path / "out", models=scripted_models(lambda _: reply))
    (sample,) = read_samples(tmp_path / "out")
    answers = [(point["label"], point["truth"], point["confidence"]) for point in sample["points"]]
    assert answers == [(1, 1, None), (1, 1, None), (0, 0, None)]
    assert metrics["point accuracy"] == 1
    assert "point ECE" not in metrics


def test_the_protocol_decides_whether_ignored_pixels_are_skipped_or_target(tmp_path: Path) -> None:
    ignore = rle.encode(rectangle(4, 12, 24, 18))
    root = write_samples(tmp_path, sample_line("upper half", (4, 3, 24, 12), ignore=ignore))
    for protocol, truths in {"lisa": {1, None}, "seg-zero": {1}}.items():
        config = box_config(root, method="pqpp", protocol=protocol)
        metrics = evaluate(config, tmp_path / protocol, models=square_models())
        (sample,) = read_samples(tmp_path / protocol)
        assert {point["truth"] for point in sample["points"]} == truths
        assert metrics["cIoU"] == metrics["point accuracy"] == sample["objects"][0]["iou"] == 1
    upper = scripted_models(lambda _: box_reply(4, 3, 24, 12))
    assert evaluate(box_config(root, protocol="lisa"), tmp_path / "a", models=upper)["cIoU"] == 1
    assert evaluate(box_config(root, protocol="seg-zero"), tmp_path / "b", models=upper)["cIoU"] == 180 / 300


# Failures -----------------------------------------------------------------------------------------------------------


def test_a_failed_sample_is_a_miss_and_is_not_dropped(tmp_path: Path) -> None:
    replies = {"good": box_reply(*SQUARE), "mumble": "hm", "none": "no such object", "mumble at nothing": "hm"}

    def reply(expression: str) -> str:
        if expression == "crash":
            raise RuntimeError("the model broke")
        return replies[expression]

    lines = [sample_line("good", SQUARE), sample_line("mumble", TALL), sample_line("crash", WIDE)]
    lines += [sample_line("none"), sample_line("mumble at nothing"), sample_line("x" * 3000, SQUARE)]
    metrics = evaluate(box_config(write_samples(tmp_path, *lines)), tmp_path / "out", models=scripted_models(reply))
    samples = read_samples(tmp_path / "out")
    assert [sample["id"][:17] for sample in samples] == ["good", "mumble", "crash", "none", "mumble at nothing", "x" * 17]
    assert error_types(samples) == ["", "ReplyError", "BackendError", "", "ReplyError", "ExpressionError"]
    assert [sample["IoU"] for sample in samples] == [1, 0, 0, 1, 0, 0]
    assert (metrics["samples"], metrics["misses"]["count"]) == (6, 4)
    assert metrics["cIoU"] == 300 / (300 + 192 + 120 + 300)
    assert metrics["gIoU"] == pytest.approx(2 / 6)
    assert metrics["box Acc@0.5"] == 0.25
    assert "4 samples have no prediction" in (tmp_path / "out" / "report.md").read_text()


def test_a_crash_leaves_the_other_expressions_of_its_image_unchanged(tmp_path: Path) -> None:
    def reply(expression: str) -> str:
        if expression == "b":
            raise ValueError("odd")
        return box_reply(*SQUARE)

    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE), sample_line("c", SQUARE))
    evaluate(box_config(root, method="pqpp"), tmp_path / "out", models=scripted_models(reply))
    samples = read_samples(tmp_path / "out")
    assert [sample["IoU"] for sample in samples] == [1, 0, 1]
    assert [len(sample["points"]) for sample in samples] == [25, 0, 25]


def test_an_evaluation_fails_if_every_sample_fails(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", TALL))
    with pytest.raises(BackendError, match=r"none of the 2 samples was answered.*ReplyError"):
        evaluate(box_config(root), tmp_path / "out", models=scripted_models(lambda _: "hm"))


def test_a_damaged_image_is_a_miss(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE, image="two.png"))
    content = (root / "one.png").read_bytes()
    (root / "two.png").write_bytes(content[: len(content) // 2])
    evaluate(box_config(root), tmp_path / "out", models=square_models())
    assert error_types(read_samples(tmp_path / "out")) == ["", "ImageError"]


def test_a_sample_whose_truth_cannot_be_decoded_is_reported_and_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sam4mllm_tool.data.sample import Sample

    decode = Sample.masks

    def masks(self: Sample):
        if self.id == "b":
            raise DataError("the mask is torn")
        return decode(self)

    monkeypatch.setattr(Sample, "masks", masks)
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE), sample_line("c", SQUARE))
    metrics = evaluate(box_config(root), tmp_path / "out", models=square_models())
    assert (metrics["samples"], metrics["cIoU"], metrics["dropped"]) == (2, 1, ["b: the mask is torn"])
    assert "1 sample can't be scored" in (tmp_path / "out" / "report.md").read_text()


def test_samples_that_the_reader_dropped_are_reported(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("", SQUARE))
    metrics = evaluate(box_config(root), tmp_path / "out", models=square_models())
    (line,) = metrics["read"]["counts"]
    assert line.startswith("1 dropped: the expression is empty")


# Orders and folders -------------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_samples(tmp_path: Path) -> None:
    root = write_samples(tmp_path, *(sample_line(f"sample {n}", SQUARE) for n in range(5)))
    evaluate(box_config(root, limit=2), tmp_path / "out", models=square_models())
    assert [sample["id"] for sample in read_samples(tmp_path / "out")] == ["sample 0", "sample 1"]


def test_a_finished_evaluation_only_gets_its_reports_written_again(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", TALL))
    evaluate(box_config(root), tmp_path / "out", models=square_models())
    before = read_reports(tmp_path / "out")
    (tmp_path / "out" / "report.html").unlink()

    models = scripted_models(lambda _: "no such object")
    evaluate(box_config(root), tmp_path / "out", models=models)
    assert not models.mllm.questions
    assert read_reports(tmp_path / "out") == before


def test_a_folder_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE))
    models = square_models()
    evaluate(box_config(root), tmp_path / "out", models=models)
    with pytest.raises(DataError, match=r"another evaluation \(limit, protocol differ\)"):
        evaluate(box_config(root, protocol="lisa", limit=1), tmp_path / "out", models=models)
    (tmp_path / "out" / "order.json").unlink()
    with pytest.raises(DataError, match="unknown evaluation"):
        evaluate(box_config(root), tmp_path / "out", models=models)


def test_an_evaluation_that_never_started_does_not_claim_its_folder(tmp_path: Path) -> None:
    root = write_samples(tmp_path / "data", sample_line("a", SQUARE))
    with pytest.raises(DataError, match="nowhere"):
        evaluate(box_config(tmp_path / "nowhere"), tmp_path / "out", models=square_models())
    assert evaluate(box_config(root), tmp_path / "out", models=square_models())["cIoU"] == 1


def test_an_unfinished_run_over_other_samples_is_refused(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", SQUARE))
    models = square_models()
    evaluate(box_config(root), tmp_path / "out", models=models)
    (tmp_path / "out" / "samples.jsonl").rename(tmp_path / "out" / "samples.jsonl.part")
    write_samples(tmp_path, sample_line("other", SQUARE), sample_line("b", SQUARE))
    with pytest.raises(DataError, match="has 'a' where the dataset has 'other'"):
        evaluate(box_config(root), tmp_path / "out", models=models)


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    root = write_samples(tmp_path, sample_line("a", SQUARE), sample_line("b", TALL, id="a"))
    with pytest.raises(DataError, match="two samples of jsonl:val have the id 'a'"):
        evaluate(box_config(root), tmp_path / "out", models=square_models())


def test_a_dataset_without_masks_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "000000000001.jpg")
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "that"}]
    write_json(tmp_path / "conversations.json", [{"id": "0", "image": "000000000001.jpg", "conversations": turns}])
    with pytest.raises(DataError, match="no expressions with masks"):
        evaluate(EvaluationConfig("vqa", tmp_path, split="train"), tmp_path / "out", models=square_models())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"protocol": "coco"}, "no protocol is called 'coco'; there are refcoco, lisa"),
        ({"method": "magic"}, "no method is called 'magic'"),
        ({"limit": 0}, "limit and threads of at least 1, got 0 and 1"),
    ],
)
def test_invalid_settings_are_refused_at_once(tmp_path: Path, settings: dict, match: str) -> None:
    with pytest.raises(DataError, match=match):
        box_config(tmp_path, **settings)


def test_a_model_spec_takes_single_settings_and_a_deprecated_name() -> None:
    models = ModelSpec(abstain=0.3, refine_crops=False)
    assert models.config == SegmentationConfig(abstain=0.3, refine_crops=False)
    assert pickle.loads(pickle.dumps(models)) == models
    described = models.describe()
    assert (described["abstain"], described["closer"], described["retries"]) == (0.3, False, 2)
    with pytest.warns(DeprecationWarning, match="'closer' is now 'refine_crops'"):
        assert ModelSpec(abstain=0.3, closer=False) == models


def test_an_order_names_max_points_only_where_it_is_not_the_default() -> None:
    assert "max_points" not in ModelSpec().describe()
    assert ModelSpec(max_points=9).describe()["max_points"] == 9
