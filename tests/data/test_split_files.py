"""Users' own data, divided by image: no image in two files, nothing lost, nothing overwritten."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.image_hashes import hash_image
from sam4mllm_tool.embedded.scene_files import write_scenes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Ten small scenes with two expressions each; the first image has a copy with an expression of its own."""
    folder = tmp_path / "scenes"
    lines = write_scenes(folder, 10, 0, side=160, per_scene=2).read_text().splitlines()
    copied = json.loads(lines[0])
    shutil.copy(folder / copied["image"], folder / "copy.png")
    lines.append(json.dumps({**copied, "image": "copy.png"}))
    (folder / "scenes.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def images(folder: Path, split: str) -> set[str]:
    return {hash_image(sample.image_path.resolve()) for sample in load_dataset("jsonl", folder, split)}


def test_no_image_is_in_two_splits_and_no_expression_is_lost(run: Run, scenes: Path) -> None:
    code, out, _ = run("data", "split", scenes, "--val", "0.2", "--test", "1")
    assert code == 0
    assert "val.jsonl: 4 expressions, 2 images" in out or "val.jsonl: 5 expressions, 2 images" in out
    parts = [images(scenes, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [7, 2, 1]
    assert len(set.union(*parts)) == 10, "the copy of an image falls into the split of the image"
    written = [line for split in ("train", "val", "test") for line in (scenes / f"{split}.jsonl").read_text().splitlines()]
    assert sorted(written) == sorted((scenes / "scenes.jsonl").read_text().splitlines())


def test_the_division_depends_on_images_and_seed_alone(run: Run, scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "scenes.jsonl").read_text().splitlines()
    (scenes / "reversed.jsonl").write_text("".join(f"{line}\n" for line in reversed(lines)))
    run("data", "split", scenes / "scenes.jsonl", "--out", tmp_path / "a")
    run("data", "split", scenes / "reversed.jsonl", "--out", tmp_path / "b")
    run("data", "split", scenes / "scenes.jsonl", "--out", tmp_path / "c", "--seed", "1")
    first, again, other = ([images(tmp_path / name, split) for split in ("train", "val", "test")] for name in "abc")
    assert first == again
    assert first != other


def test_damaged_lines_are_reported_with_file_and_line(run: Run, scenes: Path) -> None:
    with (scenes / "scenes.jsonl").open("a") as lines:
        lines.write('{"image": "lost.png", "expression": "it", "objects": []}\n{"half')
    code, _, err = run("data", "split", scenes)
    assert code == 1
    assert "scenes.jsonl, line 22" in err
    assert "lost.png" in err
    assert "scenes.jsonl, line 23" in err
    assert "the line is not JSON" in err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--val", "5", "--test", "5"], "10 images can't be divided into 5 for val, 5 for test", id="too few"),
        pytest.param([], "train.jsonl exists already: choose another place, or replace it with --overwrite", id="a file"),
    ],
)
def test_an_impossible_division_writes_nothing(run: Run, scenes: Path, options: list[str], reason: str) -> None:
    if not options:
        (scenes / "train.jsonl").write_text("mine")
    code, _, err = run("data", "split", scenes / "scenes.jsonl", *options)
    assert code == 2
    assert reason in err
    assert not (scenes / "val.jsonl").exists()
    if not options:
        assert (scenes / "train.jsonl").read_text() == "mine"
        assert run("data", "split", scenes / "scenes.jsonl", "--overwrite")[0] == 0
        assert (scenes / "train.jsonl").read_text() != "mine"


def test_data_that_is_divided_already_is_refused(run: Run, scenes: Path) -> None:
    run("data", "split", scenes)
    lines = [json.loads(line) | {"split": "val"} for line in (scenes / "val.jsonl").read_text().splitlines()]
    (scenes / "fields.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, _, err = run("data", "split", scenes / "fields.jsonl", "--out", scenes / "again")
    assert code == 2
    assert "is divided already: its lines name the splits val" in err


def test_scenes_conversions_and_sheets_do_not_replace_files_unasked(run: Run, scenes: Path, tmp_path: Path) -> None:
    before = (scenes / "scenes.jsonl").read_bytes()
    (tmp_path / "sheet.png").write_bytes(b"mine")
    code, _, err = run("data", "scenes", "--out", scenes, "--count", "1", "--seed", "99")
    assert (code, "scenes.jsonl exists already" in err) == (2, True)
    code, _, err = run("data", "scenes", "--out", tmp_path / "new", "--count", "1")
    assert code == 0
    (tmp_path / "new" / "scenes.jsonl").unlink()
    code, _, err = run("data", "scenes", "--out", tmp_path / "new", "--count", "1")
    assert (code, "scene-0000000.png exists already" in err) == (2, True)
    code, _, err = run("data", "show", "jsonl", scenes, "--out", tmp_path / "sheet.png")
    assert (code, "sheet.png exists already" in err) == (2, True)
    assert (scenes / "scenes.jsonl").read_bytes() == before
    assert (tmp_path / "sheet.png").read_bytes() == b"mine"
    assert run("data", "scenes", "--out", tmp_path / "new", "--count", "1", "--overwrite")[0] == 0
    assert run("data", "show", "jsonl", scenes, "--out", tmp_path / "sheet.png", "--overwrite")[0] == 0
