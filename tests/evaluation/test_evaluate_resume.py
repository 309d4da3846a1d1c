"""However often it is cut and whoever shares the work, an evaluation comes to the same lines and the same report."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam4mllm_tool.embedded.files import write_scenes
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate
from tests.evaluation.evaluated import line, reports_of, samples_of, scripted, told, write_lines

EVALUATE = """
import sys, time
from pathlib import Path
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from tests.evaluation.evaluated import scripted, told

def boxes(expression):
    time.sleep(0.002)
    return told(4, 3, 24, 5 + int(expression.split()[1]) % 20)

evaluate(EvaluationConfig("jsonl", Path(sys.argv[1])), sys.argv[2], models=scripted(boxes))
"""


def many(root: Path, count: int) -> Path:
    """Samples of which each picture has four, with different masks."""
    lines = [line(f"sample {n}", (4, 3, 24, 10 + n % 15), image=f"picture-{n // 4}.png") for n in range(count)]
    write_lines(root, *lines)
    for number in range(-(-count // 4)):
        os.link(root / "one.png", root / f"picture-{number}.png")
    return root


@pytest.mark.slow
def test_1000_samples_with_a_kill_in_between_give_the_same_report(tmp_path: Path) -> None:
    root = many(tmp_path / "data", 1000)
    command = [sys.executable, "-c", EVALUATE, str(root)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, stderr=subprocess.DEVNULL)
    cut = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
    part = tmp_path / "cut" / "samples.jsonl.part"
    while cut.poll() is None and (not part.exists() or part.read_bytes().count(b"\n") < 300):
        time.sleep(0.01)
    os.kill(cut.pid, signal.SIGKILL)
    assert cut.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "samples.jsonl").exists()
    kept = part.read_bytes().count(b"\n")
    assert 300 <= kept < 1000
    with part.open("a") as torn:
        torn.write('{"id": "sample 3')
    subprocess.run([*command, str(tmp_path / "cut")], check=True, stderr=subprocess.DEVNULL)
    assert samples_of(tmp_path / "cut") == samples_of(tmp_path / "whole")
    assert len(samples_of(tmp_path / "cut")) == 1000
    assert reports_of(tmp_path / "cut") == reports_of(tmp_path / "whole")
    assert not part.exists()


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 6, 11, 12])
def test_a_run_goes_on_from_wherever_it_was_cut(tmp_path: Path, kept: int) -> None:
    root = many(tmp_path / "data", 12)
    config = EvaluationConfig("jsonl", root)
    evaluate(config, tmp_path / "whole", models=scripted(lambda _: told(4, 3, 24, 18)))
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "order.json").write_bytes((tmp_path / "whole" / "order.json").read_bytes())
    lines = (tmp_path / "whole" / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "samples.jsonl.part").write_bytes(b"".join(lines[:kept]) + b"".join(lines[kept : kept + 1])[:-9])
    models = scripted(lambda _: told(4, 3, 24, 18))
    evaluate(config, cut, models=models)
    assert samples_of(cut) == samples_of(tmp_path / "whole")
    assert reports_of(cut) == reports_of(tmp_path / "whole")
    assert len(models.mllm.questions) == 2 * (12 - kept // 4 * 4)  # whole pictures alone are kept


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 6, seed=5_000_100, per_scene=3)
    return folder


@pytest.mark.slow
def test_two_processes_give_what_one_gives_to_the_last_digit(scenes: Path, tmp_path: Path) -> None:
    config = EvaluationConfig("jsonl", scenes, models=ModelSpec("embedded", "embedded"))
    evaluate(config, tmp_path / "one")
    evaluate(config, tmp_path / "two", processes=2)
    assert samples_of(tmp_path / "one") == samples_of(tmp_path / "two")
    assert reports_of(tmp_path / "one") == reports_of(tmp_path / "two")


SHARED = """
import sys
from pathlib import Path
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate

if __name__ == "__main__":
    models = ModelSpec("embedded", "embedded")
    evaluate(EvaluationConfig("jsonl", Path(sys.argv[1]), models=models), sys.argv[2], processes=2)
"""


@pytest.mark.slow
def test_the_processes_of_a_run_that_is_killed_end_with_it(scenes: Path, tmp_path: Path) -> None:
    script = tmp_path / "shared.py"
    script.write_text(SHARED)
    command = [sys.executable, str(script), str(scenes)]
    cut = subprocess.Popen([*command, str(tmp_path / "cut")], stderr=subprocess.DEVNULL)
    part = tmp_path / "cut" / "samples.jsonl.part"
    while cut.poll() is None and (not part.exists() or not part.stat().st_size):
        time.sleep(0.02)
    children = Path(f"/proc/{cut.pid}/task/{cut.pid}/children").read_text().split()
    assert len(children) >= 2
    os.kill(cut.pid, signal.SIGKILL)
    cut.wait()
    ends = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < ends:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    subprocess.run([*command, str(tmp_path / "cut")], check=True, stderr=subprocess.DEVNULL)
    config = EvaluationConfig("jsonl", scenes, models=ModelSpec("embedded", "embedded"))
    evaluate(config, tmp_path / "whole")
    assert samples_of(tmp_path / "cut") == samples_of(tmp_path / "whole")
    assert reports_of(tmp_path / "cut") == reports_of(tmp_path / "whole")


@pytest.mark.slow
def test_models_that_do_not_load_in_a_process_are_told_as_in_this_one(scenes: Path, tmp_path: Path) -> None:
    from sam4mllm_tool.errors import SpecError

    config = EvaluationConfig("jsonl", scenes, models=ModelSpec(str(tmp_path / "nothing"), "embedded"))
    for processes in (1, 2):
        with pytest.raises(SpecError, match="nothing"):
            evaluate(config, tmp_path / "out", processes=processes)


def test_models_of_this_process_are_not_shared(tmp_path: Path) -> None:
    root = write_lines(tmp_path / "data", line("a", (4, 3, 24, 18)))
    with pytest.raises(ValueError, match="processes=1"):
        evaluate(EvaluationConfig("jsonl", root), tmp_path / "out", processes=2, models=scripted(lambda _: "hm"))
