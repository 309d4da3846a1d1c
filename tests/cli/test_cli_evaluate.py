"""`sam4mllm evaluate` as a user types it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.data.image_hashes import TrainedImages, hash_image
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.checkpoints import embedded_folder
from tests.data.layouts import HEIGHT, WIDTH, rectangle
from tests.evaluation.evaluation_helpers import sample_line, write_samples
from tests.unlike_images import load_photograph

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_same_data_under_two_names_is_compared_and_an_earlier_comparison_kept(run: Run, data: Path, tmp_path: Path) -> None:
    (data / "test.jsonl").write_text((data / "val.jsonl").read_text())
    for split, boxes in (("val", (SQUARE, TALL)), ("test", (SQUARE,))):
        file = write_predictions(tmp_path / f"{split}.predicted", *boxes)
        options = ("--predictions", file, "--out", tmp_path / split)
        assert run("evaluate", f"jsonl:{split}", "--root", data, *options)[0] == 0
    (tmp_path / "compare.json").write_text("mine")
    code, _, err = run("evaluate", "--compare", tmp_path / "val", tmp_path / "test", "--out", tmp_path)
    assert (code, "compare.json exists already" in err) == (2, True)
    assert (tmp_path / "compare.json").read_text() == "mine"
    code, out, _ = run("evaluate", "--compare", tmp_path / "val", tmp_path / "test", "--out", tmp_path, "--overwrite")
    assert code == 0
    assert "2 samples, protocol refcoco" in out
    assert json.loads((tmp_path / "compare.json").read_text())["samples"] == 2


def test_training_data_is_not_reported_as_val(run: Run, data: Path, tmp_path: Path) -> None:
    (data / "val.jsonl").rename(data / "scenes.jsonl")
    code, _, err = run("evaluate", "jsonl", "--root", data, "--out", tmp_path / "out")
    assert code == 2
    assert "scenes.jsonl is not divided, so it has no split 'val'" in err
    assert "sam4mllm data split" in err


@pytest.mark.slow
def test_images_that_the_model_was_trained_on_are_warned_of(run: Run, data: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(embedded_folder("adapter"), adapter)
    listed = adapter / "trained_images.json"
    listed.write_text(TrainedImages(frozenset([hash_image(data / "one.png")])).to_json())
    options = ("--root", data, "--method", "box", "--mllm", f"embedded+{adapter}")
    code, _, err = run("evaluate", "jsonl", *options, "--out", tmp_path / "out")
    assert code == 0
    warning = f"embedded+{adapter} was trained on 1 of the 1 image evaluated here"
    assert warning in err
    assert warning in (tmp_path / "out" / "report.md").read_text()
    listed.write_text(TrainedImages(frozenset(["0" * 16])).to_json())
    assert "was trained on" not in run("evaluate", "jsonl", *options, "--out", tmp_path / "other")[2]


@pytest.mark.slow
def test_images_that_the_model_does_not_know_are_warned_of(run: Run, data: Path, tmp_path: Path) -> None:
    load_photograph("astronaut.png").resize((WIDTH, HEIGHT)).save(data / "one.png")
    code, _, err = run("evaluate", "jsonl", "--root", data, "--method", "box", "--out", tmp_path / "out")
    assert code == 0
    (warning,) = [line for line in err.splitlines() if "warning" in line]
    assert warning.startswith("sam4mllm: warning: 2 of 2 samples: the embedded pair knows drawn scenes")


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
        (("jsonl", "--root", ".", "--out", "out", "--abstain", "0.5"), "--abstain has no effect with --method pqpp; add"),
        (("jsonl", "--root", ".", "--out", "out", "--no-refine-crops"), "--no-refine-crops has no effect with --method pqpp"),
        (
            ("jsonl", "--root", ".", "--out", "out", "--predictions", "p", "--method", "box"),
            "--method has no effect with --pred",
        ),
        (("--compare", "a", "b", "--mllm", "embedded"), "--mllm has no effect with --compare"),
        (("--calibrate", "run", "--out", "out", "--limit", "3"), "--limit has no effect with --calibrate"),
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
