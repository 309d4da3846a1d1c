"""`sam4mllm data check | convert | show` as a user types them: which stream gets what, and the exit codes."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.data.drawn import annotation, write_image, write_json

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Run) -> Run:
    """Run `sam4mllm data` with the arguments."""
    return partial(run, "data")


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """COCO's JSON of one image, with a good annotation and one without an area."""
    write_image(tmp_path / "in/a.jpg")
    annotations = [
        annotation(1, 1, 1, (2, 3, 12, 13), caption="the cup"),
        annotation(2, 1, 1, (50, 50, 60, 60), caption="the plate"),
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": annotations,
        "categories": [],
    }
    return write_json(tmp_path / "in/instances.json", content)


def test_own_data_is_converted_checked_and_shown(run: Run, instances: Path, tmp_path: Path) -> None:
    code, out, err = run("convert", "coco", instances, "--out", tmp_path / "mine")
    assert code == 1
    assert out.startswith(f"wrote {tmp_path / 'mine/scenes.jsonl'}: 1 expression, 1 object, 1 image")
    assert "1 dropped: the mask is empty" in err
    assert "'the plate' (annotation 2" in err
    code, out, _ = run("check", "jsonl", tmp_path / "mine")
    assert (code, out.splitlines()[-1]) == (0, "all is well")
    code, out, _ = run("show", "jsonl", tmp_path / "mine", "--out", tmp_path / "sheet.png")
    assert (code, out) == (0, f"wrote {tmp_path / 'sheet.png'}: 1 sample of jsonl all\n")
    assert (tmp_path / "sheet.png").is_file()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["check", "jsonl", "nowhere"], "nowhere does not exist"),
        (["check", "refcoco", "."], "refs(unc).p"),
        (["check", "pascal", "."], "'pascal'"),
        (["check", "jsonl", ".", "--option", "colour=red"], "no option colour"),
        (["show", "jsonl", ".", "--out", "sheet.png"], "has no scenes.jsonl"),
        (["show", "jsonl", ".", "--out", "sheet.png", "--count", "0"], "'--count'"),
        (["show", "jsonl", "."], "--out"),
        (["convert", "coco", "none.json", "--out", "mine"], "none.json does not exist"),
        (["convert", "folder", ".", "--out", "mine"], "holds no text"),
        (["convert", "folder", ".", "--out", "mine", "--column", "x"], "--column is not for folder"),
        (["convert", "voc", ".", "--out", "mine"], "voc"),
        (["convert", "folder", "."], "--out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_invalid_request_is_refused_in_one_line(
    run: Run, words: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    last = err.rstrip("\n").split("\n")[-1].split("\r")[-1]
    assert last.startswith("sam4mllm")
    assert reason in last
    assert "Traceback" not in err
    assert list(tmp_path.rglob("*.*")) == []


def test_a_conversion_replaces_neither_a_file_nor_an_image_unasked(run: Run, instances: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write_image(mine / "images/a.jpg", 4, 4)
    other = (mine / "images/a.jpg").read_bytes()
    assert run("convert", "coco", instances, "--out", mine, "--copy")[0] == 1
    written = (mine / "scenes.jsonl").read_text()
    assert json.loads(written)["image"] == "images/a-2.jpg"
    assert (mine / "images/a.jpg").read_bytes() == other
    code, _, err = run("convert", "coco", instances, "--out", mine)
    assert (code, "scenes.jsonl exists already: choose another place" in err) == (2, True)
    assert (mine / "scenes.jsonl").read_text() == written
    assert run("convert", "coco", instances, "--out", mine, "--copy", "--overwrite")[0] == 1
    assert (mine / "scenes.jsonl").read_text() == written, "a copy of before is used again"


def test_a_device_is_not_a_target_of_a_conversion(run: Run, instances: Path) -> None:
    code, _, err = run("convert", "coco", instances, "--out", "/dev/full")
    assert code == 2
    assert "/dev/full is neither a folder nor a file that ends in .jsonl" in err


def test_check_reports_an_expression_that_is_too_long(run: Run, tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    line = {"image": "a.jpg", "expression": "x" * 5000, "objects": []}
    (tmp_path / "scenes.jsonl").write_text(json.dumps(line) + "\n")
    code, out, _ = run("check", "jsonl", tmp_path)
    assert code == 1
    assert "1 dropped: the expression" in out
