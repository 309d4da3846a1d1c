"""Fitting a calibration to a finished run, and what abstaining changes in a run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.calibration_fit import fit_calibration
from sam4mllm_tool.evaluation.records import read_records
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Question, Reply
from tests.data.layouts import HEIGHT, WIDTH
from tests.evaluation.evaluation_helpers import sample_line, write_samples

Run = Callable[..., tuple[int, str, str]]

COUNT = 60
ACROSS, DOWN = 1000 / WIDTH, 1000 / HEIGHT


def answer(question: Question) -> Reply | str:
    """Answer about ring n, which is in the top left quarter of the image.

    The box of every third is in the top right quarter instead. The confidence in each box is 0.9. Every fifth is said not to be
    there, with a confidence of 0.99.
    """
    text = question.turns[-1].text
    if "Leave out" in text:
        return "none"
    if "object in the bounding box" in text:
        return Reply("Yes", ((0.9, 0.1),))
    number = int(text.partition("ring ")[2].split()[0])
    if number % 5 == 0:
        return Reply("none", log_probability=-0.01)
    x = 0 if number % 3 else WIDTH // 2
    return f"[{round(x * ACROSS)},0,{round((x + WIDTH // 2) * ACROSS) - 1},{round(HEIGHT / 2 * DOWN)}]"


def evaluate_adaptive(data: Path, out: Path, **settings: object) -> Path:
    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=PLAIN, **settings)  # type: ignore[arg-type]
    evaluate(EvaluationConfig("jsonl", data, protocol="rela", method="adaptive"), out, models=models)
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples of which every tenth has no object."""
    box = (0, 0, WIDTH // 2, HEIGHT // 2)
    lines = (sample_line(f"ring {number}", *([] if number % 10 == 0 else [box])) for number in range(COUNT))
    return write_samples(tmp_path_factory.mktemp("calibration-data"), *lines)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_adaptive(data, tmp_path_factory.mktemp("calibration") / "run")


def test_confidences_of_objects_and_of_none_are_fitted(finished: Path) -> None:
    fit = fit_calibration(finished)
    objects = [predicted for record in read_records(finished) for predicted in record.objects]
    share = sum(predicted.right for predicted in objects) / len(objects)
    assert 0.5 < share < 0.9
    assert fit.calibration.objects(0.9) == pytest.approx(share, abs=0.02)
    count, before, after = fit.errors["objects"]
    assert count == len(objects) == COUNT * 4 // 5
    assert before == pytest.approx(0.9 - share, abs=1e-6)
    assert after < 0.02
    assert fit.errors["none"][0] == COUNT // 5
    assert fit.calibration.none == Calibration().none, "twelve answers are too few to fit"


def test_fitting_a_calibrated_run_starts_from_its_calibration(finished: Path, data: Path, tmp_path: Path) -> None:
    first = fit_calibration(finished).calibration
    second = fit_calibration(evaluate_adaptive(data, tmp_path / "calibrated", calibration=first))
    assert second.errors["objects"][1] < 0.02
    assert second.calibration.objects(0.9) == pytest.approx(first.objects(0.9), abs=0.01)
    metrics = json.loads((tmp_path / "calibrated" / "metrics.json").read_text())
    assert metrics["order"]["models"]["calibration"]["objects"]["slope"] == first.objects.slope


def test_the_answer_none_is_graded_with_the_objects(finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["calibration"]["object"]["answers"] == COUNT


def test_abstaining_leaves_objects_out(data: Path, tmp_path: Path) -> None:
    evaluate_adaptive(data, tmp_path / "run", abstain=0.95)
    records = read_records(tmp_path / "run")
    assert all(record.counts.stated_none for record in records)
    with pytest.raises(DataError, match="was run with --abstain"):
        fit_calibration(tmp_path / "run")


def test_the_command_writes_the_calibration(finished: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("evaluate", "--calibrate", finished, "--out", tmp_path / "calibration.json")
    assert code == 0
    assert "objects: 48 answers" in out
    assert Calibration.from_json((tmp_path / "calibration.json").read_text()).objects.offset != 0


def test_too_few_answers_are_said_to_be_too_few(finished: Path, data: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "calibration.json"
    _, printed, _ = run("evaluate", "--calibrate", finished, "--out", out)
    assert (
        "none: not fitted, the run's own scaling is kept: 12 answers, 6 right and 6 wrong, where a fit needs at least 20"
        in printed
    )
    written = out.read_bytes()
    code, _, err = run("evaluate", "--calibrate", finished, "--out", out)
    assert (code, "calibration.json exists already" in err) == (2, True)
    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=PLAIN)
    evaluate(EvaluationConfig("jsonl", data, limit=9, method="adaptive"), tmp_path / "few", models=models)
    code, _, err = run("evaluate", "--calibrate", tmp_path / "few", "--out", out, "--overwrite")
    assert code == 2
    assert "too few answers to fit a calibration: objects: 7 answers" in err
    assert "Evaluate more samples" in err
    assert out.read_bytes() == written


def test_runs_that_cannot_be_fitted_are_refused(data: Path, tmp_path: Path) -> None:
    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=PLAIN)
    evaluate(EvaluationConfig("jsonl", data, limit=2, method="box"), tmp_path / "box", models=models)
    with pytest.raises(DataError, match="not a run of --method adaptive"):
        fit_calibration(tmp_path / "box")
    with pytest.raises(DataError, match="expected the folder of a finished evaluation"):
        fit_calibration(tmp_path)


def test_wrong_arguments_of_the_command_are_refused(tmp_path: Path, run: Run) -> None:
    for arguments in (("--calibrate", tmp_path), ("refcoco", "--calibrate", tmp_path, "--out", tmp_path)):
        code, _, err = run("evaluate", *arguments)
        assert (code, err.splitlines()[-1].startswith("sam4mllm: --calibrate takes a finished run")) == (2, True)
    code, _, err = run("evaluate", "refcoco", "--abstain", "1.5")
    assert code == 2
    assert "'--abstain'" in err
    assert "1.5" in err
