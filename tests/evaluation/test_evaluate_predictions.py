"""Masks that somebody else's system made, scored by the same code; and two runs compared."""

import json
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.comparison import compare
from sam4mllm_tool.geometry import rle
from tests.data.layouts import HEIGHT, WIDTH, rectangle
from tests.evaluation.evaluated import line, samples_of, scripted, told, write_lines

SQUARE, TALL = (4, 3, 24, 18), (28, 3, 36, 27)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data", line("square", SQUARE), line("tall", TALL), line("none"), line("nothing"))


def predictions(tmp_path: Path, *lines: Any) -> Path:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def mask(name: str, box: tuple[int, int, int, int] | None, **more: Any) -> dict[str, Any]:
    return {"id": name, "mask": None if box is None else rle.encode(rectangle(*box)), **more}


def score(root: Path, file: Path, out: Path, **more: Any) -> dict[str, Any]:
    return evaluate(EvaluationConfig("jsonl", root, predictions=file, **more), out)


def test_masks_score_as_our_own_would(root: Path, tmp_path: Path) -> None:
    ours = evaluate(
        EvaluationConfig("jsonl", root, protocol="rela"),
        tmp_path / "ours",
        models=scripted({"square": told(*SQUARE), "tall": told(*SQUARE), "none": "no such object", "nothing": told(*TALL)}.get),
    )
    lines = [{"id": one["id"], "mask": one["mask"]} for one in samples_of(tmp_path / "ours")]
    theirs = score(root, predictions(tmp_path, *reversed(lines)), tmp_path / "theirs", protocol="rela")
    for key in ("cIoU", "gIoU", "Pr@0.7", "N-acc", "T-acc"):
        assert ours[key] == theirs[key]
    assert (ours["N-acc"], ours["T-acc"], ours["gIoU"]) == (0.5, 1, 0.5)


def test_what_is_stated_counts_apart_from_the_mask(root: Path, tmp_path: Path) -> None:
    file = predictions(
        tmp_path,
        mask("square", SQUARE, no_target=True),
        mask("tall", None, no_target=False),
        mask("none", TALL, no_target=True),
        mask("nothing", None),
    )
    rela = score(root, file, tmp_path / "rela", protocol="rela")
    gsva = score(root, file, tmp_path / "gsva", protocol="gsva")
    assert (rela["N-acc"], rela["T-acc"]) == (gsva["N-acc"], gsva["T-acc"]) == (1, 0.5)
    assert (rela["gIoU"], gsva["gIoU"]) == (0.5, 0.75)
    assert rela["cIoU"] == 0
    assert gsva["cIoU"] == 300 / (300 + 192)


def test_a_missing_prediction_is_a_miss_and_told(root: Path, tmp_path: Path) -> None:
    metrics = score(root, predictions(tmp_path, mask("square", SQUARE)), tmp_path / "out")
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
        [mask("square", SQUARE), mask("circle", TALL)], r"line 2: no sample of jsonl:val has the id 'circle'", id="unknown"
    ),
    pytest.param([mask("tall", TALL), mask("tall", TALL)], r"line 2: 'tall' has a prediction already, in line 1", id="twice"),
    pytest.param(
        [mask("tall", TALL), {"id": "square", "mask": SMALL}],
        r"line 2: the mask's size is \[2, 2\], the picture's \[30, 40\] \(height, width\)",
        id="another size",
    ),
    pytest.param([{"id": "square", "mask": BROKEN}], r"line 1: the mask is no COCO RLE: .*cover 3 pixels", id="broken"),
    pytest.param([mask("tall", TALL), "{nonsense"], "line 2: not JSON", id="not JSON"),
    pytest.param([{"mask": None}], "line 1: expected .*id", id="no id"),
    pytest.param([{"id": "square"}], "line 1: expected .*mask", id="no mask"),
    pytest.param([{"id": "square", "mask": [1, 2]}], "line 1: expected the mask as a COCO RLE or null", id="no RLE"),
    pytest.param([mask("square", None, no_target="yes")], "line 1: expected no_target as true or false", id="no_target"),
    pytest.param([], "holds no prediction", id="empty"),
]


