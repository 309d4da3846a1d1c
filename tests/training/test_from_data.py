"""One command from a dataset to an adapter that segments."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.embedded.scene_files import SCENES_FILE

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
SETTINGS = """
mllm = "embedded"
dialect = "embedded"
batch = 2
accumulation = 1
max_steps = 2
report_to = "none"
recipe = { groups = 2, ppg = 0.2 }
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The first expressions about each of two example scenes."""
    lines = [json.loads(line) for line in (SCENES / SCENES_FILE).read_text().splitlines()]
    folder = tmp_path / "dataset"
    folder.mkdir()
    with (folder / SCENES_FILE).open("w") as file:
        for image in sorted({line["image"] for line in lines})[:2]:
            shutil.copy(SCENES / image, folder)
            file.writelines(json.dumps(line) + "\n" for line in [line for line in lines if line["image"] == image][:3])
    return folder


@pytest.mark.slow
def test_a_dataset_becomes_an_adapter_that_segments_and_what_it_drops_is_reported(
    settings: Path, dataset: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "adapter"
    settings.write_text(SETTINGS + "learning_rate = 1e-6\n")
    with (dataset / SCENES_FILE).open("a") as lines:
        lines.write('{"image": "lost.png", "expression": "it", "objects": []}\n')
    command = ["train", settings, "--data", f"jsonl:{dataset}", "--out", out]
    code, _, stderr = run(*command)
    assert code == 0
    assert "1 dropped: " in stderr
    assert "lost.png" in stderr
    recipe = json.loads((out / "manifest.json").read_text())["recipe"]
    assert (recipe["groups"], recipe["ppg"], recipe["dialect"]["name"]) == (2, 0.2, "embedded")
    weights = (out / "adapter_model.safetensors").read_bytes()
    assert run(*command)[0] == 0, "a finished run is left as it is"
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    lines = [json.loads(line) for line in (SCENES / SCENES_FILE).read_text().splitlines()]
    line = next(line for line in lines if line["kind"] == "attribute")
    code, stdout, _ = run("segment", SCENES / line["image"], line["expression"], "--mllm", f"embedded+{out}", "--json")
    assert code == 0
    result = json.loads(stdout)
    assert result["models"]["mllm"] == f"embedded+{out}"
    assert result["objects"]


def test_a_folder_with_other_files_is_refused_before_anything_is_built(settings: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    code, _, stderr = run("train", settings, "--data", f"jsonl:{SCENES}", "--out", out)
    assert code == 2
    assert "holds no training run" in stderr
    assert [file.name for file in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--data", "jsonl"], "expected NAME:ROOT", id="no root"),
        pytest.param(["--data", "cocoa:x"], "'cocoa'", id="unknown dataset"),
        pytest.param(["--data", "jsonl:nowhere"], "nowhere", id="missing root"),
        pytest.param([], "either 'lessons'", id="neither conversations nor data"),
    ],
)
def test_unusable_data_is_reported_in_one_line(
    settings: Path, tmp_path: Path, run: Run, flags: list[str], message: str
) -> None:
    code, _, stderr = run("train", settings, *flags, "--out", tmp_path / "out")
    assert code == 2
    assert message in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_an_unknown_recipe_setting_is_reported(settings: Path, tmp_path: Path, run: Run) -> None:
    settings.write_text(SETTINGS.replace("groups = 2", "group = 2"))
    code, _, stderr = run("train", settings, "--data", f"jsonl:{SCENES}", "--out", tmp_path / "out")
    assert code == 2
    assert "group" in stderr
    assert "pqpp, ppg" in stderr
