"""Which evaluations are warned of: those on images that a model was trained on."""

from pathlib import Path

import pytest

from sam4mllm_tool.data.image_hashes import TrainedImages
from sam4mllm_tool.data.jsonl import JsonLines
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.evaluation.trained_images import describe_trained_images
from tests.embedded_world import TEST_SEEDS


@pytest.mark.parametrize(("seed", "count"), [(7, 2), (35_999, 1), (36_000, 0), (TEST_SEEDS, 0)])
def test_the_embedded_pair_knows_the_scenes_that_it_was_trained_on(seed: int, count: int, tmp_path: Path) -> None:
    samples = list(JsonLines(write_scenes(tmp_path, 2, seed, side=160, per_scene=2), "all"))
    warning = describe_trained_images("embedded", samples)
    if count:
        assert warning is not None
        assert warning.startswith(f"embedded was trained on {count} of the 2 images evaluated here (its trained_images.json")
    else:
        assert warning is None


def test_lists_of_trained_images_are_added_up_and_read_as_they_were_written(tmp_path: Path) -> None:
    listed = TrainedImages(frozenset(["0123456789abcdef"])) | TrainedImages(names=frozenset(["scene-00?.png"]))
    assert TrainedImages.from_json(listed.to_json()) == listed
    assert TrainedImages.from_json('{"format": 1, "images": ["0123456789abcdef"]}').hashes == listed.hashes, "without names"
    assert tmp_path / "scene-001.png" in listed
    (tmp_path / "scene-1.png").write_bytes(b"other")
    assert tmp_path / "scene-1.png" not in listed
    for text in ("[]", "{}", '{"images": [1]}', '{"images": [], "names": "all"}'):
        with pytest.raises(ValueError, match="no list of trained images"):
            TrainedImages.from_json(text)
