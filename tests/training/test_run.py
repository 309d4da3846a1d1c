"""A run, from training conversations to a folder that loads: interrupted and resumed, refused, finished, exported."""

import json
import os
import signal
import socket
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

from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import DataError, MissingExtraError, SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.domain import find_domain
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.mllm.loading import load_checkpoint
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm, find_dialect
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.training import trainer_arguments
from sam4mllm_tool.training.callbacks import ProgressBar, load_held_out_samples, measure_ciou
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.merge_adapter import export
from sam4mllm_tool.training.run import train
from sam4mllm_tool.training.trainer import find_newest_checkpoint
from sam4mllm_tool.types import Labels, Question, Turn
from tests.training.drawn_conversations import write_conversations

ROOT = Path(__file__).parents[2]


def settings(base: Path, conversations_dir: Path, out: Path, **others: Any) -> dict[str, Any]:
    small = {"lora_r": 4, "lora_alpha": 8, "learning_rate": 1e-2, "batch": 1, "accumulation": 2, "max_steps": 7}
    small |= {"save_every": 2, "log_every": 1, "report_to": "none"}
    return {"mllm": str(base), "lessons": str(conversations_dir), "out": str(out), **small, **others}


def run(base: Path, conversations_dir: Path, out: Path, **others: Any) -> Path:
    return train(TrainingConfig.from_dict(settings(base, conversations_dir, out, **others)))


@pytest.fixture(scope="module")
def finished(base: Path, conversations_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, conversations_dir, tmp_path_factory.mktemp("finished") / "out")


@pytest.fixture(scope="module")
def in_float32(base: Path, conversations_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps in float32, in which runs can be compared whatever their kernels."""
    return run(base, conversations_dir, tmp_path_factory.mktemp("float32") / "out", precision="float32", max_steps=2)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def largest_difference(out: Path, expected: Path) -> float:
    weights = adapter(expected)
    return max(float((value - weights[name]).abs().max()) for name, value in adapter(out).items())


def test_the_result_loads_and_records_how_it_was_made(finished: Path, base: Path, conversations_dir: Path) -> None:
    load_mllm(f"{base}+{finished}")
    assert find_dialect(f"{base}+{finished}") == EMBEDDED
    record = json.loads((finished / "training.json").read_text())
    assert record["settings"]["learning_rate"] == 1e-2
    assert (record["steps"], record["rows"]["lessons"]) == (7, 6)
    assert {"torch", "transformers", "peft"} <= set(record["versions"])
    assert (finished / "manifest.json").read_text() == (conversations_dir / "manifest.json").read_text()
    assert json.loads((finished / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    names = adapter(finished)
    assert any("lora_A" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert not any("vision_tower" in name for name in names)
    steps = losses(finished)
    assert list(steps) == list(range(1, 8))
    assert steps[7] < steps[1]


def test_running_a_finished_run_again_changes_nothing(finished: Path, base: Path, conversations_dir: Path) -> None:
    before = (finished / "adapter_model.safetensors").stat().st_mtime_ns
    assert run(base, conversations_dir, finished) == finished
    assert (finished / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"workers": 1}, id="images loaded by another process"),
        pytest.param({"report_to": "tensorboard"}, id="TensorBoard"),
        pytest.param({"gradient_checkpointing": True}, id="recomputed activations"),
        pytest.param({"attention": "sdpa"}, id="a full mask"),
    ],
)
def test_settings_without_effect_on_learning_give_the_same_losses(
    in_float32: Path, base: Path, conversations_dir: Path, tmp_path: Path, others: dict[str, Any]
) -> None:
    out = run(base, conversations_dir, tmp_path / "out", precision="float32", max_steps=2, **others)
    assert losses(out) == pytest.approx(losses(in_float32), rel=1e-4)
    assert (out / "tensorboard").exists() == (others.get("report_to") == "tensorboard")


class InterruptionError(Exception):
    """Ends a run between two steps."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def stop(_self: ProgressBar, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == step:
            raise InterruptionError

    monkeypatch.setattr(ProgressBar, "on_step_end", stop)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 6], ids=["within an epoch", "after an epoch, before a save"])
