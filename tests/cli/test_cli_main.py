"""The command, in process, where no model is needed; test_embedded runs the rest."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from sam4mllm_tool import __version__
from sam4mllm_tool.embedded.expressions import KINDS
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGB", (64, 48), "grey").save(path)
    return path


def refused(told: tuple[int, str, str], named: str) -> None:
    """Exit 2, one line on stderr that names what was wrong, nothing on stdout."""
    code, out, err = told
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("sam4mllm")
    assert named in err
    assert "Traceback" not in err
    assert len(err) < 1000


# What cannot be done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(None, "does not exist", id="no file"),
        pytest.param(b"", "empty", id="empty file"),
        pytest.param(b"hello, I am no picture", "formats", id="not a picture"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\x01" * 40, "damaged", id="a damaged picture"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, "is 0 x 0 pixels", id="a picture of 0 x 0"),
    ],
)
def test_a_bad_picture_is_refused_in_one_line(run: Run, tmp_path: Path, content: bytes | None, named: str) -> None:
    path = tmp_path / "it.png"
    if content is not None:
        path.write_bytes(content)
    refused(run("segment", path, "the ring"), named)


def test_a_folder_and_a_name_with_a_line_break_are_no_pictures(run: Run, tmp_path: Path) -> None:
    refused(run("segment", tmp_path, "the ring"), "is a folder")
    refused(run("segment", "no\nsuch\nfile", "the ring"), "does not exist")
    refused(run("segment", "https://example.com/a.png", "the ring"), "turned off")


def test_bytes_that_are_no_text_are_no_picture(run: Run) -> None:
    refused(run("segment", "data:image/png,\udcff", "the ring"), "half a character")


def test_a_truncated_picture_is_refused_in_one_line(run: Run, picture: Path) -> None:
    Image.fromarray(draw_scene(1, 64).image).save(picture)
    picture.write_bytes(picture.read_bytes()[:-2000])
    refused(run("segment", picture, "the ring"), "cannot be decoded")


@pytest.mark.parametrize(
    ("expression", "named"),
    [("", "empty"), (" \n", "empty"), ("\u200b", "empty"), ("x" * 10_000, "10,000 characters")],
    ids=["none", "blank", "of no width", "long"],
)
def test_a_bad_expression_is_refused_in_one_line(run: Run, picture: Path, expression: str, named: str) -> None:
    refused(run("segment", picture, expression), named)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param(["--mllm", "./nowhere"], "nowhere", id="an MLLM that is not there"),
        pytest.param(["--mllm", ""], "a model spec is empty", id="no MLLM"),
        pytest.param(["--segmenter", "", "--dialect", "plain"], "a model spec is empty", id="no segmenter"),
        pytest.param(["--mllm", "x" * 5000], "can't be a folder: File name too long", id="an MLLM of 5,000 characters"),
        pytest.param(["--mllm", "x+" * 2500], "can't be a folder: File name too long", id="adapters of 5,000 characters"),
        pytest.param(["--mllm", "./" + "n/" * 1500], "there is no folder", id="a path of 3,000 characters"),
        pytest.param(["--mllm", "+"], "incomplete", id="half a spec"),
        pytest.param(["--dialect", "klingon"], "there are embedded, joint, plain, released", id="an unknown dialect"),
        pytest.param(["--method", "boxes"], "--method", id="an unknown method"),
        pytest.param(["--colour"], "--colour", id="an unknown option"),
        pytest.param(["--\nodd"], "odd", id="an unknown option of two lines"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(run: Run, picture: Path, options: list[str], named: str) -> None:
    refused(run("segment", picture, "the ring", *options), named)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["segmant"],
        ["segment"],
        ["data"],
        ["data", "scenes", "--count", "1"],
        ["data", "scenes", "--out", "x", "--count", "0"],
        ["data", "scenes", "--out", "x", "--count", "-3"],
        ["data", "scenes", "--out", "x", "--count", "many"],
        ["data", "scenes", "--out", "x", "--count", "9" * 20],
        ["data", "scenes", "--out", "x", "--count", "9" * 5000],
        ["data", "scenes", "--out", "x", "--count", "1", "--seed", "9" * 20],
        ["data", "scenes", "--out", "x", "--count", "1", "--seed", "1.5"],
    ],
    ids=lambda argv: " ".join(argv)[:80] or "nothing",
)
def test_a_command_line_that_makes_no_sense_is_refused_in_one_line(run: Run, argv: Sequence[str]) -> None:
    refused(run(*argv), "--help")


def test_a_folder_that_cannot_be_written_is_refused_before_the_models_run(
    run: Run, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_, **__: pytest.fail("the models were loaded"))
    for folder in (picture, picture / "below"):
        refused(run("segment", picture, "the ring", "--out", folder), f"cannot be written to '{folder}'")


# Help ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["segment", "data", "doctor", "--version"]),
        (["segment"], ["IMAGE", "EXPRESSION", "--mllm", "--segmenter", "--method", "pqpp", "--out", "--json", "SAM4MLLM_MLLM"]),
        (["data"], ["scenes"]),
        (["data", "scenes"], ["--out", "--count", "--seed", "scenes.jsonl"]),
        (["doctor"], ["usage"]),
    ],
    ids=lambda value: " ".join(value) or "sam4mllm",
)
def test_help_says_what_there_is(run: Run, command: list[str], words: list[str]) -> None:
    code, out, err = run(*command, "--help")
    assert (code, err) == (0, "")
    assert [word for word in words if word not in out] == []


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"sam4mllm {__version__}\n", "")


def test_the_command_runs_as_a_module_and_minds_no_closed_pipe(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam4mllm_tool", "data", "scenes", "--out", str(tmp_path), "--count", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 0
    assert "Error" not in told
    assert "Exception" not in told


def test_a_terminal_without_the_letters_gets_escapes(tmp_path: Path) -> None:
    out = tmp_path / "красное кольцо"
    done = subprocess.run(
        [sys.executable, "-m", "sam4mllm_tool", "data", "scenes", "--out", str(out), "--count", "1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (out / "scenes.jsonl").is_file()
    assert done.stdout.decode("ascii").startswith("wrote ")
    assert b"\\u043a\\u0440" in done.stdout


# data scenes --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_data_scenes_writes_pictures_and_lines_whose_masks_decode(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("data", "scenes", "--out", tmp_path / "new" / "set", "--count", "3", "--seed", "41")
    assert (code, out) == (0, f"wrote {tmp_path / 'new' / 'set' / 'scenes.jsonl'}\n")
    folder = tmp_path / "new" / "set"
    names = [f"scene-{seed:07d}.png" for seed in (41, 42, 43)]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "scenes.jsonl"]
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    assert {line["image"] for line in lines} == set(names)
    for line in lines:
        assert set(line) == {"image", "expression", "kind", "objects"}
        assert line["kind"] in KINDS
        assert bool(line["objects"]) == (line["kind"] != "absent")
        picture = np.asarray(Image.open(folder / line["image"]))
        scene = draw_scene(int(line["image"][6:13]))
        assert np.array_equal(picture, scene.image)
        for item in line["objects"]:
            mask = coco.decode(item["mask"]).astype(bool)
            ys, xs = np.nonzero(mask)
            assert item["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert any(np.array_equal(mask, scene.mask(i)) for i in range(len(scene.objects)))


def test_data_scenes_is_the_same_every_time(run: Run, tmp_path: Path) -> None:
    for name in ("one", "other"):
        run("data", "scenes", "--out", tmp_path / name, "--count", "2", "--seed", "7")
    one, other = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one == other


def test_data_scenes_says_why_it_cannot_write(run: Run, picture: Path) -> None:
    refused(run("data", "scenes", "--out", picture, "--count", "1"), str(picture))
    refused(run("data", "scenes", "--out", picture / "below", "--count", "1"), str(picture))
