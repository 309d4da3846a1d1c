"""Masks that another system predicted are scored by the same code; two runs are compared."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.comparison import compare
from sam4mllm_tool.evaluation.comparison_report import write_comparison_report
from sam4mllm_tool.geometry import rle
from tests.data.layouts import HEIGHT, WIDTH, rectangle
from tests.evaluation.evaluation_helpers import box_reply, read_samples, sample_line, scripted_models, write_samples

SQUARE, TALL = (4, 3, 24, 18), (28, 3, 36, 27)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    lines = (sample_line("square", SQUARE), sample_line("tall", TALL), sample_line("none"), sample_line("nothing"))
    return write_samples(tmp_path / "data", *lines)


def write_predictions(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def prediction_line(name: str, box: tuple[int, int, int, int] | None, **fields: Any) -> dict[str, Any]:
    return {"id": name, "mask": None if box is None else rle.encode(rectangle(*box)), **fields}


def score(root: Path, file: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return evaluate(EvaluationConfig("jsonl", root, predictions=file, **settings), out)


def test_predictions_score_as_the_models_that_made_them(root: Path, tmp_path: Path) -> None:
    replies = {
        "square": box_reply(*SQUARE),
        "tall": box_reply(*SQUARE),
        "none": "no such object",
        "nothing": box_reply(*TALL),
    }
    config = EvaluationConfig("jsonl", root, protocol="rela")
    by_models = evaluate(config, tmp_path / "models", models=scripted_models(replies.__getitem__))
    lines = [{"id": sample["id"], "mask": sample["mask"]} for sample in read_samples(tmp_path / "models")]
    by_file = score(root, write_predictions(tmp_path, *reversed(lines)), tmp_path / "file", protocol="rela")
    for key in ("cIoU", "gIoU", "Pr@0.7", "N-acc", "T-acc"):
        assert by_models[key] == by_file[key]
    assert (by_models["N-acc"], by_models["T-acc"], by_models["gIoU"]) == (0.5, 1, 0.5)


def test_no_target_counts_apart_from_the_mask(root: Path, tmp_path: Path) -> None:
    file = write_predictions(
        tmp_path,
        prediction_line("square", SQUARE, no_target=True),
        prediction_line("tall", None, no_target=False),
        prediction_line("none", TALL, no_target=True),
        prediction_line("nothing", None),
    )
    rela = score(root, file, tmp_path / "rela", protocol="rela")
    gsva = score(root, file, tmp_path / "gsva", protocol="gsva")
    assert (rela["N-acc"], rela["T-acc"]) == (gsva["N-acc"], gsva["T-acc"]) == (1, 0.5)
    assert (rela["gIoU"], gsva["gIoU"]) == (0.5, 0.75)
    assert rela["cIoU"] == 0
    assert gsva["cIoU"] == 300 / (300 + 192)


def test_a_missing_prediction_is_a_miss_and_is_reported(root: Path, tmp_path: Path) -> None:
    metrics = score(root, write_predictions(tmp_path, prediction_line("square", SQUARE)), tmp_path / "out")
    assert metrics["gIoU"] == 0.25
    assert metrics["misses"] == {
        "count": 3,
        "by_error": {"no prediction": 3},
        "first": ["tall: no prediction", "none: no prediction", "nothing: no prediction"],
    }
    assert "3 samples have no prediction" in (tmp_path / "out" / "report.md").read_text()


SMALL = {"size": [2, 2], "counts": [4]}
BROKEN = {"size": [HEIGHT, WIDTH], "counts": [3]}
FAULTS = [
    pytest.param(
        [prediction_line("square", SQUARE), prediction_line("circle", TALL)],
        r"line 2: no sample of jsonl:val has the id 'circle'",
        id="unknown id",
    ),
    pytest.param(
        [prediction_line("tall", TALL), prediction_line("tall", TALL)],
        r"line 2: 'tall' has a prediction already, in line 1",
        id="repeated id",
    ),
    pytest.param(
        [prediction_line("tall", TALL), {"id": "square", "mask": SMALL}],
        r"line 2: the mask's size is \[2, 2\], the image's \[30, 40\] \(height, width\)",
        id="mask of another size",
    ),
    pytest.param([{"id": "square", "mask": BROKEN}], r"line 1: the mask is no COCO RLE: .*cover 3 pixels", id="broken mask"),
    pytest.param([prediction_line("tall", TALL), "{nonsense"], "line 2: not JSON", id="not JSON"),
    pytest.param([{"mask": None}], "line 1: expected .*id", id="no id"),
    pytest.param([{"id": "square"}], "line 1: expected .*mask", id="no mask"),
    pytest.param([{"id": "square", "mask": [1, 2]}], "line 1: expected the mask as a COCO RLE or null", id="mask is no RLE"),
    pytest.param(
        [prediction_line("square", None, no_target="yes")],
        "line 1: expected no_target as true or false",
        id="no_target is a word",
    ),
    pytest.param([], "holds no prediction", id="empty file"),
]


@pytest.mark.parametrize(("lines", "match"), FAULTS)
def test_a_faulty_file_is_refused_with_its_line(root: Path, tmp_path: Path, lines: list, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        score(root, write_predictions(tmp_path, *lines), tmp_path / "out")
    assert "theirs.jsonl" in str(caught.value)


def test_a_missing_file_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read from .*nowhere\.jsonl"):
        score(root, tmp_path / "nowhere.jsonl", tmp_path / "out")


def test_other_predictions_are_another_evaluation(root: Path, tmp_path: Path) -> None:
    score(root, write_predictions(tmp_path, prediction_line("square", SQUARE)), tmp_path / "out")
    with pytest.raises(DataError, match=r"predictions\.sha256 differ"):
        score(root, write_predictions(tmp_path, prediction_line("square", TALL)), tmp_path / "out")


def test_a_corrected_file_starts_again_in_the_same_folder(root: Path, tmp_path: Path) -> None:
    faulty = write_predictions(tmp_path, prediction_line("square", SQUARE), {"id": "tall", "mask": SMALL})
    with pytest.raises(DataError, match="line 2: the mask's size"):
        score(root, faulty, tmp_path / "out")
    corrected = write_predictions(tmp_path, prediction_line("square", SQUARE), prediction_line("tall", TALL))
    assert score(root, corrected, tmp_path / "out")["cIoU"] == 1


def test_a_prediction_beyond_the_limit_is_accepted(root: Path, tmp_path: Path) -> None:
    file = write_predictions(tmp_path, prediction_line("square", SQUARE), prediction_line("tall", TALL))
    assert score(root, file, tmp_path / "out", limit=1)["samples"] == 1


def test_two_runs_are_compared_sample_by_sample(tmp_path: Path) -> None:
    root = write_samples(tmp_path / "data", *(sample_line(f"sample {n}", SQUARE) for n in range(6)))
    config = EvaluationConfig("jsonl", root)
    for out, bottom in (("a", 8), ("b", 9)):  # each sample's mask is a row taller in b
        models = scripted_models(lambda text, bottom=bottom: box_reply(4, 3, 24, bottom + int(text.split()[1]) % 9))
        evaluate(config, tmp_path / out, models=models)
    comparison = compare(tmp_path / "a", tmp_path / "b")
    assert comparison.samples == 6
    ciou = comparison.differences["cIoU"]
    assert ciou.difference == pytest.approx(1 / 15)
    assert ciou.interval == pytest.approx((1 / 15, 1 / 15), abs=1e-6)
    assert ciou.p <= 1 / 1000
    same = compare(tmp_path / "a", tmp_path / "a").differences["cIoU"]
    assert (same.difference, same.p) == (0, 1)


def test_a_comparison_has_a_report_with_truth_and_both_predictions(tmp_path: Path) -> None:
    root = write_samples(tmp_path / "data", sample_line("square", SQUARE), sample_line("tall", TALL), sample_line("same", TALL))
    for out, boxes in (("a", (SQUARE, SQUARE)), ("b", (TALL, TALL))):
        replies = iter([*(box_reply(*box) for box in boxes), box_reply(*TALL)])
        evaluate(
            EvaluationConfig("jsonl", root), tmp_path / out, models=scripted_models(lambda _, replies=replies: next(replies))
        )
    runs = tmp_path / "a", tmp_path / "b"
    (tmp_path / "out").mkdir()
    write_comparison_report(tmp_path / "out", compare(*runs), *runs)
    text, page = ((tmp_path / "out" / name).read_text() for name in ("report.md", "report.html"))
    losses, gains = text.split("## Samples that B loses most on")[1].split("## Samples that B gains most on")
    assert "square" in losses
    assert "tall" in gains
    assert "same" not in losses + gains, "nothing differs there"
    assert "A, IoU 100.0 %" in losses
    assert "B, IoU 0.0 %" in losses
    assert page.count("data:image/png;base64,") == 2 * 3, "truth, A and B of two samples"
    assert {file.name for file in (tmp_path / "out" / "pictures").iterdir()} >= {"losses-1-truth.png", "gains-1-B.png"}
    shutil.rmtree(root)
    write_comparison_report(tmp_path / "out", compare(*runs), *runs)
    assert "The images can't be shown" in (tmp_path / "out" / "report.md").read_text()


def test_runs_that_cannot_be_compared_are_refused(root: Path, tmp_path: Path) -> None:
    file = write_predictions(tmp_path, prediction_line("square", SQUARE))
    for out, settings in {"a": {}, "lisa": {"protocol": "lisa"}, "few": {"limit": 2}}.items():
        score(root, file, tmp_path / out, **settings)
    with pytest.raises(DataError, match=r"a is jsonl:val under refcoco, .*lisa is jsonl:val under lisa"):
        compare(tmp_path / "a", tmp_path / "lisa")
    with pytest.raises(DataError, match=r"samples that are in one run only: 2, such as 'none' in .*a"):
        compare(tmp_path / "a", tmp_path / "few")
    with pytest.raises(DataError, match="expected the folder of a finished evaluation"):
        compare(tmp_path / "a", tmp_path / "nowhere")
    lines = (sample_line("square", TALL), sample_line("tall", TALL), sample_line("none"), sample_line("nothing"))
    score(write_samples(tmp_path / "other", *lines), file, tmp_path / "b")
    with pytest.raises(DataError, match="samples that differ in their truth: 1, such as 'square'"):
        compare(tmp_path / "a", tmp_path / "b")
