"""What can be known before training is looked at first: nothing is built for a run that can't succeed."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.errors import DataError, Sam4MllmError
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.preflight import check_before_building, find_report_service
from sam4mllm_tool.training.run import train

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"mllm": "/nowhere/model"}, "/nowhere/model", id="model"),
        pytest.param({"init_adapter": "/nowhere/adapter"}, "/nowhere/adapter", id="adapter"),
        pytest.param({"dialect": "latin"}, "no such dialect: 'latin'", id="dialect"),
        pytest.param({"lora_targets": ["x_proj"], "from_base": True}, "lora_targets .* match none", id="layers"),
        pytest.param({"recipe": {"ppgg": 1}}, "a recipe has no setting ppgg", id="recipe"),
        pytest.param({"recipe": {"segmenter": "/nowhere/sam"}}, "/nowhere/sam", id="segmenter"),
        pytest.param({"eval_segmenter": "/nowhere/sam"}, "/nowhere/sam", id="evaluation's segmenter"),
        pytest.param({"lora_r": 8}, "lora_r = 8 has no effect", id="rank"),
    ],
)
def test_a_run_that_cannot_succeed_is_refused_before_anything_is_built(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    config = TrainingConfig.from_dict({"data": [f"jsonl:{SCENES}"], "out": str(tmp_path / "out"), **settings})
    with pytest.raises(Sam4MllmError, match=message):
        train(config)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_hold_the_result_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    config = TrainingConfig(data=(f"jsonl:{SCENES}",), out=str(tmp_path / "file" / "out"))
    with pytest.raises(DataError, match=r"out'.* can't be made: .*file is a file"):
        check_before_building(config)


@pytest.mark.slow
def test_a_dry_run_foretells_the_steps_of_the_run_and_writes_nothing(
    base: Path, conversations_dir: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "out"
    small = ("--lora-r", "4", "--lora-alpha", "8", "--batch", "2", "--accumulation", "2", "--epochs", "2")
    options = ("--mllm", base, "--lessons", conversations_dir, "--out", out, *small)
    code, printed, _ = run("train", *options, "--dry-run")
    assert code == 0
    lines = dict(line.partition(": ")[::2] for line in printed.splitlines())
    assert lines["data"] == "6 images"
    assert lines["rows"].startswith("about 6, of ")
    assert lines["memory"].endswith(" GiB")
    assert lines["time"].startswith("about ")
    assert printed.endswith("nothing was written\n")
    assert not out.exists()
    assert run("train", *options)[0] == 0
    steps = json.loads((out / "training.json").read_text())["steps"]
    assert lines["steps"].startswith(f"{steps}, about ")


@pytest.mark.slow
def test_a_dry_run_counts_the_images_that_are_held_back(tmp_path: Path, run: Run) -> None:
    options = ("--data", f"jsonl:{SCENES}", "--held-back", "1", "--max-steps", "7", "--batch", "1", "--accumulation", "1")
    code, printed, _ = run("train", *options, "--out", tmp_path / "out", "--dry-run")
    assert code == 0
    images = len({json.loads(line)["image"] for line in (SCENES / "scenes.jsonl").read_text().splitlines()})
    assert f"data: {images - 1} images, 1 image held back" in printed
    assert "steps: 7, about" in printed
    assert "to build the training conversations" in printed
    assert not (tmp_path / "out").exists()


def test_the_example_settings_are_settings(run: Run) -> None:
    code, printed, _ = run("train", "--example")
    assert code == 0
    config = TrainingConfig.from_dict(tomllib.loads(printed))
    commented = [line.split()[1] for line in printed.splitlines() if line.startswith("# ") and " = " in line]
    assert "lora_r" in commented
    assert set(commented) <= set(config.to_dict())


def test_metrics_go_to_tensorboard_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(lessons="l", out="o")
    monkeypatch.setattr("sam4mllm_tool.training.preflight.find_spec", lambda name: name == "tensorboard")
    assert find_report_service(config) == "tensorboard"
    monkeypatch.setattr("sam4mllm_tool.training.preflight.find_spec", lambda _: None)
    assert find_report_service(config) == "none"
