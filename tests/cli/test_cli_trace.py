"""`sam4mllm segment --trace` and `sam4mllm trace`, as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from sam4mllm_tool.trace import load, save
from tests.trace.traced import BOX, SEEDS, SURE, scene, scripted, traced

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cat.trace.json.gz"
    save(traced(scripted(BOX, SURE)), path)
    return path


def test_a_segmentation_is_recorded_replayed_shown_accepted_and_exported(run: Run, tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[2])
    image.save(tmp_path / "scene.png")
    file = tmp_path / "runs" / "one.trace.json.gz"
    code, out, _ = run("segment", tmp_path / "scene.png", expressions[0], "--mllm", "embedded", "--trace", file)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {file}")
    assert run("trace", "replay", file)[:2][0] == 0
    code, out, _ = run("trace", "show", file)
    assert (code, out) == (0, f"wrote {tmp_path / 'runs' / 'one.trace.html'}\n")
    assert (tmp_path / "runs" / "one.trace.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("trace", "accept", file, "--comment", "fine")[:2] == (0, f"{file}: accepted\n")
    code, out, _ = run("trace", "export", file, "--out", tmp_path / "lessons.jsonl")
    assert (code, out) == (0, f"wrote {tmp_path / 'lessons.jsonl'}: 1 lessons about 1 pictures\n")
    assert run("data", "check", "jsonl", tmp_path / "lessons.jsonl")[0] == 0
    assert load(file).verdict.comment == "fine"


def test_a_trace_and_json_go_together(run: Run, tmp_path: Path) -> None:
    image, _ = scene(SEEDS[0])
    image.save(tmp_path / "scene.png")
    code, out, _ = run("segment", tmp_path / "scene.png", "the purple elephant", "--json", "--trace", tmp_path / "it.json")
    assert code == 0
    assert json.loads(out) == load(tmp_path / "it.json").result


def test_a_replay_says_what_it_did(run: Run, file: Path) -> None:
    assert run("trace", "replay", file) == (
        0,
        "the same result: 1 object, from 2 replies and 1 prompts, without any model\n",
        "",
    )


def test_a_replay_that_differs_is_exit_1_and_the_first_difference(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    save(traced(scripted(BOX, SURE)), path)
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.25', 1))
    code, out, _ = run("trace", "replay", path)
    assert code == 1
    assert out == "differs: result.objects[0].score: 1.0 was recorded, it is 0.25 this time\n"


@pytest.mark.parametrize("what", ["show", "replay", "accept"])
def test_what_is_no_trace_is_refused_in_one_line(run: Run, tmp_path: Path, what: str) -> None:
    for content in (b"", b"{", b"hello"):
        (tmp_path / "it.json").write_bytes(content)
        code, out, err = run("trace", what, tmp_path / "it.json")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "it.json" in err
    assert run("trace", what, tmp_path / "none.json")[0] == 2


def test_a_verdict_is_given_corrected_and_taken_back(run: Run, file: Path, tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.uint8)
    mask[:40] = 255
    PILImage.fromarray(mask).save(tmp_path / "right.png")
    before = load(file)
    assert run("trace", "accept", file, "--reject", "--comment", "the other cat")[1].endswith(": rejected\n")
    assert (load(file).verdict.accepted, load(file).verdict.comment) == (False, "the other cat")
    assert run("trace", "accept", file, "--correct", tmp_path / "right.png")[1].endswith("accepted, with what is right\n")
    (right,) = load(file).verdict.objects or ()
    assert np.array_equal(right.mask(), mask > 0)
    assert run("trace", "accept", file, "--none")[0] == 0
    assert load(file).verdict.objects == ()
    assert run("trace", "accept", file, "--forget", "--comment", "")[1].endswith(": not judged\n")
    assert load(file) == before
    assert not load(file).altered


def test_a_correction_that_can_t_be_is_refused_and_the_file_stays(run: Run, file: Path, tmp_path: Path) -> None:
    before = file.read_bytes()
    PILImage.new("L", (10, 10), 255).save(tmp_path / "small.png")
    PILImage.new("L", (100, 80), 0).save(tmp_path / "black.png")
    for name, named in (("small.png", "10 x 10"), ("black.png", "--none"), ("no.png", "does not exist")):
        code, _, err = run("trace", "accept", file, "--correct", tmp_path / name)
        assert code == 2
        assert named in err
    assert run("trace", "accept", file, "--reject", "--none")[0] == 2
    assert file.read_bytes() == before


def test_an_export_with_faults_is_exit_1_and_one_of_nothing_exit_2(run: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "lessons.jsonl"
    assert run("trace", "export", file, "--out", out)[0] == 2
    (tmp_path / "cut.json").write_text("{")
    code, told, err = run("trace", "export", file, tmp_path / "cut.json", "--unjudged", "--out", out)
    assert code == 1
    assert told.startswith(f"wrote {out}: 1 lessons")
    assert err.startswith("left out: ")
