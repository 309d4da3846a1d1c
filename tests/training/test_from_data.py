"""One command from a data set to an adapter that segments."""

import json
import shutil
from pathlib import Path

import pytest

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.models.checkpoints import embedded_folder

SCENES = Path(__file__).parents[2] / "examples" / "scenes"
SETTINGS = """
mllm = "embedded"
dialect = "embedded"
lora_r = 4
batch = 2
accumulation = 1
max_steps = 2
report_to = "none"
recipe = { groups = 2, ppg = 0.2 }
"""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS)
    return path


def test_a_data_set_becomes_an_adapter_that_segments(settings: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "adapter"
    taught = f"embedded+{embedded_folder('adapter')}"  # in two steps, nothing is learnt from nothing
    settings.write_text(SETTINGS.replace('"embedded"', f'"{taught}"', 1) + "learning_rate = 1e-6\n")
    command = ["train", str(settings), "--data", f"jsonl:{SCENES}", "--out", str(out)]
    assert main(command) == 0
    recipe = json.loads((out / "manifest.json").read_text())["recipe"]
    assert (recipe["groups"], recipe["ppg"], recipe["dialect"]["name"]) == (2, 0.2, "embedded")
    weights = (out / "adapter_model.safetensors").read_bytes()
    assert main(command) == 0  # it is there already
    assert (out / "adapter_model.safetensors").read_bytes() == weights
    capsys.readouterr()
    picture = str(sorted(SCENES.glob("*.png"))[0])
    assert main(["segment", picture, "the green crescent", "--mllm", f"embedded+{out}", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["models"]["mllm"] == f"embedded+{out}"
    assert told["objects"]


def test_what_was_dropped_of_the_data_is_told(settings: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(SCENES, tmp_path / "mine")
    with next((tmp_path / "mine").glob("*.jsonl")).open("a") as lines:
        lines.write('{"image": "lost.png", "expression": "it", "objects": []}\n')
    assert main(["train", str(settings), "--data", f"jsonl:{tmp_path / 'mine'}", "--out", str(tmp_path / "out")]) == 0
    error = capsys.readouterr().err
    assert "1 dropped: the image does not exist" in error
    assert "lost.png" in error


def test_a_folder_of_something_else_is_refused_before_anything_is_built(settings: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(["train", str(settings), "--data", f"jsonl:{SCENES}", "--out", str(tmp_path / "mine")]) == 2
    assert "holds no training run" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        pytest.param(["--data", "jsonl"], "expected NAME:ROOT", id="no root"),
        pytest.param(["--data", "cocoa:x"], "unknown dataset 'cocoa'", id="no such data set"),
        pytest.param(["--data", "jsonl:nowhere"], "nowhere", id="a wrong root"),
        pytest.param([], "either 'lessons'", id="nothing to learn from"),
    ],
)
def test_what_cannot_be_trained_on_is_one_line(settings: Path, tmp_path: Path, capsys, flags: list[str], told: str) -> None:
    assert main(["train", str(settings), *flags, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_a_recipe_that_cannot_be_followed_is_one_line(settings: Path, tmp_path: Path, capsys) -> None:
    settings.write_text(SETTINGS.replace("groups = 2", "group = 2"))
    assert main(["train", str(settings), "--data", f"jsonl:{SCENES}", "--out", str(tmp_path / "out")]) == 2
    assert "a recipe has no setting group; its settings are pqpp, ppg" in capsys.readouterr().err