def test_an_interrupted_run_resumes_to_the_same_adapter_and_losses(
    finished: Path, base: Path, conversations_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(InterruptionError):
            run(base, conversations_dir, tmp_path / "out")
    torch.rand(5)  # the state of the global generator must not matter
    out = run(base, conversations_dir, tmp_path / "out")
    assert largest_difference(out, finished) <= 1e-6
    assert losses(out) == pytest.approx(losses(finished), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("length", [{"max_steps": 3}, {"max_steps": None, "epochs": 1.5}], ids=["steps", "epochs"])
def test_an_interruption_after_the_last_step_trains_no_further_step(
    base: Path, conversations_dir: Path, tmp_path: Path, length: dict[str, Any]
) -> None:
    out = run(base, conversations_dir, tmp_path / "out", schedule="constant", **length)  # a rate above 0 after the end
    written = (out / "adapter_model.safetensors").read_bytes()
    steps = json.loads((out / "training.json").read_text())["steps"]
    for name in ("adapter_config.json", "adapter_model.safetensors", "training.json"):
        (out / name).unlink()
    assert run(base, conversations_dir, out, schedule="constant", **length) == out
    assert (out / "adapter_model.safetensors").read_bytes() == written
    assert json.loads((out / "training.json").read_text())["steps"] == steps
    assert list(losses(out)) == list(range(1, steps + 1))


@pytest.mark.slow
def test_an_incomplete_checkpoint_is_ignored_and_removed(
    finished: Path, base: Path, conversations_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, 5)
        with pytest.raises(InterruptionError):
            run(base, conversations_dir, tmp_path / "out")
    half = tmp_path / "out" / "checkpoints" / "writing" / "checkpoint-6"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text("{")
    newest = find_newest_checkpoint(tmp_path / "out" / "checkpoints")
    assert newest is not None
    assert newest.name == "checkpoint-4"
    assert largest_difference(run(base, conversations_dir, tmp_path / "out"), finished) <= 1e-6
    assert not half.exists()


def test_only_the_newest_checkpoints_are_kept(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "checkpoints").glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]


def test_resuming_with_changed_settings_is_refused_with_their_names(
    finished: Path, base: Path, conversations_dir: Path
) -> None:
    with pytest.raises(DataError, match=r"other settings \(learning_rate: 0.01 -> 0.5; lora_r: 4 -> 8\)"):
        run(base, conversations_dir, finished, learning_rate=0.5, lora_r=8, keep=5)


def test_resuming_with_changed_conversations_is_refused(finished: Path, base: Path, tmp_path: Path) -> None:
    others = write_conversations(tmp_path / "others", 2, expressions=1, points=1)
    with pytest.raises(DataError, match="lessons_sha256"):
        run(base, others, finished)


def test_an_output_folder_with_other_files_is_left_alone(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="not empty and holds no training run"):
        run(base, conversations_dir, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_missing_image_is_reported_with_its_conversations(base: Path, tmp_path: Path) -> None:
    conversations_dir = write_conversations(tmp_path / "conversations", 2, expressions=1, points=1)
    (conversations_dir / "1.png").unlink()
    with pytest.raises(DataError, match=r"training conversations 'scene-1'.*1\.png"):
        run(base, conversations_dir, tmp_path / "out")


def test_a_folder_without_conversations_is_reported(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lessons\.jsonl is not there"):
        run(base, tmp_path, tmp_path / "out")


def test_conversations_of_which_nothing_fits_are_refused_with_the_reason(
    base: Path, conversations_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"leave nothing to learn: .* answers that end after max_tokens=5"):
        run(base, conversations_dir, tmp_path / "out", max_tokens=5)


def test_quantization_requires_bitsandbytes(
    base: Path, conversations_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sam4mllm_tool.training.preflight.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="bitsandbytes"):
        run(base, conversations_dir, tmp_path / "out", quantise="4bit")


@pytest.mark.slow
def test_training_continues_an_adapter(finished: Path, base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    out = run(Path(f"{base}+{finished}"), conversations_dir, tmp_path / "out", max_steps=1, learning_rate=1e-9)
    assert largest_difference(out, finished) <= 1e-6
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)


@pytest.mark.slow
def test_the_projector_has_its_own_learning_rate(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    out = run(base, conversations_dir, tmp_path / "out", max_steps=1, warmup=0, projector_learning_rate=1e-9)
    before = {name.rpartition("projector.")[2]: value for name, value in load_file(base / "model.safetensors").items()}
    projector = {name.rpartition("projector.")[2]: value for name, value in adapter(out).items() if "projector" in name}
    assert projector
    assert max(float((value - before[name]).abs().max()) for name, value in projector.items()) < 1e-7
    assert max(float(value.abs().max()) for name, value in adapter(out).items() if "lora_B" in name) > 1e-3


@pytest.mark.slow
def test_an_evaluation_measures_the_adapter_and_does_not_affect_training(conversations_dir: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 2, seed=99, per_scene=1)
    base = Path(f"embedded+{embedded_folder('adapter')}")  # which segments well, so that the figure is neither 0 nor 1
    config: dict[str, Any] = {"max_steps": 2, "accumulation": 1, "learning_rate": 1e-6, "precision": "float32"}
    config |= {"lora_r": 32, "lora_alpha": 64}  # the adapter's own
    plain = run(base, conversations_dir, tmp_path / "plain", **config)
    config |= {"eval_data": f"jsonl:{tmp_path / 'scenes'}", "eval_split": "train", "eval_every": 1, "eval_methods": ["box"]}
    out = run(base, conversations_dir, tmp_path / "out", **config)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["eval_box_cIoU"] for line in lines if "eval_box_cIoU" in line}
    again = measure_ciou(Sam4Mllm.load(f"embedded+{out}"), load_held_out_samples(config["eval_data"], "train", 100), "box")
    assert list(measured) == [0, 1, 2]
    assert measured[2] == pytest.approx(again["eval_box_cIoU"], abs=1e-6)
    assert 0.1 < measured[2] < 1
    assert (out / "adapter_model.safetensors").read_bytes() == (plain / "adapter_model.safetensors").read_bytes()


def test_an_exported_model_answers_like_base_and_adapter(finished: Path, base: Path, tmp_path: Path) -> None:
    out = export(f"{base}+{finished}", tmp_path / "merged")
    ids = torch.arange(20, 60)[None]
    with torch.inference_mode():
        own, merged = (load_checkpoint(*spec)[0](input_ids=ids).logits for spec in ((str(base), str(finished)), (str(out),)))
    assert (own - merged).abs().max() < 1e-4
    assert find_dialect(str(out)) == EMBEDDED
    question = Question((Turn("user", "Is it?"),), Labels(1, ("Yes", "No")))
    image = Image.new("RGB", (60, 40), "teal")
    (reply,), (expected,) = (load_mllm(spec).reply(image, [question]) for spec in (str(out), f"{base}+{finished}"))
    assert reply.text == expected.text
    assert reply.label_probabilities is not None
    assert expected.label_probabilities is not None
    assert reply.label_probabilities[0] == pytest.approx(expected.label_probabilities[0], abs=1e-4)


def test_an_exported_model_keeps_the_adapters_calibration_and_domain(tmp_path: Path) -> None:
    out = str(export("embedded", tmp_path / "merged"))
    assert find_calibration(out) == find_calibration("embedded") != Calibration()
    domain, expected = find_domain(out), find_domain("embedded")
    assert domain is not None
    assert expected is not None
    assert domain.to_json() == expected.to_json()


def test_model_files_have_the_permissions_of_their_neighbours(finished: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    expected = (tmp_path / "plain").stat().st_mode
    merged = export(f"{base}+{finished}", tmp_path / "merged")
    files = [file for folder in (finished, merged) for file in folder.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"adapter_model.safetensors", "model.safetensors", "optimizer.pt"}
    assert {file.name: file.stat().st_mode for file in files} == {file.name: expected for file in files}


def test_an_export_can_go_into_the_current_folder(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export(f"{base}+{finished}", Path()) == Path()
    load_checkpoint(str(tmp_path))
    assert not (tmp_path / "writing").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        pytest.param({"optimiser": "foo"}, "foo", id="optimiser"),
        pytest.param({"schedule": "foo"}, "foo", id="schedule"),
        pytest.param({"fsdp": "foo"}, "foo|FSDP", id="sharding"),
        pytest.param({"deepspeed": "missing.json"}, "deepspeed: missing.json is not there", id="file"),
    ],
)
def test_settings_that_transformers_refuses_are_reported_in_one_line(
    base: Path, conversations_dir: Path, tmp_path: Path, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        run(base, conversations_dir, tmp_path / "out", **setting)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_missing_wandb_is_reported_with_the_install_command(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    if find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    with pytest.raises(SpecError, match="pip install wandb"):
        run(base, conversations_dir, tmp_path / "out", report_to="wandb")


def test_a_process_trains_on_one_device_of_several(
    base: Path, conversations_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = trainer_arguments._convert_settings

    def convert_with_four_devices(*args: Any, **options: Any) -> Any:
        arguments = convert(*args, **options)
        arguments._n_gpu = 4
        return arguments

    monkeypatch.setattr(trainer_arguments, "_convert_settings", convert_with_four_devices)
    config = TrainingConfig.from_dict(settings(base, conversations_dir, tmp_path / "out", batch=2))
    arguments = trainer_arguments.build_trainer_arguments(config, tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 2)


def test_evaluating_on_a_training_image_is_refused(base: Path, tmp_path: Path) -> None:
    conversations_dir = write_conversations(tmp_path / "conversations", 2, expressions=1, points=1)
    line = {"image": "1.png", "expression": "it", "objects": []}
    (conversations_dir / "val.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(
        DataError, match=r"evaluation sample 'jsonl-1' shows .*1\.png, which training conversation 'scene-1'.*\"split\""
    ):
        run(base, conversations_dir, tmp_path / "out", eval_data=f"jsonl:{conversations_dir / 'val.jsonl'}")
    assert not (tmp_path / "out").exists()


def test_an_evaluation_without_usable_samples_is_refused(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('{"image": "none.png", "expression": "it", "objects": []}\n')
    with pytest.raises(DataError, match=r"no sample of 'jsonl', split 'val', can be used"):
        run(base, conversations_dir, tmp_path / "out", eval_data=f"jsonl:{tmp_path}")
    with pytest.raises(ValueError, match="at least one sample"):
        measure_ciou(Sam4Mllm.load(), [], "box")


def test_an_export_needs_an_empty_folder_and_an_adapter(finished: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(DataError, match="is not empty"):
        export(f"{base}+{finished}", tmp_path)
    with pytest.raises(SpecError, match="no adapter to merge"):
        export(str(base), tmp_path / "merged")


# In processes of their own ----------------------------------------------------------------------------------------------

PROGRAM = """
import json, sys
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.run import train
train(TrainingConfig.from_dict(json.loads(sys.argv[1])))
"""


def command(config: dict[str, Any]) -> list[str]:
    return [sys.executable, "-c", PROGRAM, json.dumps(config)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_adapter(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    length = {"max_steps": 20, "save_every": 5}
    process = subprocess.Popen(command(settings(base, conversations_dir, tmp_path / "killed", **length)), env=environment())
    while not (tmp_path / "killed" / "checkpoints" / "checkpoint-10").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adapter_config.json").exists()
    subprocess.run(command(settings(base, conversations_dir, tmp_path / "killed", **length)), env=environment(), check=True)
    whole = run(base, conversations_dir, tmp_path / "whole", **length)
    assert largest_difference(tmp_path / "killed", whole) <= 1e-6
    assert losses(tmp_path / "killed") == pytest.approx(losses(whole), abs=1e-6)


@pytest.mark.slow
def test_two_processes_learn_the_same_as_one(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    config = {"lora_dropout": 0.0, "precision": "float32", "max_steps": 3, "accumulation": 1}
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", str(program)]
    two = settings(base, conversations_dir, tmp_path / "two", **config)
    subprocess.run([*launch, json.dumps(two)], env=environment(), check=True, timeout=300)
    single = run(base, conversations_dir, tmp_path / "one", **{**config, "accumulation": 2})
    assert largest_difference(single, tmp_path / "two") <= 1e-4
    assert list(losses(tmp_path / "two")) == [1, 2, 3], "only one process writes"
    assert losses(tmp_path / "two") == pytest.approx(losses(single), rel=1e-4)


@pytest.mark.slow
def test_two_machines_learn_the_same_as_one_process(base: Path, conversations_dir: Path, tmp_path: Path) -> None:
    config = {"lora_dropout": 0.0, "precision": "float32", "max_steps": 3, "accumulation": 1}
    values = settings(base, conversations_dir, tmp_path / "two", **config)
    file = tmp_path / "settings.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = ["--master-addr", "127.0.0.1", "--master-port", str(free.getsockname()[1])]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    work = ["-m", "sam4mllm_tool", "train", str(file)]
    machines = [subprocess.Popen([*launch, "--node-rank", rank, *work], env=environment()) for rank in "01"]
    assert [machine.wait(300) for machine in machines] == [0, 0]
    single = run(base, conversations_dir, tmp_path / "one", **{**config, "accumulation": 2})
    assert largest_difference(single, tmp_path / "two") <= 1e-4
    assert losses(tmp_path / "two") == pytest.approx(losses(single), rel=1e-4)


@pytest.mark.slow
def test_a_full_disk_is_reported_and_leaves_no_incomplete_checkpoint(
    base: Path, conversations_dir: Path, tmp_path: Path
) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n" + PROGRAM
    config = settings(base, conversations_dir, tmp_path / "out", lora_r=64)
    run(base, conversations_dir, tmp_path / "probe", lora_r=64, max_steps=1)  # the limit lies between the rows and the adapter
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "probe").rglob("*") if path.is_file()}
    rows = max(size for name, size in sizes.items() if name.startswith("rows"))
    assert rows < sizes["adapter_model.safetensors"]
    limited = limited.replace("60_000", str((rows + sizes["adapter_model.safetensors"]) // 2))
    failed = subprocess.run(
        [sys.executable, "-c", limited, json.dumps(config)], env=environment(), capture_output=True, text=True
    )
    assert failed.returncode != 0
    assert "OSError: a checkpoint can't be written to" in failed.stderr
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert find_newest_checkpoint(tmp_path / "out" / "checkpoints") is None
    run(base, conversations_dir, tmp_path / "out", lora_r=64)
