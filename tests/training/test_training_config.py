"""Settings come from files and flags; wrong ones are reported before anything is loaded."""

from pathlib import Path

import pytest
import torch

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.training.config import TrainingConfig, list_differences, read_config
from sam4mllm_tool.training.model import uses_bfloat16

NEEDED = {"lessons": "lessons", "out": "out"}


def test_the_defaults_are_the_papers() -> None:
    config = TrainingConfig(**NEEDED)
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (128, 128, 0.05)
    assert (config.learning_rate, config.weight_decay, config.warmup, config.schedule) == (1e-4, 1e-3, 0.01, "linear")
    assert (config.epochs, config.batch, config.accumulation, config.max_tokens) == (3, 1, 8, 1536)


@pytest.mark.parametrize("native", [True, False])
def test_a_cpu_computes_in_bfloat16_by_default_only_where_it_does_so_natively(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert uses_bfloat16(TrainingConfig(**NEEDED, device="cpu")) == native
    assert uses_bfloat16(TrainingConfig(**NEEDED, device="cpu", precision="bf16"))
    assert not uses_bfloat16(TrainingConfig(**NEEDED, device="cpu", precision="float32"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'lessons = "l"\nout = "o"\nbatch = 4\neval_methods = ["box", "ppg"]\nepochs = 2\n'),
        ("c.json", '{"lessons": "l", "out": "o", "batch": 4, "eval_methods": ["box", "ppg"], "epochs": 2}'),
        ("c.yaml", "lessons: l\nout: o\nbatch: 4\neval_methods: [box, ppg]\nepochs: 2\n"),
    ],
)
def test_toml_json_and_yaml_give_the_same_settings(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    config = TrainingConfig.from_dict(read_config(tmp_path / name))
    assert config == TrainingConfig(lessons="l", out="o", batch=4, eval_methods=("box", "ppg"), epochs=2.0)
    assert TrainingConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"learnin_rate": 1}, "no setting 'learnin_rate': the settings are mllm, from_base, lessons", id="unknown"),
        pytest.param({"batch": "four"}, "expected batch as int, got 'four'", id="type"),
        pytest.param({"batch": True}, "expected batch as int, got True", id="bool for a number"),
        pytest.param({"precision": "fp8"}, "expected precision as .*bf16.*, got 'fp8'", id="choice"),
        pytest.param({"batch": 0}, "expected batch of at least 1, got 0", id="range"),
        pytest.param({"lora_dropout": 1.0}, "lora_dropout from 0 to below 1", id="dropout"),
        pytest.param({"adam_beta2": 1.0}, "adam_beta2 from 0 to below 1, got 1.0", id="beta"),
        pytest.param({"warmup": -3}, "warmup of 0 or above, got -3", id="warmup"),
        pytest.param({"max_grad_norm": -1}, "max_grad_norm of 0 or above, got -1", id="norm"),
        pytest.param({"workers": -1}, "workers of at least 0, got -1", id="workers"),
        pytest.param({"seed": -1}, "seed of at least 0, got -1", id="seed"),
        pytest.param({"seed": 2**32}, r"seed below 2 \*\* 32, got 4294967296", id="long seed"),
        pytest.param({"epochs": float("nan")}, "epochs above 0, got nan", id="nan"),
        pytest.param({"learning_rate": float("inf")}, "learning_rate above 0, got inf", id="infinite"),
        pytest.param({"projector_learning_rate": 0}, "projector_learning_rate above 0, got 0", id="projector's rate"),
        pytest.param({"eval_data": "scenes"}, "eval_data as NAME:ROOT, as in .*, got 'scenes'", id="no name"),
        pytest.param(
            {"eval_data": "jsonl:x", "eval_methods": ["box", "ppq"]}, "eval_methods among pqpp, .*, got 'ppq'", id="method"
        ),
        pytest.param({"eval_data": "jsonl:x", "eval_methods": []}, "needs eval_methods", id="no method"),
        pytest.param({"eval_data": "jsonl:x", "fsdp": "full_shard"}, "fsdp shards them", id="sharded"),
        pytest.param({"out": ""}, "needs 'out'", id="no out"),
        pytest.param({"lessons": ""}, "needs either 'lessons'", id="no lessons"),
        pytest.param({"data": ["jsonl:x"]}, "needs either 'lessons'", id="both"),
        pytest.param({"mllm": "a+b", "init_adapter": "c"}, "adapter is given twice", id="two adapters"),
    ],
)
def test_a_wrong_setting_is_reported_by_name(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict({**NEEDED, **settings})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        pytest.param("c.toml", "batch = ", "c.toml can't be read", id="broken TOML"),
        pytest.param("c.json", "[1]", "expected settings as names with values, got list", id="not a table"),
        pytest.param("c.yaml", "a: [", "c.yaml can't be read", id="broken YAML"),
        pytest.param("c.ini", "", "expected a file ending in .* got .ini", id="suffix"),
    ],
)
def test_a_file_that_holds_no_settings_is_reported(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        read_config(tmp_path / name)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no.toml can't be read: No such file"):
        read_config(tmp_path / "no.toml")


def test_only_settings_that_affect_learning_are_differences() -> None:
    before = TrainingConfig(**NEEDED).to_dict()
    now = TrainingConfig(**NEEDED, learning_rate=1.0, keep=9, workers=3, eval_every=7).to_dict()
    assert list_differences(before, now) == ["learning_rate: 0.0001 -> 1.0"]
