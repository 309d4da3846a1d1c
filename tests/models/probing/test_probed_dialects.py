"""Where measured dialects are kept, and when loading uses them."""

import dataclasses
import json
from pathlib import Path

import pytest

from sam4mllm_tool.errors import BackendError, SpecError
from sam4mllm_tool.models.metadata import find_dialect, identify_mllm, list_candidate_dialects
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.probing import first_use, measurement
from sam4mllm_tool.models.probing.probe_scenes import draw_probe_scenes
from sam4mllm_tool.models.probing.probed_dialects import cache_folder, save_probed_dialect
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import DIALECTS
from tests.models.probing.grounding_model import GroundingModel

MEASURED = dataclasses.replace(DIALECTS["plain"], name="measured")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAM4MLLM_CACHE", str(folder))
    return folder


def save_weights(folder: Path, content: bytes = b"weights", model_type: str = "unknown") -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    (folder / "model.safetensors").write_bytes(content)
    return folder


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("SAM4MLLM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sam4mllm-tool"
    monkeypatch.setenv("HOME", str(tmp_path))
    for invalid in ("relative/folder", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", invalid)
        assert cache_folder() == tmp_path / ".cache" / "sam4mllm-tool"


def test_a_measured_dialect_wins_over_the_family_and_loses_to_a_name_and_to_the_weights_own(tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights", model_type="qwen3_vl")
    assert find_dialect(str(weights)).name == "qwen3_vl"
    save_probed_dialect(identify_mllm(str(weights)), MEASURED)
    assert find_dialect(str(weights)) == MEASURED
    assert find_dialect(str(weights), "plain") == DIALECTS["plain"]
    trained = dataclasses.replace(DIALECTS["joint"], name="trained")
    (weights / "dialect.json").write_text(trained.to_json())
    assert find_dialect(str(weights)) == trained


def test_a_measurement_follows_the_weights_and_not_their_folder(tmp_path: Path, cache: Path) -> None:
    weights = save_weights(tmp_path / "weights")
    before = sorted(weights.iterdir())
    file = save_probed_dialect(identify_mllm(str(weights)), MEASURED)
    assert file.is_relative_to(cache)
    assert sorted(weights.iterdir()) == before, "nothing is written beside the weights"
    moved = weights.rename(tmp_path / "moved")
    assert find_dialect(str(moved)) == MEASURED
    (moved / "model.safetensors").write_bytes(b"other weights")
    assert find_dialect(str(moved)).name == "plain"


def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path) -> None:
    weights = save_weights(tmp_path / "weights")
    file = save_probed_dialect(identify_mllm(str(weights)), MEASURED)
    file.write_text("{")
    with pytest.raises(SpecError, match=r"dialect\.json: not a dialect: .*; delete the file, or run 'sam4mllm probe' again"):
        find_dialect(str(weights))


def test_candidates_are_the_family_s_and_plain_words_or_the_trained_one_alone(tmp_path: Path) -> None:
    def names(spec: Path, name: str | None = None) -> list[str]:
        return [dialect.name for dialect in list_candidate_dialects(str(spec), name)]

    known = save_weights(tmp_path / "known", model_type="qwen2_5_vl")
    save_probed_dialect(identify_mllm(str(known)), MEASURED)
    assert names(known) == ["qwen2_5_vl", "plain"], "an earlier measurement is no candidate"
    assert names(save_weights(tmp_path / "unknown")) == ["plain", "qwen3_vl", "gemma"]
    assert names(known, "gemma") == ["gemma"]
    (known / "dialect.json").write_text(MEASURED.to_json())
    assert names(known) == ["measured"]
    with pytest.raises(SpecError, match="did you mean 'gemma'"):
        list_candidate_dialects(str(known), "gema")


# The first use --------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that loads as a model answering in 0..1, y first, whatever family it claims to be."""
    monkeypatch.setattr(first_use, "load_mllm", lambda *_, **__: GroundingModel("0..1", "yx").load())
    return save_weights(tmp_path / "weights")


def test_the_first_load_measures_and_later_ones_use_it(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = Sam4Mllm.load(str(weights), probe=True)
    assert models.dialect.name == "plain (0..1, y first)"
    assert find_dialect(str(weights)) == models.dialect
    monkeypatch.setattr(measurement, "probe_mllm", None)
    assert Sam4Mllm.load(str(weights), probe=True).dialect == models.dialect
    scene = draw_probe_scenes()[0]
    (segmented,) = models.segment(scene.image, scene.objects[0].expression, method="box").objects
    assert segmented.prompt.box.iou(scene.objects[0].box) > 0.98


def test_weights_with_a_dialect_of_their_own_are_not_measured(weights: Path, cache: Path) -> None:
    (weights / "dialect.json").write_text(MEASURED.to_json())
    assert Sam4Mllm.load(str(weights), probe=True).dialect == MEASURED
    assert not cache.exists()


def test_where_nothing_can_be_kept_each_load_measures(weights: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert Sam4Mllm.load(str(weights), probe=True).dialect.name == "plain (0..1, y first)"


def test_a_model_that_cannot_ground_is_not_loaded_with_a_guess(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_use, "load_mllm", lambda *_, **__: ScriptedMLLM(lambda _: "in the middle"))
    with pytest.raises(BackendError, match="no dialect can be chosen"):
        Sam4Mllm.load(str(weights), probe=True)


def test_an_instance_is_measured_too_and_nothing_is_kept(cache: Path) -> None:
    models = Sam4Mllm.load(GroundingModel("0..1", "yx").load(), probe=True)
    assert models.dialect.name == "plain (0..1, y first)"
    assert Sam4Mllm.load(GroundingModel("0..1", "yx").load()).dialect == DIALECTS["plain"]
    assert not cache.exists()
