"""`sam4mllm train` and `sam4mllm export`: settings from a file and from options."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from sam4mllm_tool.cli.main import app
from sam4mllm_tool.training.config import TrainingConfig
from tests.checkpoints import save_llava
from tests.training.drawn_conversations import write_conversations

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recorded_settings(monkeypatch: pytest.MonkeyPatch) -> list[TrainingConfig]:
    """Record the settings of each training in place of training."""
    settings: list[TrainingConfig] = []

    def record(config: TrainingConfig) -> str:
        settings.append(config)
        return config.out

    monkeypatch.setattr("sam4mllm_tool.training.run.train", record)
    return settings


def test_every_setting_is_an_option_with_its_default() -> None:
    options = {param.name: param for param in get_command(app).commands["train"].params}
    for field in fields(TrainingConfig):
        if field.name != "recipe":
            default = options.pop(field.name).default
            assert (tuple(default) if isinstance(default, list) and default else default or None) == (field.default or None)
    assert set(options) - {"help"} == {"config", "dry_run", "example"}


@pytest.mark.slow
def test_options_override_the_file_and_the_result_is_exported(run: Run, tmp_path: Path) -> None:
    base, out = save_llava(tmp_path / "base"), tmp_path / "out"
    conversations = write_conversations(tmp_path / "conversations", 2, points=1)
    file = tmp_path / "c.json"
    file.write_text(
        json.dumps(
            {"mllm": str(base), "lessons": str(conversations), "lora_r": 2, "max_steps": 9, "report_to": "none", "batch": 2}
        )
    )
    options = ("--out", out, "--max-steps", "1", "--no-projector", "--lora-targets", "q_proj")
    code, output, _ = run("train", file, *options)
    assert (code, output.splitlines()[0]) == (0, f"wrote {out}")
    assert output.splitlines()[-1] == f'next: sam4mllm segment IMAGE "EXPRESSION" --mllm {base}+{out}'
    settings = json.loads((out / "training.json").read_text())["settings"]
    assert (settings["max_steps"], settings["batch"], settings["lora_targets"]) == (1, 2, ["q_proj"])
    assert settings["projector"] is False
    merged = tmp_path / "merged"
    assert run("export", "--mllm", f"{base}+{out}", "--out", merged)[:2] == (0, f"wrote {merged}\n")
    assert (merged / "model.safetensors").is_file()


def test_options_take_several_values_in_a_row_or_repeated(run: Run, recorded_settings: list[TrainingConfig]) -> None:
    in_a_row = ("--lora-targets", "q_proj", "v_proj", "--eval-methods", "pqpp", "box", "--batch", "4")
    repeated = ("--lora-targets", "q_proj", "--lora-targets=v_proj", "--eval-methods", "pqpp", "--eval-methods", "box")
    data = ("--data", "jsonl:first", "--data", "jsonl:second")
    assert run("train", *in_a_row, *data, "--out", "o")[0] == 0
    assert run("train", *repeated, *data, "--out", "o", "--batch", "4")[0] == 0
    first, second = recorded_settings
    assert first == second
    assert (first.lora_targets, first.eval_methods) == (("q_proj", "v_proj"), ("pqpp", "box"))
    assert (first.data, first.batch) == (("jsonl:first", "jsonl:second"), 4)


def test_a_single_value_that_is_not_a_name_is_a_regular_expression(run: Run, recorded_settings: list[TrainingConfig]) -> None:
    pattern = r".*language_model.*\.(q|v)_proj"
    assert run("train", "--lessons", "x", "--out", "y", "--lora-targets", pattern)[0] == 0
    assert recorded_settings[0].lora_targets == pattern


def test_a_setting_that_is_not_given_is_left_to_the_file(
    run: Run, recorded_settings: list[TrainingConfig], tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('lessons = "x"\nout = "y"\nbatch = 7\npack = false\neval_methods = ["box"]\n')
    assert run("train", file, "--seed", "0")[0] == 0
    (settings,) = recorded_settings
    assert (settings.batch, settings.pack, settings.eval_methods) == (7, False, ("box",))


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        ('lessons = "x"\nout = "y"\nlr = 1.0\n', (), "c.toml: there is no setting 'lr'"),
        ("", ("--lessons", "x"), "'out'"),
        ("", ("--batch", "many"), "'--batch'"),
        ("", ("--precision", "fp8"), "'fp8' is not one of 'auto', 'bf16', 'float32'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(
    run: Run, tmp_path: Path, content: str, options: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "c.toml").write_text(content)
    code, out, err = run("train", tmp_path / "c.toml", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