@pytest.mark.parametrize(("lines", "match"), FAULTS)
def test_a_bad_file_is_named_with_its_line(root: Path, tmp_path: Path, lines: list, match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        score(root, predictions(tmp_path, *lines), tmp_path / "out")
    assert "theirs.jsonl" in str(caught.value)


def test_a_file_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read from .*nowhere\.jsonl"):
        score(root, tmp_path / "nowhere.jsonl", tmp_path / "out")


def test_other_predictions_are_another_order(root: Path, tmp_path: Path) -> None:
    score(root, predictions(tmp_path, mask("square", SQUARE)), tmp_path / "out")
    with pytest.raises(DataError, match=r"predictions\.sha256 differ"):
        score(root, predictions(tmp_path, mask("square", TALL)), tmp_path / "out")


def test_a_mended_file_begins_anew_in_the_same_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: the mask's size"):
        score(root, predictions(tmp_path, mask("square", SQUARE), {"id": "tall", "mask": SMALL}), tmp_path / "out")
    mended = predictions(tmp_path, mask("square", SQUARE), mask("tall", TALL))
    assert score(root, mended, tmp_path / "out")["cIoU"] == 1


def test_a_prediction_beyond_the_limit_is_not_unknown(root: Path, tmp_path: Path) -> None:
    file = predictions(tmp_path, mask("square", SQUARE), mask("tall", TALL))
    assert score(root, file, tmp_path / "out", limit=1)["samples"] == 1


def test_two_runs_are_compared_sample_by_sample(tmp_path: Path) -> None:
    lines = [line(f"sample {n}", SQUARE) for n in range(60)]
    root = write_lines(tmp_path / "data", *lines)
    config = EvaluationConfig("jsonl", root)
    evaluate(config, tmp_path / "a", models=scripted(lambda text: told(4, 3, 24, 8 + int(text.split()[1]) % 9)))
    evaluate(config, tmp_path / "b", models=scripted(lambda text: told(4, 3, 24, 9 + int(text.split()[1]) % 9)))
    found = compare(tmp_path / "a", tmp_path / "b")
    assert found.samples == 60
    ciou = found.differences["cIoU"]
    assert ciou.difference == pytest.approx(1 / 15)
    assert ciou.interval == pytest.approx((1 / 15, 1 / 15), abs=1e-6)  # each sample is better by as much
    assert ciou.p <= 1 / 1000
    again = compare(tmp_path / "a", tmp_path / "a").differences["cIoU"]
    assert (again.difference, again.p) == (0, 1)


def test_runs_that_do_not_compare_are_refused(root: Path, tmp_path: Path) -> None:
    file = predictions(tmp_path, mask("square", SQUARE))
    for name, more in {"a": {}, "lisa": {"protocol": "lisa"}, "few": {"limit": 2}}.items():
        score(root, file, tmp_path / name, **more)
    with pytest.raises(DataError, match=r"a is jsonl:val under refcoco, .*lisa is jsonl:val under lisa"):
        compare(tmp_path / "a", tmp_path / "lisa")
    with pytest.raises(DataError, match=r"2 samples are in one alone, 'none' in .*a"):
        compare(tmp_path / "a", tmp_path / "few")
    with pytest.raises(DataError, match="expected the folder of a finished evaluation"):
        compare(tmp_path / "a", tmp_path / "nowhere")
    other = write_lines(tmp_path / "other", line("square", TALL), line("tall", TALL), line("none"), line("nothing"))
    score(other, file, tmp_path / "b")
    with pytest.raises(DataError, match="1 samples differ in their truth, 'square'"):
        compare(tmp_path / "a", tmp_path / "b")
