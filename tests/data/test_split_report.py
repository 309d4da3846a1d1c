"""Checking a dataset: counts, problems, exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.data.published import PUBLISHED_COUNTS, PublishedCount
from sam4mllm_tool.data.splits import read_options
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry.rle import encode
from tests.data.drawn import annotation, filled, run_data, write_image, write_json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own


def line(**more: Any) -> dict[str, Any]:
    mask = encode(filled(40, 30, (2, 3, 12, 13)))
    return {"image": "a.png", "expression": "the cup", "objects": [{"box": [2, 3, 12, 13], "mask": mask}], **more}


def write_lines(root: Path, *lines: object, name: str = "scenes.jsonl") -> Path:
    write_image(root / "a.png")
    (root / name).write_text("".join(json.dumps(each) + "\n" for each in lines))
    return root


def test_a_valid_dataset_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_lines(tmp_path, line(), line(expression="the plate", objects=[]))
    assert run_data("check", "jsonl", root) == 0
    output = capsys.readouterr()
    assert "all: " in output.out
    assert "scenes.jsonl" in output.out
    assert "2 samples, 1 object, 1 sample with no such object, 0 conversations, 1 image\n" in output.out
    assert output.out.endswith("all is well\n")
    assert output.err == "", "a progress bar, and no terminal"


def test_the_first_ten_problems_are_listed_and_all_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_data("check", "jsonl", write_lines(tmp_path, line(), *[line(expression="")] * 12)) == 1
    output = capsys.readouterr().out
    assert "12 dropped: the expression is empty" in output
    assert [f"line {number}:" in output for number in range(2, 14)] == [True] * 10 + [False] * 2
    assert output.endswith("not all is well\n")


def test_masks_are_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = {"size": [30, 40], "counts": "0"}
    assert run_data("check", "jsonl", write_lines(tmp_path, line(), line(objects=[{"mask": cut}]))) == 1
    assert "line 2" in capsys.readouterr().out


def test_a_truncated_image_is_found_by_a_deep_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_lines(tmp_path, line())
    whole = (root / "a.png").read_bytes()
    (root / "a.png").write_bytes(whole[:-30])
    assert run_data("check", "jsonl", root) == 0
    assert run_data("check", "jsonl", root, "--deep") == 1
    assert "a.png: the image is damaged" in capsys.readouterr().out


def test_every_existing_split_is_read_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PUBLISHED_COUNTS, "partimagenet")  # type: ignore[arg-type]
    write_lines(tmp_path, line(), name="train.jsonl")
    write_lines(tmp_path, line(), line(expression="it"), name="held-out.jsonl")
    assert run_data("check", "jsonl", tmp_path) == 0
    output = capsys.readouterr().out
    assert "held-out: " in output
    assert "2 samples" in output
    assert run_data("check", "jsonl", tmp_path, "--split", "train") == 0
    assert "held-out" not in capsys.readouterr().out
    root = partimagenet(tmp_path / "parts")
    assert run_data("check", "partimagenet", root) == 0
    assert "val: not there (the annotations do not exist" in capsys.readouterr().out


def partimagenet(root: Path, *more: dict[str, Any]) -> Path:
    image = {"id": 1, "file_name": "n01_1.JPEG", "width": 40, "height": 30}
    category = {"id": 1, "name": "Bird Wing", "supercategory": "Bird"}
    annotations = [annotation(7, 1, 1, (2, 3, 12, 13)), *more]
    write_json(root / "train.json", {"images": [image], "annotations": annotations, "categories": [category]})
    write_image(root / "images/train/n01_1.JPEG")
    return root


def test_counts_are_compared_with_the_published_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = partimagenet(tmp_path)
    for count, code, line_written in ((1, 0, "1 image, as published"), (16540, 1, "1 image, 16,540 are published")):
        monkeypatch.setitem(PUBLISHED_COUNTS, "partimagenet", {"train": PublishedCount("images", count)})  # type: ignore[arg-type]
        assert run_data("check", "partimagenet", root) == code
        assert line_written in capsys.readouterr().out


def test_samples_left_out_by_choice_are_counted_and_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(PUBLISHED_COUNTS, "partimagenet")  # type: ignore[arg-type]
    category = {"id": 2, "name": "Bird Foot", "supercategory": "Bird"}
    root = partimagenet(tmp_path, annotation(8, 1, 2, (20, 3, 23, 6)))
    content = json.loads((root / "train.json").read_text())
    write_json(root / "train.json", {**content, "categories": [*content["categories"], category]})
    assert run_data("check", "partimagenet", root) == 0
    assert "1 dropped: an object of the class is too small in the image" in capsys.readouterr().out
    assert run_data("check", "partimagenet", root, "--option", "min_area=0.005") == 0
    assert "2 samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["jsonl", "NOWHERE"], "NOWHERE"),
        (["jsonl", "."], "no scenes.jsonl"),
        (["refcoco", "."], r"refs\(unc\)\.p"),
        (["ade20k", "."], "searched"),
        (["pascal", "."], "unknown dataset 'pascal'"),
        (["jsonl", ".", "--option", "colour=red"], "no option colour"),
        (["jsonl", ".", "--option", "file"], "key=value"),
        (["partimagenet", ".", "--option", "max_instances=many"], "max_instances"),
    ],
    ids=" ".join,
)
def test_a_dataset_that_can_not_be_read_is_an_error(tmp_path: Path, words: list[str], what: str) -> None:
    with pytest.raises(DataError, match=what):
        run_data("check", words[0], tmp_path / words[1], *words[2:])


def test_a_split_without_valid_samples_is_an_error_alone_and_a_line_among_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(tmp_path, line(expression=""), name="val.jsonl")
    with pytest.raises(DataError, match="no sample"):
        run_data("check", "jsonl", tmp_path, "--split", "val")
    write_lines(tmp_path, line(), name="train.jsonl")
    assert run_data("check", "jsonl", tmp_path) == 1
    assert "val: no sample of 'jsonl'" in capsys.readouterr().out


def test_options_have_the_type_of_their_default() -> None:
    options = read_options("paco", ["max_instances=7", "min_area=0.5", "images=/a=b"])
    assert options == {"max_instances": 7, "min_area": 0.5, "images": "/a=b"}
