"""`sam4mllm evaluate` as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.geometry import rle
from tests.data.layouts import rectangle
from tests.evaluation.evaluation_helpers import sample_line, write_samples

Run = Callable[..., tuple[int, str, str]]
SQUARE, TALL = (4, 3, 24, 18), (28, 3, 36, 27)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_samples(tmp_path / "data", sample_line("square", SQUARE), sample_line("tall", TALL))


def write_predictions(path: Path, *boxes: tuple[int, int, int, int]) -> Path:
    names = ("square", "tall")
    lines = [{"id": name, "mask": rle.encode(rectangle(*box))} for name, box in zip(names, boxes, strict=False)]
    path.write_text("".join(json.dumps(prediction) + "\n" for prediction in lines))
    return path


def test_predictions_are_scored_and_compared(run: Run, data: Path, tmp_path: Path) -> None:
    outputs = []
    for name, boxes in (("good", (SQUARE, TALL)), ("bad", (SQUARE,))):
        file = write_predictions(tmp_path / f"{name}.jsonl", *boxes)
        options = ("--predictions", file, "--out", tmp_path / name, "--option", "file=val.jsonl")
        code, out, _ = run("evaluate", "jsonl:val", "--root", data, *options)
        assert code == 0
        outputs.append(out)
    good, bad = outputs
    assert "jsonl:val, predictions of good.jsonl: 2 samples, protocol refcoco" in good
    assert "cIoU                      100.0 [100.0, 100.0]" in good
    assert "1 without a prediction count as misses, as tall: no prediction" in bad
    assert json.loads((tmp_path / "bad" / "metrics.json").read_text())["cIoU"] == 300 / 492
    code, out, _ = run("evaluate", "--compare", tmp_path / "bad", tmp_path / "good", "--out", tmp_path / "compared")
    assert code == 0
    assert "2 samples, protocol refcoco, paired bootstrap" in out
    difference = json.loads((tmp_path / "compared" / "compare.json").read_text())["differences"]["gIoU"]
    assert (difference["first"], difference["second"], difference["difference"]) == (0.5, 1, 0.5)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("jsonl",), "needs --root, --out"),
        ((), "needs DATASET, --root, --out; or --compare"),
        (("jsonl", "--compare", "a", "b"), "neither a dataset nor predictions"),
        (("--calibrate", "run"), "takes a finished run and --out"),
        (("jsonl", "--root", ".", "--out", "out", "--protocol", "pascal"), "'pascal'"),
        (("imagenet", "--root", ".", "--out", "out"), "'imagenet'"),
        (("jsonl", "--root", ".", "--out", "out", "--option", "file"), "key=value"),
        (("jsonl", "--root", ".", "--out", "out", "--threads", "0"), "--threads"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_invalid_request_is_refused_in_one_line(run: Run, words: tuple[str, ...], reason: str) -> None:
    code, out, err = run("evaluate", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err


@pytest.mark.slow
def test_the_embedded_pair_is_the_default(run: Run, data: Path, tmp_path: Path) -> None:
    code, out, _ = run("evaluate", "jsonl", "--root", data, "--out", tmp_path / "out", "--limit", "1", "--method", "box")
    assert code == 0
    assert "jsonl:val, embedded with embedded, box: 1 sample," in out
