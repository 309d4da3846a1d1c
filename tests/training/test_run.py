"""A run from lessons to a folder that is loaded: cut and resumed, refused, finished, exported."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sam4mllm_tool.embedded.files import write_scenes
from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm, find_dialect
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.training import run as run_module
from sam4mllm_tool.training.callbacks import held_out, measure
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.merge_adapter import export
from sam4mllm_tool.training.run import train
from sam4mllm_tool.training.trainer import newest_checkpoint
from sam4mllm_tool.types import Labels, Question, Turn
from tests.checkpoints import FAMILIES
from tests.training.teaching import write_lessons

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"), 6, dialect=PLAIN, expressions=1, points=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["llava"](tmp_path_factory.mktemp("base"))


def settings(base: Path, lessons: Path, out: Path, **others: Any) -> dict[str, Any]:
    small = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-2, "batch": 1, "accumulation": 2, "max_steps": 7}
    small |= {"save_every": 2, "log_every": 1, "report_to": "none"}
    return {"mllm": str(base), "lessons": str(lessons), "out": str(out), **small, **others}


def run(base: Path, lessons: Path, out: Path, **others: Any) -> Path:
    return train(TrainingConfig.from_dict(settings(base, lessons, out, **others)))


@pytest.fixture(scope="module")
def finished(base: Path, lessons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, lessons, tmp_path_factory.mktemp("finished") / "out")


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def furthest(one: Path, other: Path) -> float:
    return max(float((value - adapter(other)[name]).abs().max()) for name, value in adapter(one).items())


def test_the_result_is_a_folder_that_loads_and_tells_how_it_was_made(finished: Path, base: Path, lessons: Path) -> None:
    load_mllm(f"{base}+{finished}")
    assert find_dialect(f"{base}+{finished}") == PLAIN
    told = json.loads((finished / "training.json").read_text())
    assert told["settings"]["learning_rate"] == 1e-2
    assert (told["steps"], told["rows"]["lessons"]) == (7, 6)
    assert {"torch", "transformers", "peft"} <= set(told["versions"])
    assert (finished / "manifest.json").read_text() == (lessons / "manifest.json").read_text()
    assert json.loads((finished / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    names = adapter(finished)
    assert any("lora_A" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert not any("vision_tower" in name for name in names)
    steps = losses(finished)
    assert list(steps) == list(range(1, 8))
    assert steps[7] < steps[1]


def test_the_same_command_after_the_end_does_nothing(finished: Path, base: Path, lessons: Path) -> None:
    before = (finished / "adapter_model.safetensors").stat().st_mtime_ns
    assert run(base, lessons, finished) == finished
    assert (finished / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"workers": 1}, id="pictures opened by another process"),
        pytest.param({"report_to": "tensorboard"}, id="TensorBoard"),
        pytest.param({"gradient_checkpointing": True}, id="activations computed again"),
        pytest.param({"attention": "sdpa"}, id="a full mask"),
    ],
)
def test_what_is_no_matter_of_learning_changes_nothing(
    base: Path, lessons: Path, tmp_path: Path, others: dict[str, Any]
) -> None:
    out = run(base, lessons, tmp_path / "out", precision="float32", max_steps=2, **others)
    plain = run(base, lessons, tmp_path / "plain", precision="float32", max_steps=2)
    assert losses(out) == pytest.approx(losses(plain), rel=1e-4)
    assert (out / "tensorboard").exists() == (others.get("report_to") == "tensorboard")


class PowerCutError(Exception):
    """Stands for the power that goes off."""


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    from sam4mllm_tool.training.callbacks import Bar

    def stop(_self: Bar, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == step:
            raise PowerCutError

    monkeypatch.setattr(Bar, "on_step_end", stop)


@pytest.mark.parametrize("step", [3, 4, 6], ids=["within an epoch", "before a save", "after an epoch"])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    finished: Path, base: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patched:
        cut_at(patched, step)
        with pytest.raises(PowerCutError):
            run(base, lessons, tmp_path / "out")
    torch.rand(5)  # whatever ran in between
    out = run(base, lessons, tmp_path / "out")
    assert furthest(out, finished) <= 1e-6
    assert losses(out) == pytest.approx(losses(finished), abs=1e-6)


@pytest.mark.parametrize("told", [{"max_steps": 3}, {"max_steps": None, "epochs": 1.5}], ids=["steps", "epochs"])
def test_a_cut_between_the_last_step_and_the_end_trains_no_step_more(
    base: Path, lessons: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    out = run(base, lessons, tmp_path / "out", schedule="constant", **told)  # a rate that has not come down to 0
    written = (out / "adapter_model.safetensors").read_bytes()
    steps = json.loads((out / "training.json").read_text())["steps"]
    for name in ("adapter_config.json", "adapter_model.safetensors", "training.json"):
        (out / name).unlink()
    assert run(base, lessons, out, schedule="constant", **told) == out
    assert (out / "adapter_model.safetensors").read_bytes() == written
    assert json.loads((out / "training.json").read_text())["steps"] == steps
    assert list(losses(out)) == list(range(1, steps + 1))


def test_a_half_written_checkpoint_is_never_taken(
    finished: Path, base: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        cut_at(patched, 5)
        with pytest.raises(PowerCutError):
            run(base, lessons, tmp_path / "out")
    half = tmp_path / "out" / "checkpoints" / "writing" / "checkpoint-6"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text("{")
    newest = newest_checkpoint(tmp_path / "out" / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-4"
    assert furthest(run(base, lessons, tmp_path / "out"), finished) <= 1e-6
    assert not half.exists()


def test_only_the_newest_checkpoints_stay(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "checkpoints").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]


def test_a_changed_setting_is_refused_by_name(finished: Path, base: Path, lessons: Path) -> None:
    with pytest.raises(DataError, match=r"other settings \(learning_rate: 0.01 -> 0.5; lora_r: 4 -> 8\)"):
        run(base, lessons, finished, learning_rate=0.5, lora_r=8, keep=5)


def test_changed_lessons_are_refused(finished: Path, base: Path, tmp_path: Path) -> None:
    others = write_lessons(tmp_path / "others", 2, dialect=PLAIN, expressions=1, points=1)
    with pytest.raises(DataError, match="lessons_sha256"):
        run(base, others, finished)


def test_a_folder_with_other_things_in_it_is_left_alone(base: Path, lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="not empty and holds no training run"):
        run(base, lessons, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_picture_is_named_with_its_lesson(base: Path, tmp_path: Path) -> None:
    lessons = write_lessons(tmp_path / "lessons", 2, dialect=PLAIN, expressions=1, points=1)
    (lessons / "1.png").unlink()
    with pytest.raises(DataError, match=r"lesson 'scene-1'.*1\.png"):
        run(base, lessons, tmp_path / "out")


def test_a_folder_without_lessons_is_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lessons\.jsonl is not there"):
        run(base, tmp_path, tmp_path / "out")


def test_lessons_that_leave_nothing_say_why(base: Path, lessons: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leave nothing to learn: .* answers that end after max_tokens=5"):
        run(base, lessons, tmp_path / "out", max_tokens=5)


def test_bits_need_their_library(base: Path, lessons: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="bitsandbytes"):
        run(base, lessons, tmp_path / "out", quantise="4bit")


def test_training_goes_on_from_an_adapter(finished: Path, base: Path, lessons: Path, tmp_path: Path) -> None:
    out = run(Path(f"{base}+{finished}"), lessons, tmp_path / "out", max_steps=1, learning_rate=1e-9)
    assert furthest(out, finished) <= 1e-6
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


def test_the_projector_learns_at_its_own_rate(base: Path, lessons: Path, tmp_path: Path) -> None:
    out = run(base, lessons, tmp_path / "out", max_steps=1, warmup=0, projector_learning_rate=1e-9)
    before = {name.rpartition("projector.")[2]: value for name, value in load_file(base / "model.safetensors").items()}
    projector = {name.rpartition("projector.")[2]: value for name, value in adapter(out).items() if "projector" in name}
    assert projector
    assert max(float((value - before[name]).abs().max()) for name, value in projector.items()) < 1e-7
    assert max(float(value.abs().max()) for name, value in adapter(out).items() if "lora_B" in name) > 1e-3


def test_an_evaluation_measures_the_adapter_and_changes_nothing(lessons: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 2, seed=99, per_scene=1)
    base = Path(f"embedded+{embedded_folder('adapter')}")  # which finds objects, so that the figure is neither 0 nor 1
    told: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-6, "dialect": "embedded", "precision": "float32"}
    plain = run(base, lessons, tmp_path / "plain", **told)
    told |= {"eval_data": f"jsonl:{tmp_path / 'scenes'}", "eval_split": "train", "eval_every": 1, "eval_methods": ["box"]}
    out = run(base, lessons, tmp_path / "out", **told)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_box_cIoU"] for line in lines if "eval_box_cIoU" in line}
    again = measure(Sam4Mllm.load(f"embedded+{out}"), held_out(told["eval_data"], "train", 100), "box")
    assert list(measured) == [1, 2]
    assert measured[2] == pytest.approx(again["eval_box_cIoU"], abs=1e-6)
    assert 0.1 < measured[2] < 1
    assert (out / "adapter_model.safetensors").read_bytes() == (plain / "adapter_model.safetensors").read_bytes()


def test_an_exported_model_answers_as_base_and_adapter(finished: Path, base: Path, tmp_path: Path) -> None:
    out = export(f"{base}+{finished}", tmp_path / "merged")
    ids = torch.arange(20, 60)[None]
    with torch.inference_mode():
        own, merged = (load_checkpoint(*spec)[0](input_ids=ids).logits for spec in ((str(base), str(finished)), (str(out),)))
    assert (own - merged).abs().max() < 1e-4
    assert find_dialect(str(out)) == PLAIN
    question = Question((Turn("user", "Is it?"),), Labels(1, ("Yes", "No")))
    image = Image.new("RGB", (60, 40), "teal")
    (one,), (other,) = (load_mllm(spec).reply(image, [question]) for spec in (f"{base}+{finished}", str(out)))
    assert one.text == other.text
    assert one.label_probabilities is not None
    assert other.label_probabilities is not None
    assert one.label_probabilities[0] == pytest.approx(other.label_probabilities[0], abs=1e-4)


def test_an_export_goes_into_the_folder_one_is_in(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(f"{base}+{finished}", Path()) == Path()
    load_checkpoint(str(tmp_path))
    assert not (tmp_path / "writing").exists()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        pytest.param({"optimiser": "foo"}, "foo", id="optimiser"),
        pytest.param({"schedule": "foo"}, "foo", id="schedule"),
        pytest.param({"fsdp": "foo"}, "foo|FSDP", id="sharding"),
        pytest.param({"deepspeed": "missing.json"}, "deepspeed: missing.json is not there", id="file"),
    ],
)
def test_settings_that_transformers_refuses_are_one_line(
    base: Path, lessons: Path, tmp_path: Path, told: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        run(base, lessons, tmp_path / "out", **told)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_wandb_that_is_not_there_says_how_it_comes(base: Path, lessons: Path, tmp_path: Path) -> None:
    if find_spec("wandb") is not None:
        pytest.skip("it is there")
    with pytest.raises(SpecError, match="pip install wandb"):
        run(base, lessons, tmp_path / "out", report_to="wandb")


def test_a_process_trains_on_one_device(base: Path, lessons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_transformers_arguments", _seeing_four(run_module._transformers_arguments))
    config = TrainingConfig.from_dict(settings(base, lessons, tmp_path / "out", batch=2))
    arguments = run_module._arguments(config, tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 2)


def _seeing_four(make: Any) -> Any:
    def made(*told: Any, **named: Any) -> Any:
        arguments = make(*told, **named)
        arguments._n_gpu = 4
        return arguments

    return made


def test_evaluation_is_on_pictures_that_are_not_learnt(base: Path, tmp_path: Path) -> None:
    lessons = write_lessons(tmp_path / "lessons", 2, dialect=PLAIN, expressions=1, points=1)
    line = {"image": "1.png", "expression": "it", "objects": []}
    (lessons / "val.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(
        DataError, match=r"evaluation sample 'jsonl-1' shows .*1\.png, a picture of lesson 'scene-1'.*\"split\""
    ):
        run(base, lessons, tmp_path / "out", eval_data=f"jsonl:{lessons / 'val.jsonl'}")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_samples_is_refused(base: Path, lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"image": "none.png", "expression": "it", "objects": []}\n')
    with pytest.raises(DataError, match=r"no sample of 'jsonl', split 'val', can be used"):
        run(base, lessons, tmp_path / "out", eval_data=f"jsonl:{tmp_path}")
    with pytest.raises(ValueError, match="at least one sample"):
        measure(Sam4Mllm.load(), [], "box")


def test_an_export_overwrites_nothing_and_needs_an_adapter(finished: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        export(f"{base}+{finished}", tmp_path)
    with pytest.raises(SpecError, match="no adapter to merge"):
        export(str(base), tmp_path / "merged")


# In processes of their own ------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from sam4mllm_tool.training import run as run_module
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.run import train
train(TrainingConfig.from_dict(json.loads(sys.argv[1])))
"""


