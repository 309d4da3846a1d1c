"""No image of a val or test split of the RefCOCO family is trained on."""

from pathlib import Path

import pytest

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.heldout import find_held_out
from sam4mllm_tool.errors import DataError
from tests.data.layouts import SQUARE, SQUARE_XYWH, annotation, reference, write_family, write_json, write_pickle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Each file of the family holds out another image; RefCOCO trains on all of them."""
    write_family(
        tmp_path,
        [reference(number, number, number, "train", "it") for number in range(1, 9)],
        [annotation(number, number, [SQUARE], SQUARE_XYWH) for number in range(1, 9)],
    )
    write_pickle(tmp_path / "refcoco" / "refs(google).p", [reference(1, 1, 1, "test", "it")], python2=True)
    write_pickle(tmp_path / "refcoco+" / "refs(unc).p", [reference(1, 2, 2, "testA", "it"), reference(2, 2, 3, "testB", "it")])
    write_pickle(tmp_path / "refcocog" / "refs(umd).p", [reference(1, 4, 4, "val", "it"), reference(2, 5, 8, "train", "it")])
    write_pickle(tmp_path / "refcocog" / "refs(google).p", [reference(1, 4, 5, "val", "it")])
    write_json(tmp_path / "grefcoco" / "grefs(unc).json", [reference(1, [-1], 6, "val", "it"), reference(2, [7], 8, "train")])
    return tmp_path


def test_every_reference_file_of_the_family_counts_whatever_its_division(root: Path) -> None:
    held_out = find_held_out(root)
    assert held_out.images == {f"coco:{number}" for number in (1, 2, 3, 4, 5, 6)}
    assert [f"{path.parent.name}/{path.name}" for path in held_out.files] == [
        "refcoco/refs(google).p",
        "refcoco/refs(unc).p",
        "refcoco+/refs(unc).p",
        "refcocog/refs(google).p",
        "refcocog/refs(umd).p",
        "grefcoco/grefs(unc).json",
    ]


def test_training_images_of_one_dataset_are_held_out_by_another(root: Path) -> None:
    held_out = find_held_out(root).images
    assert [sample.image_id for sample in load_dataset("refcoco", root) if sample.image_id not in held_out] == [
        "coco:7",
        "coco:8",
    ]


def test_a_datasets_own_folder_finds_the_rest_of_the_family(root: Path) -> None:
    assert find_held_out(root / "refcocog").images == find_held_out(root).images


def test_the_working_directory_and_a_link_find_the_rest_of_the_family(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {file.parent.name for file in find_held_out(root).files}, find_held_out(root).images
    monkeypatch.chdir(root / "refcocog")
    for here in (Path(), Path("../refcoco")):
        assert ({file.parent.name for file in find_held_out(here).files}, find_held_out(here).images) == everything
    link = tmp_path_factory.mktemp("elsewhere") / "data"
    link.symlink_to(root / "refcocog")
    assert find_held_out(link).images == everything[1]


def test_a_root_without_reference_files_holds_nothing_out(tmp_path: Path) -> None:
    (tmp_path / "scenes.jsonl").write_text("")
    for root in (tmp_path, tmp_path / "scenes.jsonl", tmp_path / "nowhere"):
        assert find_held_out(root).files == ()
        assert find_held_out(root).images == frozenset()


def test_a_damaged_reference_file_is_an_error(root: Path) -> None:
    (root / "refcocog" / "refs(umd).p").write_bytes(b"half")
    with pytest.raises(DataError, match=r"refs\(umd\)\.p"):
        find_held_out(root)
