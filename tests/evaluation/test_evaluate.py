"""What an evaluation keeps of each sample, what it makes of failures, and that its files can be trusted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sam4mllm_tool.errors import BackendError, DataError
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate
from sam4mllm_tool.evaluation.report import heading
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.checkpoints import embedded_folder
from tests.data.layouts import HEIGHT, WIDTH, rectangle, write_json, write_picture
from tests.evaluation.evaluated import line, reports_of, samples_of, scripted, told, write_lines

SQUARE, TALL, WIDE = (4, 3, 24, 18), (28, 3, 36, 27), (4, 21, 24, 27)


def config(root: Path, **more) -> EvaluationConfig:
    return EvaluationConfig("jsonl", root, **{"method": "box", **more})


def test_a_line_tells_all_of_a_sample(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("square", SQUARE, kind="shape"))
    models = scripted(lambda _: told(4, 3, 24, 12))  # 20 x 9 of 20 x 15
    metrics = evaluate(config(root, method="pqpp"), tmp_path / "out", models=models)
    (sample,) = samples_of(tmp_path / "out", timed=True)
    assert (sample["id"], sample["kind"], sample["size"]) == ("square", "shape", "large")
    assert (sample["I"], sample["U"], sample["IoU"]) == (180, 300, 0.6)
    assert (sample["truth"], sample["predicted"], sample["stated_none"], sample["error"]) == (300, 180, False, None)
    assert sample["box_hit"] is True
    assert (len(sample["points"]), sample["questions"], sample["tokens"]) == (25, 2, None)
    assert {point["confidence"] for point in sample["points"]} == {0.8}
    assert {point["truth"] for point in sample["points"]} == {1}
    assert [(one["right"], one["iou"]) for one in sample["objects"]] == [(True, 0.6)]
    assert np.array_equal(rle.decode(sample["mask"]), rectangle(4, 3, 24, 12))
    assert set(sample["seconds"]) == {"mllm", "segmenter"}
    assert metrics["cIoU"] == metrics["mIoU"] == 0.6
    assert (metrics["Pr@0.5"], metrics["Pr@0.6"]) == (1, 0)
    assert metrics["point ECE"] == pytest.approx(0.2)
    assert "N-acc" not in metrics
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics


def test_figures_come_by_kind_and_by_size(tmp_path: Path) -> None:
    dot = (5, 5, 7, 7)
    root = write_lines(tmp_path, line("a", SQUARE, kind="shape"), line("b", TALL, kind="shape"), line("c", dot), line("d"))
    boxes = {"a": told(*SQUARE), "b": told(*SQUARE), "c": told(*dot), "d": "no such object"}
    metrics = evaluate(config(root), tmp_path / "out", models=scripted(boxes.__getitem__))
    assert metrics["gIoU"] == 0.75
    assert {kind: (part["samples"], part["gIoU"]) for kind, part in metrics["by_kind"].items()} == {
        "all": (2, 1),
        "shape": (2, 0.5),
    }
    assert {size: part["samples"] for size, part in metrics["by_size"].items()} == {"small": 1, "large": 2, "none": 1}
    assert metrics["by_size"]["none"]["gIoU"] == 1
    assert "cIoU" not in metrics["by_size"]["none"]
    low, high = metrics["intervals"]["gIoU"]
    assert low < 0.75 < high


def test_what_goes_wrong_is_a_miss_and_never_dropped(tmp_path: Path) -> None:
    def boxes(expression: str) -> str:
        if expression == "crash":
            raise RuntimeError("the model broke")
        return {"good": told(*SQUARE), "mumble": "hm", "none": "no such object", "mumble at nothing": "hm"}[expression]

    lines = [line("good", SQUARE), line("mumble", TALL), line("crash", WIDE), line("none"), line("mumble at nothing")]
    lines.append(line("x" * 3000, SQUARE))
    metrics = evaluate(config(write_lines(tmp_path, *lines)), tmp_path / "out", models=scripted(boxes))
    samples = {one["id"][:20]: one for one in samples_of(tmp_path / "out")}
    errors = {name: (one["error"] or "").partition(":")[0] for name, one in samples.items()}
    assert list(errors) == ["good", "mumble", "crash", "none", "mumble at nothing", "x" * 20]
    assert list(errors.values()) == ["", "ReplyError", "RuntimeError", "", "ReplyError", "ExpressionError"]
    assert [one["IoU"] for one in samples.values()] == [1, 0, 0, 1, 0, 0]
    assert (metrics["samples"], metrics["misses"]["count"]) == (6, 4)
    assert metrics["cIoU"] == 300 / (300 + 192 + 120 + 300)
    assert metrics["gIoU"] == pytest.approx(2 / 6)
    assert metrics["box Acc@0.5"] == 0.25
    assert "4 samples have no prediction" in (tmp_path / "out" / "report.md").read_text()


def test_a_crash_does_not_touch_the_other_expressions_of_its_picture(tmp_path: Path) -> None:
    asked = []

    def boxes(expression: str) -> str:
        asked.append(expression)
        if expression == "b":
            raise ValueError("odd")
        return told(*SQUARE)

    root = write_lines(tmp_path, line("a", SQUARE), line("b", SQUARE), line("c", SQUARE))
    evaluate(config(root, method="pqpp"), tmp_path / "out", models=scripted(boxes))
    samples = samples_of(tmp_path / "out")
    assert [one["IoU"] for one in samples] == [1, 0, 1]
    assert [len(one["points"]) for one in samples] == [25, 0, 25]


def test_where_nothing_at_all_is_answered_the_evaluation_fails(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("b", TALL))
    with pytest.raises(BackendError, match=r"none of the 2 samples was answered.*ReplyError"):
        evaluate(config(root), tmp_path / "out", models=scripted(lambda _: "hm"))


def test_a_damaged_picture_is_a_miss(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("b", SQUARE, image="two.png"))
    content = (root / "one.png").read_bytes()
    (root / "two.png").write_bytes(content[: len(content) // 2])
    evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    assert [(one["error"] or "").partition(":")[0] for one in samples_of(tmp_path / "out")] == ["", "ImageError"]


def test_points_are_judged_by_the_object_whose_box_was_asked_about(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("both", SQUARE, TALL), line("wrong", WIDE))
    boxes = {"both": f"{told(*SQUARE)} {told(*TALL)}", "wrong": told(*TALL)}
    metrics = evaluate(config(root, method="pqpp"), tmp_path / "out", models=scripted(boxes.__getitem__))
    both, wrong = samples_of(tmp_path / "out")
    assert len(both["points"]) == 50
    assert all(point["truth"] == 1 and point["right_box"] and point["kept"] for point in both["points"])
    assert all(point["truth"] == 0 and not point["right_box"] for point in wrong["points"])
    assert metrics["point accuracy"] == pytest.approx(50 / 75)
    assert metrics["point accuracy, right box"] == 1
    assert [one["right"] for one in both["objects"]] == [True, True]
    assert [one["right"] for one in wrong["objects"]] == [False]
    assert metrics["object ECE"] == pytest.approx(abs(3 * 0.8 - 2) / 3)


def test_answers_that_the_thresholds_drop_are_counted_too(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("square", SQUARE))
    evaluate(config(root, method="pqpp"), tmp_path / "out", models=scripted(lambda _: told(*SQUARE), yes=0.6))
    (sample,) = samples_of(tmp_path / "out")
    assert [(point["kept"], point["confidence"]) for point in sample["points"]] == [(False, 0.6)] * 25


def test_ppgs_own_points_are_answers_without_a_confidence(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("square", SQUARE))
    across, down = 1000 / WIDTH, 1000 / HEIGHT
    points = [f"({round(x * across):03d},{round(y * down):03d})" for x, y in ((6, 6), (20, 15), (26, 4))]
    said = f"{told(*SQUARE)} on {points[0]} {points[1]} off {points[2]}"
    metrics = evaluate(config(root, method="ppg"), tmp_path / "out", models=scripted(lambda _: said))
    (sample,) = samples_of(tmp_path / "out")
    assert [(one["label"], one["truth"], one["confidence"]) for one in sample["points"]] == [(1, 1, None)] * 2 + [(0, 0, None)]
    assert metrics["point accuracy"] == 1
    assert "point ECE" not in metrics


def test_ignored_pixels_count_by_the_protocol(tmp_path: Path) -> None:
    ignore = rle.encode(rectangle(4, 12, 24, 18))
    root = write_lines(tmp_path, line("upper half", (4, 3, 24, 12), ignore=ignore))
    models = scripted(lambda _: told(*SQUARE))
    figures = {
        protocol: evaluate(config(root, protocol=protocol), tmp_path / protocol, models=models)["cIoU"]
        for protocol in ("lisa", "seg-zero")
    }
    assert figures == {"lisa": 1, "seg-zero": 1}
    upper = scripted(lambda _: told(4, 3, 24, 12))
    assert evaluate(config(root, protocol="lisa"), tmp_path / "a", models=upper)["cIoU"] == 1
    assert evaluate(config(root, protocol="seg-zero"), tmp_path / "b", models=upper)["cIoU"] == 180 / 300


def test_answers_about_ignored_pixels_are_neither_right_nor_wrong_or_count_as_target(tmp_path: Path) -> None:
    ignore = rle.encode(rectangle(4, 12, 24, 18))
    root = write_lines(tmp_path, line("upper half", (4, 3, 24, 12), ignore=ignore))
    models = scripted(lambda _: told(*SQUARE))
    for protocol, truths in {"lisa": {1, None}, "seg-zero": {1}}.items():
        metrics = evaluate(config(root, method="pqpp", protocol=protocol), tmp_path / protocol, models=models)
        (sample,) = samples_of(tmp_path / protocol)
        assert {point["truth"] for point in sample["points"]} == truths
        assert metrics["point accuracy"] == sample["objects"][0]["iou"] == 1


def test_a_truth_that_cannot_be_read_is_told_and_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sam4mllm_tool.data.sample import Sample

    whole = Sample.masks

    def masks(self: Sample):
        if self.id == "b":
            raise DataError("the mask is torn")
        return whole(self)

    monkeypatch.setattr(Sample, "masks", masks)
    root = write_lines(tmp_path, line("a", SQUARE), line("b", SQUARE), line("c", SQUARE))
    metrics = evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    assert (metrics["samples"], metrics["cIoU"], metrics["dropped"]) == (2, 1, ["b: the mask is torn"])
    assert "1 samples can't be scored" in (tmp_path / "out" / "report.md").read_text()


def test_what_the_reader_dropped_is_told(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("", SQUARE))
    metrics = evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    assert metrics["read"]["counts"] == ["1 dropped: the expression is empty or not a text"]


def test_a_limit_takes_the_first_samples(tmp_path: Path) -> None:
    root = write_lines(tmp_path, *(line(f"sample {n}", SQUARE) for n in range(9)))
    evaluate(config(root, limit=4), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    assert [one["id"] for one in samples_of(tmp_path / "out")] == [f"sample {n}" for n in range(4)]


def test_a_finished_evaluation_asks_nothing_and_reports_the_same(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("b", TALL))
    evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    before = reports_of(tmp_path / "out")
    (tmp_path / "out" / "report.html").unlink()

    models = scripted(lambda _: "no such object")
    evaluate(config(root), tmp_path / "out", models=models)
    assert not models.mllm.questions
    assert reports_of(tmp_path / "out") == before


def test_another_order_is_refused(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE))
    models = scripted(lambda _: told(*SQUARE))
    evaluate(config(root), tmp_path / "out", models=models)
    with pytest.raises(DataError, match=r"another evaluation \(limit, protocol differ\)"):
        evaluate(config(root, protocol="lisa", limit=1), tmp_path / "out", models=models)
    (tmp_path / "out" / "order.json").unlink()
    with pytest.raises(DataError, match="unknown evaluation"):
        evaluate(config(root), tmp_path / "out", models=models)


def test_what_never_began_does_not_claim_its_folder(tmp_path: Path) -> None:
    root = write_lines(tmp_path / "data", line("a", SQUARE))
    with pytest.raises(DataError, match="is not there"):
        evaluate(config(tmp_path / "nowhere"), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))
    assert evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))["cIoU"] == 1


def test_a_part_of_other_samples_is_refused(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("b", SQUARE))
    models = scripted(lambda _: told(*SQUARE))
    evaluate(config(root), tmp_path / "out", models=models)
    (tmp_path / "out" / "samples.jsonl").rename(tmp_path / "out" / "samples.jsonl.part")
    write_lines(tmp_path, line("other", SQUARE), line("b", SQUARE))
    with pytest.raises(DataError, match="tells of 'a' where the data set has 'other'"):
        evaluate(config(root), tmp_path / "out", models=models)


def test_ids_that_repeat_are_refused(tmp_path: Path) -> None:
    root = write_lines(tmp_path, line("a", SQUARE), line("b", TALL, id="a"))
    with pytest.raises(DataError, match="two samples of jsonl:val have the id 'a'"):
        evaluate(config(root), tmp_path / "out", models=scripted(lambda _: told(*SQUARE)))


def test_a_set_without_masks_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "000000000001.jpg")
    turns = [{"from": "human", "value": "what?"}, {"from": "gpt", "value": "that"}]
    write_json(tmp_path / "conversations.json", [{"id": "0", "image": "000000000001.jpg", "conversations": turns}])
    with pytest.raises(DataError, match="no expressions with masks"):
        evaluate(EvaluationConfig("vqa", tmp_path, split="train"), tmp_path / "out", models=scripted(lambda _: "hm"))


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"protocol": "coco"}, "no protocol is called 'coco'; there are refcoco, lisa"),
        ({"method": "magic"}, "no method is called 'magic'"),
        ({"limit": 0}, "from 1 on"),
    ],
)
def test_what_there_is_not_is_refused_at_once(tmp_path: Path, more: dict, match: str) -> None:
    with pytest.raises(DataError, match=match):
        config(tmp_path, **more)


def test_the_report_stands_alone(tmp_path: Path) -> None:
    lines = [line(f"<b>sample</b> {n} | x", SQUARE, kind="a|b") for n in range(5)]
    boxes = iter([told(*SQUARE), told(*TALL), told(4, 3, 24, 12), told(*SQUARE), "no such object"])
    evaluate(config(write_lines(tmp_path, *lines), method="pqpp"), tmp_path / "out", models=scripted(lambda _: next(boxes)))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") >= 5
    assert page.count("data:image/png;base64,") == 5
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "<b>sample</b>" not in page
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Protocol refcoco: " in text
    assert "| a\\|b | 5 |" in text
    assert all((tmp_path / "out" / "pictures" / f"worst-{n}.png").exists() for n in (1, 2))
    assert json.loads((tmp_path / "out" / "timings.json").read_text())["all"]["mean"] >= 0


def test_other_weights_under_the_same_name_are_another_order(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data", line("a", (4, 3, 24, 18)))
    copied = {part: Path(shutil.copytree(embedded_folder(part), tmp_path / part)) for part in ("mllm", "adapter", "sam")}
    spec = ModelSpec(f"{copied['mllm']}+{copied['adapter']}", str(copied["sam"]))
    evaluate(config(data, models=spec), tmp_path / "out")
    weights = copied["sam"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DataError, match=r"another evaluation \(models\.weights\.segmenter differ\)"):
        evaluate(config(data, models=spec), tmp_path / "out")


def test_a_report_says_what_changes_the_figures() -> None:
    models = {"mllm": "m", "segmenter": "s", "abstain": 0.3, "closer": False}
    order = {"dataset": "jsonl", "split": "val", "models": models, "method": "adaptive"}
    assert heading(order) == "jsonl:val, m with s, adaptive, abstaining below 0.3, no masks from close by"
    assert heading(order | {"models": models | {"abstain": 0.0}, "method": "pqpp"}) == "jsonl:val, m with s, pqpp"
