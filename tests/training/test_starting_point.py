"""A tuning starts from what `segment` uses, says so, and shows what it did to images that it held back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.data.image_hashes import TrainedImages, choose_images
from sam4mllm_tool.data.training_conversations import read_conversations
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import DataError, SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.held_out_part import hold_out_samples
from sam4mllm_tool.training.starting_point import find_starting_point

Run = Callable[..., tuple[int, str, str]]
SHORT = """
batch = 1
accumulation = 1
max_steps = 4
recipe = { ppg = 0.0, point_mean = 3.0 }
eval_methods = ["box"]
report_to = "none"
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scenes with two expressions each."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 8, seed=950_000, per_scene=2)
    return folder


def start(**settings: object) -> object:
    return find_starting_point(TrainingConfig.from_dict({"lessons": "l", "out": "o", **settings}))


@pytest.mark.slow
def test_a_short_tuning_with_the_default_model_keeps_what_it_can_do(scenes: Path, tmp_path: Path, run: Run) -> None:
    settings, out = tmp_path / "short.toml", tmp_path / "adapter"
    settings.write_text(SHORT)
    code, stdout, stderr = run("train", settings, "--data", f"jsonl:{scenes}", "--held-back", "3", "--out", out)
    assert code == 0
    assert "training continues the adapter that comes with 'embedded'; --from-base starts a new one" in stderr
    wrote, figures, following = stdout.splitlines()
    assert wrote == f"wrote {out}"
    assert "on 6 expressions about 3 images not trained on" in figures
    assert following == f'next: sam4mllm segment IMAGE "EXPRESSION" --mllm embedded+{out}'
    about = json.loads((out / "training.json").read_text())
    before, after = (about["held_out"][when]["eval_box_cIoU"] for when in ("before", "after"))
    assert before > 0.8
    assert after > before - 0.05
    assert about["starts_from"] == {"base": "embedded", "adapter": "embedded"}
    assert about["load_as"] == f"embedded+{out}"
    trained = TrainedImages.from_json((out / "trained_images.json").read_text())
    held_back = [path for path in scenes.glob("*.png") if path not in trained]
    assert (len(trained.hashes), len(held_back)) == (5, 3)
    assert Path("scene-0000007.png") in trained, "the shipped adapter was trained on it"
    assert not (out / "calibration.json").exists(), "the shipped adapter's was fitted to other weights"


def test_images_that_are_held_back_are_in_no_training_conversation(scenes: Path, tmp_path: Path) -> None:
    from sam4mllm_tool.training.run import prepare_conversations

    config = TrainingConfig.from_dict(
        {"data": [f"jsonl:{scenes}"], "out": str(tmp_path / "out"), "held_back": 0.25, "recipe": {"ppg": 0.0}}
    )
    part = hold_out_samples(config)
    folder = prepare_conversations(config, part.held_back)
    trained = {(folder / line.image).resolve() for line in read_conversations(folder)}
    assert len(trained) == 6
    assert {sample.image_path.resolve() for sample in part.samples} == set(scenes.resolve().glob("*.png")) - trained
    with pytest.raises(DataError, match="held_back differ"):
        prepare_conversations(config)


def test_an_image_is_held_back_under_any_name_and_in_any_order() -> None:
    hashes = [f"{number:x}" for number in range(40)]
    assert choose_images(reversed(hashes), 5) == choose_images(hashes, 5)
    assert len(choose_images(hashes * 2, 5)) == 5
    assert choose_images(hashes, 5, seed=1) != choose_images(hashes, 5)


def test_no_more_images_are_held_back_than_there_are(scenes: Path) -> None:
    with pytest.raises(DataError, match="leaves no image to train on: the data has 8 images"):
        hold_out_samples(TrainingConfig(data=(f"jsonl:{scenes}",), out="o", held_back=8))


def test_embedded_is_the_base_with_its_adapter_unless_the_base_is_asked_for() -> None:
    shipped = start()
    assert (shipped.adapter, shipped.shipped) == (embedded_folder("adapter"), True)
    assert start(from_base=True).adapter is None
    assert start(mllm="embedded+/nowhere/mine").adapter == "/nowhere/mine"
    assert start(mllm="/nowhere/model").adapter is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"mllm": "embedded+/nowhere/mine", "from_base": True}, "leave out one of the two", id="base and adapter"),
        pytest.param({"lora_r": 8}, "lora_r = 8 has no effect: .* whose lora_r is 32", id="another rank"),
        pytest.param({"lora_alpha": 8}, "lora_alpha = 8 has no effect", id="another scale"),
    ],
)
def test_settings_that_a_continued_adapter_would_ignore_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        start(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"held_back": 0.1}, "name samples to measure on in eval_data", id="conversations"),
        pytest.param({"held_back": 1.5, "lessons": "", "data": ["jsonl:x"]}, "a share below 1 or as a number", id="1.5"),
        pytest.param({"held_back": 2, "lessons": "", "data": ["jsonl:x"], "eval_data": "jsonl:y"}, "got both", id="both"),
    ],
)
def test_an_impossible_held_out_part_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict({"lessons": "l", "out": "o", **settings})
