"""`sam4mllm evaluate`, as a user types it."""

import argparse
import json
from pathlib import Path

import pytest

from sam4mllm_tool.cli.evaluate import add_commands
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry import rle
from tests.data.layouts import rectangle
from tests.evaluation.evaluated import line, write_lines

SQUARE, TALL = (4, 3, 24, 18), (28, 3, 36, 27)


def run(*words: str | Path) -> int:
    """`sam4mllm WORDS`, its exit code; what it refuses is raised."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args([str(word) for word in words])
    return int(arguments.run(arguments) or 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "data", line("square", SQUARE), line("tall", TALL))


def predictions(path: Path, *boxes: tuple[int, int, int, int]) -> Path:
    names = ("square", "tall")
    lines = [{"id": name, "mask": rle.encode(rectangle(*box))} for name, box in zip(names, boxes, strict=False)]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def test_predictions_are_scored_and_compared(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = predictions(tmp_path / "good.jsonl", SQUARE, TALL), predictions(tmp_path / "bad.jsonl", SQUARE)
    for file in (good, bad):
        words = ("--root", data, "--predictions", file, "--out", tmp_path / file.stem, "--option", "file=val.jsonl")
        assert run("evaluate", "jsonl:val", *words) == 0
    told = capsys.readouterr().out
    assert "jsonl:val, predictions of good.jsonl: 2 samples, protocol refcoco" in told
    assert "cIoU                      100.0 [100.0, 100.0]" in told
    assert "1 without a prediction count as misses, as tall: no prediction" in told
    assert json.loads((tmp_path / "bad" / "metrics.json").read_text())["cIoU"] == 300 / 492
    assert run("evaluate", "--compare", tmp_path / "bad", tmp_path / "good", "--out", tmp_path / "compared") == 0
    told = capsys.readouterr().out
    assert "2 samples, protocol refcoco, paired bootstrap" in told
    found = json.loads((tmp_path / "compared" / "compare.json").read_text())["differences"]["gIoU"]
    assert (found["first"], found["second"], found["difference"]) == (0.5, 1, 0.5)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("jsonl",), "needs --root, --out"),
        ((), "needs DATASET, --root, --out; or --compare"),
        (("jsonl", "--compare", "a", "b"), "neither a data set nor predictions"),
        (("imagenet", "--root", ".", "--out", "out"), "no data set is called 'imagenet'"),
        (("jsonl", "--root", ".", "--out", "out", "--option", "file"), "key=value"),
    ],
)
def test_what_cannot_be_done_is_told(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(DataError, match=match):
        run("evaluate", *words)


@pytest.mark.slow
def test_the_embedded_pair_is_the_default(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "jsonl", "--root", data, "--out", tmp_path / "out", "--limit", "1", "--method", "box") == 0
    assert "jsonl:val, embedded with embedded, box: 1 samples" in capsys.readouterr().out
