"""`sam4mllm train` and `sam4mllm export`: settings from a file and flags, faults in one line, nothing heavy to say them."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sam4mllm_tool.cli.train import add_commands
from sam4mllm_tool.errors import DataError
from tests.checkpoints import save_llava
from tests.training.teaching import write_lessons


def call(*words: str) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    arguments = parser.parse_args(words)
    arguments.run(arguments)


def test_flags_override_the_file_and_the_result_is_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, lessons, out = save_llava(tmp_path / "base"), write_lessons(tmp_path / "lessons", 2, points=1), tmp_path / "out"
    settings = {"mllm": str(base), "lessons": str(lessons), "lora_r": 2, "max_steps": 9, "report_to": "none", "batch": 2}
    (tmp_path / "c.json").write_text(json.dumps(settings))
    call("train", str(tmp_path / "c.json"), "--out", str(out), "--max-steps", "1", "--no-projector", "--lora-targets", "q_proj")
    told = json.loads((out / "training.json").read_text())["settings"]
    assert (told["max_steps"], told["batch"], told["lora_targets"], told["projector"]) == (1, 2, ["q_proj"], False)
    call("export", "--mllm", f"{base}+{out}", "--out", str(tmp_path / "merged"))
    assert (tmp_path / "merged" / "model.safetensors").is_file()
    assert capsys.readouterr().out.splitlines() == [f"wrote {out}", f"wrote {tmp_path / 'merged'}"]


def test_a_wrong_setting_is_told_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('lessons = "x"\nout = "y"\nlr = 1.0\n')
    with pytest.raises(DataError, match=r"c\.toml: there is no setting 'lr'"):
        call("train", str(tmp_path / "c.toml"))


def test_one_value_with_signs_is_a_regular_expression(tmp_path: Path) -> None:
    base, lessons, out = save_llava(tmp_path / "base"), write_lessons(tmp_path / "lessons", 1, points=1), tmp_path / "out"
    words = ["--mllm", str(base), "--lessons", str(lessons), "--out", str(out), "--lora-r", "2", "--max-steps", "1"]
    call("train", *words, "--report-to", "none", "--lora-targets", r".*language_model.*\.(q|v)_proj")
    told = json.loads((out / "training.json").read_text())["settings"]["lora_targets"]
    assert told == r".*language_model.*\.(q|v)_proj"


def test_help_and_faults_come_without_torch() -> None:
    program = (
        "import argparse, sys\nfrom sam4mllm_tool.cli.train import add_commands\nparser = argparse.ArgumentParser()\n"
        "add_commands(parser.add_subparsers())\nprint(parser.parse_args(['train', '--batch', '4']))\n"
        "assert 'torch' not in sys.modules"
    )
    assert (
        "setting_batch=4" in subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    )
