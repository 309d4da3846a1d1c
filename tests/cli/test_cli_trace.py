"""`sam4mllm segment --trace` and `sam4mllm trace` as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.trace import load, save
from tests.trace.traced import BOX, SEEDS, SURE, scene, scripted, traced

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "cat.trace.json.gz"
    save(traced(scripted(BOX, SURE)), path)
    return path


def test_a_segmentation_is_recorded_replayed_shown_accepted_and_exported(run: Run, tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[2])
    image.save(tmp_path / "scene.png")
    file = tmp_path / "runs" / "ring.trace.json.gz"
    code, out, _ = run("segment", tmp_path / "scene.png", expressions[0], "--mllm", "embedded", "--trace", file)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {file}")
    assert run("trace", "replay", file)[0] == 0
    page = tmp_path / "runs" / "ring.trace.html"
    assert run("trace", "show", file)[:2] == (0, f"wrote {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("trace", "accept", file, "--comment", "fine")[:2] == (0, f"{file}: accepted\n")
    dataset = tmp_path / "mine.jsonl"
    assert run("trace", "export", file, "--out", dataset)[:2] == (0, f"wrote {dataset}: 1 samples about 1 images\n")
    assert run("data", "check", "jsonl", dataset)[0] == 0
    assert load(file).verdict.comment == "fine"


def test_a_trace_does_not_change_the_json_output(run: Run, tmp_path: Path) -> None:
    image, _ = scene(SEEDS[0])
    image.save(tmp_path / "scene.png")
    code, out, _ = run("segment", tmp_path / "scene.png", "the purple elephant", "--json", "--trace", tmp_path / "it.json")
    assert code == 0
    assert json.loads(out) == load(tmp_path / "it.json").result


def test_a_replay_describes_the_result(run: Run, recorded: Path) -> None:
    outcome = "the same result: 1 object, from 2 replies and 1 prompts, without any model\n"
    assert run("trace", "replay", recorded) == (0, outcome, "")


def test_a_replay_that_differs_is_exit_code_1_with_the_first_difference(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    save(traced(scripted(BOX, SURE)), path)
    path.write_text(path.read_text().replace('"score": 1.0', '"score": 0.25', 1))
    code, out, _ = run("trace", "replay", path)
    assert code == 1
    assert out.startswith("differs: result.objects[0].score: 1.0")


@pytest.mark.parametrize("command", ["show", "replay", "accept"])
def test_a_file_that_is_not_a_trace_is_refused_in_one_line(run: Run, tmp_path: Path, command: str) -> None:
    for content in (b"", b"{", b"hello"):
        (tmp_path / "it.json").write_bytes(content)
        code, out, err = run("trace", command, tmp_path / "it.json")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "it.json" in err
    assert run("trace", command, tmp_path / "none.json")[0] == 2


def test_a_verdict_is_given_corrected_and_withdrawn(run: Run, recorded: Path, tmp_path: Path) -> None:
    masks = []
    for name, rows in (("upper", slice(0, 40)), ("lower", slice(40, 80))):
        mask = np.zeros((80, 100), np.uint8)
        mask[rows] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        masks.append(mask > 0)
    before = load(recorded)
    assert run("trace", "accept", recorded, "--reject", "--comment", "the other cat")[1].endswith(": rejected\n")
    assert (load(recorded).verdict.accepted, load(recorded).verdict.comment) == (False, "the other cat")
    files = (tmp_path / "upper.png", tmp_path / "lower.png")
    assert run("trace", "accept", recorded, "--correct", *files)[1].endswith("accepted, with what is right\n")
    assert all(np.array_equal(o.mask(), m) for o, m in zip(load(recorded).verdict.objects or (), masks, strict=True))
    assert run("trace", "accept", recorded, "--none")[0] == 0
    assert load(recorded).verdict.objects == ()
    assert run("trace", "accept", recorded, "--forget", "--comment", "")[1].endswith(": not judged\n")
    assert load(recorded) == before
    assert not load(recorded).altered


def test_an_invalid_correction_is_refused_and_the_file_stays(run: Run, recorded: Path, tmp_path: Path) -> None:
    before = recorded.read_bytes()
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    Image.new("L", (100, 80), 0).save(tmp_path / "black.png")
    for name, reason in (("small.png", "10 x 10"), ("black.png", "--none"), ("no.png", "does not exist")):
        code, _, err = run("trace", "accept", recorded, "--correct", tmp_path / name)
        assert code == 2
        assert reason in err
    code, _, err = run("trace", "accept", recorded, "--reject", "--none")
    assert (code, "--reject and --none exclude each other" in err) == (2, True)
    assert recorded.read_bytes() == before


def test_an_export_with_faults_is_exit_code_1_and_an_empty_export_2(run: Run, recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    assert run("trace", "export", recorded, "--out", out)[0] == 2
    (tmp_path / "cut.json").write_text("{")
    code, printed, err = run("trace", "export", recorded, tmp_path / "cut.json", "--unjudged", "--out", out)
    assert code == 1
    assert printed.startswith(f"wrote {out}: 1 samples")
    assert err.startswith("left out: ")
