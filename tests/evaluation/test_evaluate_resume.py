"""An evaluation gives the same records and reports however often it is interrupted and whichever processes share it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate
from tests.evaluation.evaluation_helpers import (
    box_reply,
    read_reports,
    read_samples,
    sample_line,
    scripted_models,
    write_samples,
)
from tests.results import assert_equal_json

EMBEDDED = ModelSpec("embedded", "embedded")
LAST_SAMPLE = 90
"""The sample at which the evaluation that is to be killed waits."""


def write_numbered_samples(root: Path, count: int) -> Path:
    """Write samples with different masks, four to an image."""
    lines = [sample_line(f"sample {n}", (4, 3, 24, 10 + n % 15), image=f"image-{n // 4}.png") for n in range(count)]
    write_samples(root, *lines)
    for number in range(-(-count // 4)):
        os.link(root / "one.png", root / f"image-{number}.png")
    return root


def numbered_reply(expression: str) -> str:
    return box_reply(4, 3, 24, 5 + int(expression.split()[1]) % 20)


def wait_at_last_sample(root: str, out: str) -> None:
    """Evaluate up to an image in the middle, then wait to be killed."""

    def reply(expression: str) -> str:
        if expression == f"sample {LAST_SAMPLE}":
            time.sleep(3600)
        return numbered_reply(expression)

    evaluate(EvaluationConfig("jsonl", Path(root)), out, models=scripted_models(reply))


def assert_same_results(first: Path, second: Path) -> None:
    """Check that two runs came to the same; models round by what they answered before."""
    assert_equal_json(read_samples(first), read_samples(second))
    reports, others = read_reports(first), read_reports(second)
    assert reports.keys() == others.keys()
    assert_equal_json(json.loads(reports["metrics.json"]), json.loads(others["metrics.json"]))
    assert reports["report.md"] == others["report.md"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_results(tmp_path: Path) -> None:
    root, out, part = write_numbered_samples(tmp_path / "data", 120), tmp_path / "cut", tmp_path / "cut" / "samples.jsonl.part"
    script = f"from tests.evaluation.test_evaluate_resume import wait_at_last_sample as run; run({str(root)!r}, {str(out)!r})"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    complete = LAST_SAMPLE // 4 * 4
    while process.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < complete):
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "samples.jsonl").exists()
    assert part.read_bytes().count(b"\n") == complete
    with part.open("a") as torn:
        torn.write('{"id": "sample 3')
    models = scripted_models(numbered_reply)
    evaluate(EvaluationConfig("jsonl", root), out, models=models)
    assert len(models.mllm.questions) == 2 * (120 - complete)
    assert not part.exists()
    evaluate(EvaluationConfig("jsonl", root), tmp_path / "whole", models=scripted_models(numbered_reply))
    assert_same_results(out, tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationConfig, Path]:
    """An evaluation of eight samples and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    config = EvaluationConfig("jsonl", write_numbered_samples(folder / "data", 8))
    evaluate(config, folder / "out", models=scripted_models(numbered_reply))
    return config, folder / "out"


@pytest.mark.parametrize("kept", [0, 3, 4, 8])
def test_a_run_resumes_after_the_last_complete_image(tmp_path: Path, whole: tuple[EvaluationConfig, Path], kept: int) -> None:
    config, finished = whole
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "order.json").write_bytes((finished / "order.json").read_bytes())
    lines = (finished / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "samples.jsonl.part").write_bytes(b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:-9])
    models = scripted_models(numbered_reply)
    evaluate(config, cut, models=models)
    assert_same_results(cut, finished)
    assert len(models.mllm.questions) == 2 * (8 - kept // 4 * 4)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 6, seed=5_000_100, per_scene=2)
    return folder


@pytest.fixture(scope="module")
def one_process(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation of the scenes in this process."""
    out = tmp_path_factory.mktemp("one-process") / "out"
    evaluate(EvaluationConfig("jsonl", scenes, split="all", models=EMBEDDED), out)
    return out


@pytest.mark.slow
def test_two_processes_give_the_same_results_as_one(scenes: Path, one_process: Path, tmp_path: Path) -> None:
    evaluate(EvaluationConfig("jsonl", scenes, split="all", models=EMBEDDED), tmp_path / "two", processes=2)
    assert_same_results(one_process, tmp_path / "two")


def test_the_processes_of_torchrun_give_the_results_of_one(
    tmp_path: Path, whole: tuple[EvaluationConfig, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, finished = whole
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 1, 0):  # the first one waits for the others, of which one has no image
        monkeypatch.setenv("RANK", str(rank))
        models = scripted_models(numbered_reply)
        metrics = evaluate(config, tmp_path / "shared", models=models)
        assert len(models.mllm.questions) == 2 * (4 if rank < 2 else 0)
        assert bool(metrics) == (rank == 0)
    assert_same_results(tmp_path / "shared", finished)
    assert not list((tmp_path / "shared").glob("samples.jsonl.*"))


TWO_PROCESSES = """
import sys
from pathlib import Path
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate

if __name__ == "__main__":
    models = ModelSpec("embedded", "embedded")
    evaluate(EvaluationConfig("jsonl", Path(sys.argv[1]), split="all", models=models), sys.argv[2], processes=2)
"""


@pytest.mark.slow
def test_a_killed_run_takes_its_processes_with_it(scenes: Path, one_process: Path, tmp_path: Path) -> None:
    script, out = tmp_path / "two_processes.py", tmp_path / "cut"
    script.write_text(TWO_PROCESSES)
    process = subprocess.Popen([sys.executable, str(script), str(scenes), str(out)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not (out / "samples.jsonl.part").exists():
        time.sleep(0.02)
    children_file = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and len(children_file.read_text().split()) < 2:
        time.sleep(0.02)
    children = [Path(f"/proc/{child}") for child in children_file.read_text().split()]
    process.kill()
    assert process.wait() == -signal.SIGKILL
    while any(child.exists() for child in children):  # a process that stays hangs the test
        time.sleep(0.05)
    evaluate(EvaluationConfig("jsonl", scenes, split="all", models=EMBEDDED), out)
    assert_same_results(out, one_process)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_models_that_cannot_be_loaded_raise_the_same_error_in_any_process(tmp_path: Path, processes: int) -> None:
    root = write_numbered_samples(tmp_path / "data", 1)
    config = EvaluationConfig("jsonl", root, models=ModelSpec(str(tmp_path / "nothing"), "embedded"))
    with pytest.raises(SpecError, match="nothing"):
        evaluate(config, tmp_path / "out", processes=processes)


def test_models_cannot_be_passed_to_several_processes(tmp_path: Path) -> None:
    root = write_samples(tmp_path / "data", sample_line("a", (4, 3, 24, 18)))
    with pytest.raises(ValueError, match="processes=1"):
        evaluate(EvaluationConfig("jsonl", root), tmp_path / "out", processes=2, models=scripted_models(numbered_reply))
