"""From a finished run to a calibration, and what abstaining changes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from sam4mllm_tool.evaluation.fit_calibration import calibrate
from sam4mllm_tool.evaluation.records import read_records
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Question, Reply
from tests.data.layouts import HEIGHT, WIDTH
from tests.evaluation.evaluated import BoxSegmenter, line, write_lines

Run = Callable[..., tuple[int, str, str]]

COUNT = 60
ACROSS, DOWN = 1000 / WIDTH, 1000 / HEIGHT


def answer(question: Question) -> Reply | str:
    """Thing n is at the left; every third is looked for at the right. It is 0.9 sure of all of them; of every fifth
    it says that there is none, and is 0.99 sure of that."""
    text = question.turns[-1].text
    if text.startswith("Leave out"):
        return "none"
    if "object in the bounding box" in text:
        return Reply("Yes", ((0.9, 0.1),))
    if "Is the point" in text:
        return Reply("Yes", ((0.9, 0.1),))
    number = int(text.partition("thing ")[2].split()[0])
    if number % 5 == 0:
        return Reply("none", log_probability=-0.01)
    x = 0 if number % 3 else WIDTH // 2
    return f"[{round(x * ACROSS)},0,{round((x + WIDTH // 2) * ACROSS) - 1},{round(HEIGHT / 2 * DOWN)}]"


def evaluated(data: Path, out: Path, **settings: object) -> Path:
    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=PLAIN, **settings)  # type: ignore[arg-type]
    evaluate(EvaluationConfig("jsonl", data, protocol="rela", method="adaptive"), out, models=models)
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    truth = (0, 0, WIDTH // 2, HEIGHT // 2)
    return write_lines(tmp_path / "data", *(line(f"thing {n}", *([] if n % 10 == 0 else [truth])) for n in range(COUNT)))


def test_confidences_of_objects_and_of_none_are_fitted(data: Path, tmp_path: Path) -> None:
    found = calibrate(evaluated(data, tmp_path / "run"))
    graded = [one for record in read_records(tmp_path / "run") for one in record.objects]
    share = sum(one.right for one in graded) / len(graded)
    assert 0.5 < share < 0.9
    assert found.calibration.objects(0.9) == pytest.approx(share, abs=0.02)
    count, before, after = found.errors["objects"]
    assert count == len(graded) == COUNT * 4 // 5
    assert before == pytest.approx(0.9 - share, abs=1e-6)
    assert after < 0.02
    assert found.errors["none"][0] == COUNT // 5
    assert found.calibration.none == Calibration().none, "twelve answers are too few to fit"


def test_a_run_with_the_calibration_is_calibrated_and_fits_on_from_there(data: Path, tmp_path: Path) -> None:
    first = calibrate(evaluated(data, tmp_path / "run")).calibration
    again = calibrate(evaluated(data, tmp_path / "calibrated", calibration=first))
    assert again.errors["objects"][1] < 0.02
    assert again.calibration.objects(0.9) == pytest.approx(first.objects(0.9), abs=0.01)
    metrics = json.loads((tmp_path / "calibrated" / "metrics.json").read_text())
    assert metrics["order"]["models"]["calibration"]["objects"]["slope"] == first.objects.slope


def test_none_is_graded_with_the_objects(data: Path, tmp_path: Path) -> None:
    metrics = json.loads((evaluated(data, tmp_path / "run") / "metrics.json").read_text())
    assert metrics["calibration"]["object"]["answers"] == COUNT


def test_abstaining_leaves_objects_out(data: Path, tmp_path: Path) -> None:
    evaluated(data, tmp_path / "run", abstain=0.95)
    records = read_records(tmp_path / "run")
    assert all(record.counts.stated_none for record in records)


def test_the_command_writes_the_file(data: Path, tmp_path: Path, run: Run) -> None:
    evaluated(data, tmp_path / "run")
    code, out, _ = run("evaluate", "--calibrate", tmp_path / "run", "--out", tmp_path / "calibration.json")
    assert code == 0
    assert "objects: 48 answers" in out
    assert Calibration.from_json((tmp_path / "calibration.json").read_text()).objects.offset != 0


def test_what_cannot_be_fitted_is_refused(data: Path, tmp_path: Path, run: Run) -> None:
    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=PLAIN)
    evaluate(EvaluationConfig("jsonl", data, protocol="rela", method="box"), tmp_path / "box", models=models)
    with pytest.raises(DataError, match="not a run of --method adaptive"):
        calibrate(tmp_path / "box")
    with pytest.raises(DataError, match="was run with --abstain"):
        calibrate(evaluated(data, tmp_path / "abstaining", abstain=0.5))
    with pytest.raises(DataError, match="expected the folder of a finished evaluation"):
        calibrate(tmp_path)
    for words in (("--calibrate", tmp_path), ("refcoco", "--calibrate", tmp_path, "--out", tmp_path)):
        code, _, err = run("evaluate", *words)
        assert (code, err.splitlines()[-1].startswith("sam4mllm: --calibrate takes a finished run")) == (2, True)
    code, _, err = run("evaluate", "refcoco", "--abstain", "1.5")
    assert code == 2
    assert "expected a probability from 0 to 1, got '1.5'" in err