def command(told: dict[str, Any]) -> list[str]:
    return [sys.executable, "-c", PROGRAM, json.dumps(told)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_adapter(base: Path, lessons: Path, tmp_path: Path) -> None:
    told = {"max_steps": 40, "save_every": 5}
    process = subprocess.Popen(command(settings(base, lessons, tmp_path / "cut", **told)), env=environment())
    until = time.monotonic() + 120
    while not (tmp_path / "cut" / "checkpoints" / "checkpoint-10").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "adapter_config.json").exists()
    subprocess.run(command(settings(base, lessons, tmp_path / "cut", **told)), env=environment(), check=True)
    subprocess.run(command(settings(base, lessons, tmp_path / "whole", **told)), env=environment(), check=True)
    assert furthest(tmp_path / "cut", tmp_path / "whole") <= 1e-6
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(base: Path, lessons: Path, tmp_path: Path) -> None:
    told = {"lora_dropout": 0.0, "precision": "float32", "max_steps": 3, "accumulation": 1}  # of 7 rows
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(program)]
    two = settings(base, lessons, tmp_path / "two", **told)
    subprocess.run([*launch, json.dumps(two)], env=environment(), check=True, timeout=300)
    one = run(base, lessons, tmp_path / "one", **{**told, "accumulation": 2})
    assert furthest(one, tmp_path / "two") <= 1e-4
    assert list(losses(tmp_path / "two")) == [1, 2, 3], "one of them writes"
    assert losses(tmp_path / "two") == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_the_last_checkpoint(base: Path, lessons: Path, tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n" + PROGRAM
    told = settings(base, lessons, tmp_path / "out", lora_r=64)
    run(base, lessons, tmp_path / "probe", lora_r=64, max_steps=1)  # the limit lies between the rows and the adapter
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "probe").rglob("*") if path.is_file()}
    rows = max(size for name, size in sizes.items() if name.startswith("rows"))
    assert rows < sizes["adapter_model.safetensors"]
    limited = limited.replace("60_000", str((rows + sizes["adapter_model.safetensors"]) // 2))
    failed = subprocess.run(
        [sys.executable, "-c", limited, json.dumps(told)], env=environment(), capture_output=True, text=True
    )
    assert failed.returncode != 0
    assert "OSError: a checkpoint can't be written to" in failed.stderr
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert newest_checkpoint(tmp_path / "out" / "checkpoints") is None
    run(base, lessons, tmp_path / "out", lora_r=64)
