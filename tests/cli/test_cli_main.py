"""The command line in process, where no model is needed; tests/test_embedded.py runs the rest."""

import ast
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from typer.main import get_command

from sam4mllm_tool import __version__
from sam4mllm_tool.cli.main import app, main
from sam4mllm_tool.embedded.everyday import ABSENT_KINDS, KINDS
from sam4mllm_tool.errors import BackendError, ModelWarning, SpecError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.embedded_world import draw_image, draw_scene

Run = Callable[..., tuple[int, str, str]]
HEAVY = ("torch", "transformers", "peft", "langchain", "langchain_core", "langgraph", "pycocotools")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (64, 48), "grey").save(path)
    return path


def assert_refused(outcome: tuple[int, str, str], reason: str) -> None:
    """Exit code 2, one line on stderr that names what was wrong, nothing on stdout."""
    code, out, err = outcome
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("sam4mllm")
    assert reason in err
    assert "Traceback" not in err
    assert len(err) < 1000


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "does not exist", id="no file"),
        pytest.param(b"", "empty", id="empty file"),
        pytest.param(b"hello, I am not an image", "formats", id="not an image"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\x01" * 40, "damaged", id="a damaged image"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\x00" * 40, "is 0 x 0 pixels", id="an image of 0 x 0"),
    ],
)
def test_a_bad_image_is_refused_in_one_line(run: Run, tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "it.png"
    if content is not None:
        path.write_bytes(content)
    assert_refused(run("segment", path, "the ring"), reason)


def test_a_folder_a_name_with_a_line_break_and_a_url_are_not_images(run: Run, tmp_path: Path) -> None:
    assert_refused(run("segment", tmp_path, "the ring"), "is a folder")
    assert_refused(run("segment", "no\nsuch\nfile", "the ring"), "does not exist")
    for command in (["segment", "https://example.com/a.png", "the ring"], ["chat", "https://example.com/a.png"]):
        assert_refused(run(*command), "the image 'https://example.com/a.png' is a URL: add --allow-url to download it")


def test_an_allowed_url_is_fetched_from_public_addresses_only(run: Run) -> None:
    for command in (["segment", "http://127.0.0.1:9/a.png", "the ring"], ["chat", "http://127.0.0.1:9/a.png"]):
        assert_refused(run(*command, "--allow-url"), "127.0.0.1 is not at a public address")


def test_bytes_that_are_not_text_are_not_an_image(run: Run) -> None:
    assert_refused(run("segment", "data:image/png,\udcff", "the ring"), "half a character")


def test_a_truncated_image_is_refused_in_one_line(run: Run, image: Path) -> None:
    draw_image(1, 160).save(image)
    image.write_bytes(image.read_bytes()[:-2000])
    assert_refused(run("segment", image, "the ring"), "cannot be decoded")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [("", "empty"), (" \n", "empty"), ("\u200b", "empty"), ("x" * 10_000, "10,000 characters")],
    ids=["none", "blank", "of no width", "long"],
)
def test_a_bad_expression_is_refused_in_one_line(run: Run, image: Path, expression: str, reason: str) -> None:
    assert_refused(run("segment", image, expression), reason)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--mllm", "./nowhere"], "nowhere", id="an MLLM that does not exist"),
        pytest.param(["--mllm", ""], "a model spec is empty", id="no MLLM"),
        pytest.param(["--segmenter", "", "--dialect", "plain"], "a model spec is empty", id="no segmenter"),
        pytest.param(["--mllm", "x" * 5000], "can't be a folder: File name too long", id="an MLLM of 5,000 characters"),
        pytest.param(["--mllm", "x+" * 2500], "can't be a folder: File name too long", id="adapters of 5,000 characters"),
        pytest.param(["--mllm", "./" + "n/" * 1500], "there is no folder", id="a path of 3,000 characters"),
        pytest.param(["--mllm", "+"], "incomplete", id="half a spec"),
        pytest.param(["--dialect", "klingon"], "there are claude, embedded", id="an unknown dialect"),
        pytest.param(["--method", "boxes"], "'boxes' is not one of 'pqpp', 'ppg', 'box'", id="an unknown method"),
        pytest.param(["--abstain", "2"], "'--abstain': expected a number from 0 to 1, got '2'", id="a probability above 1"),
        pytest.param(["--abstain", "nan"], "expected a number from 0 to 1, got 'nan'", id="a probability that is not a number"),
        pytest.param(["--device", "gpu"], "did you mean 'cuda'?", id="a device that is called otherwise"),
        pytest.param(["--out", ""], "'--out': the path is empty", id="no folder"),
        pytest.param(["--trace="], "'--trace': the path is empty", id="no trace file"),
        pytest.param(["--mllm"], "sam4mllm segment: option '--mllm' requires an argument", id="an option without its value"),
        pytest.param(["--out", "--json"], "'--out': expected a value, got the option --json", id="an option as a value"),
        pytest.param(["--colour"], "--colour", id="an unknown option"),
        pytest.param(["--col\nour"], "--col", id="an unknown option of two lines"),
        pytest.param(["--" + "x" * 5000], "--xxx", id="an unknown option of 5,000 characters"),
        pytest.param(["--meth", "box"], "no such option: --meth; did you mean '--method'?", id="an abbreviated option"),
        pytest.param(["--json=1"], "sam4mllm segment: option '--json' does not take a value", id="a value of a flag"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(run: Run, image: Path, options: list[str], reason: str) -> None:
    assert_refused(run("segment", image, "the ring", *options), reason)


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [
        (["segmant"], "did you mean 'segment'? see sam4mllm --help"),
        (["SEGMENT"], "did you mean 'segment'? see sam4mllm --help"),
        (["help"], "did you mean '--help'? see sam4mllm --help"),
        (["photo.JPG", "ring"], "did you mean 'sam4mllm segment IMAGE EXPRESSION'? see sam4mllm --help"),
        (
            ["--mllm", "x", "segment"],
            "--mllm; it goes behind the command, as in 'sam4mllm segment --mllm'; see sam4mllm --help",
        ),
        (["data", "chek"], "did you mean 'check'? see sam4mllm data --help"),
        (["data", "convert", "cocoo", "x", "--out", "y"], "did you mean 'coco'? see sam4mllm data convert --help"),
        (["segment", "a.png", "ring", "--refine-crop"], "did you mean '--refine-crops'? see sam4mllm segment --help"),
        (["segment", "a.png", "ring", "-o", "x"], "no such option: -o; did you mean '--out'? see sam4mllm segment --help"),
        (["segment", "a.png", "ring", "-out", "x"], "no such option: -out; did you mean '--out'? see sam4mllm segment --help"),
        (["segment", "a.png", "ring", "--method", "PQPP"], "did you mean 'pqpp'? see sam4mllm segment --help"),
        (["train", "--eval-metods", "box"], "did you mean '--eval-methods'? see sam4mllm train --help"),
        (["trace", "accept", "x", "--coment", "a"], "did you mean '--comment'? see sam4mllm trace accept --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_misspelled_command_or_option_gets_a_suggestion(run: Run, argv: list[str], suggestion: str) -> None:
    assert_refused(run(*argv), suggestion)


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
def test_an_invalid_command_line_is_refused_in_one_line(run: Run, argv: Sequence[str]) -> None:
    assert_refused(run(*argv), "--help")


def test_a_folder_that_cannot_be_written_is_refused_before_the_models_are_loaded(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_, **__: pytest.fail("the models were loaded"))
    for folder in (image, image / "below"):
        assert_refused(run("segment", image, "the ring", "--out", folder), f"the folder '{folder}': '{image}' is a file")
        assert_refused(run("chat", image, "--out", folder), f"the folder '{folder}': '{image}' is a file")


class LoadedError(Exception):
    """Raised in place of loading models, with the settings."""


@pytest.mark.parametrize("command", ["segment", "evaluate"])
@pytest.mark.parametrize(("old", "new"), [("--closer", "--refine-crops"), ("--no-closer", "--no-refine-crops")])
def test_the_old_name_of_refine_crops_works_with_a_warning(
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    old: str,
    new: str,
) -> None:
    def load(*_: object, **settings: object) -> None:
        raise LoadedError(settings)

    monkeypatch.setattr(Sam4Mllm, "load", load)
    monkeypatch.setattr("sam4mllm_tool.evaluation.ModelSpec", load)
    words = [str(image), "the ring"] if command == "segment" else ["jsonl", "--root", ".", "--out", "out"]
    settings = []
    for flag in (new, old):
        with pytest.raises(LoadedError) as loaded:
            main([command, *words, "--method", "adaptive", flag])
        settings.append(loaded.value.args[0])
    assert settings[0] == settings[1]
    assert (not new.startswith("--no-")) in settings[0].values()
    assert capsys.readouterr().err == f"sam4mllm: {old} is deprecated and will be removed; use {new}\n"
    main([command, "--help"])
    assert old not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        pytest.param(["--abstain", "0.5"], "--abstain", id="a threshold"),
        pytest.param(["--method", "box", "--no-refine-crops"], "--no-refine-crops", id="turning crops off"),
        pytest.param(["--refine-crops", "--method", "ppg"], "--refine-crops", id="turning crops on"),
    ],
)
def test_options_without_effect_are_refused(run: Run, image: Path, options: list[str], flag: str) -> None:
    outcome = run("segment", image, "the ring", *options)
    assert_refused(outcome, f"sam4mllm segment: {flag} has no effect with --method")
    assert_refused(outcome, "add --method adaptive, or leave it out; see sam4mllm segment --help")


# Help and completion ------------------------------------------------------------------------------------------------


def list_commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from list_commands(subcommand, (*path, name))


COMMANDS = dict(list_commands(get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "sam4mllm")
def test_help_names_every_option_with_its_meaning_in_full(
    run: Run, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: {' '.join(('sam4mllm', *path))}")
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    for param in COMMANDS[path].params:
        if not getattr(param, "hidden", False):
            assert param.help, param.name
            assert param.help.endswith("."), param.name
            assert getattr(param, "is_flag", False) or param.metavar, param.name
            assert all(name in out for name in (*param.opts, *param.secondary_opts) if name.startswith("-"))


def test_help_lists_the_commands_in_the_order_of_their_work(run: Run) -> None:
    out = run("-h")[1]
    names = ("segment", "chat", "data", "train", "export", "evaluate", "trace", "doctor")
    places = [out.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "environment",
    [{}, {"_SAM4MLLM_COMPLETE": "complete_bash", "COMP_WORDS": "sam4mllm segment --me", "COMP_CWORD": "2"}],
    ids=["help", "completion"],
)
def test_help_and_completion_load_no_model_library(environment: dict[str, str]) -> None:
    program = (
        "import atexit, sys; from sam4mllm_tool.cli.main import main\n"
        f"atexit.register(lambda: print([name for name in {HEAVY} if name in sys.modules]))\n"
        "main(['train', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert ("--method" if environment else "--lora-r") in done.stdout
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"sam4mllm {__version__}\n", "")


# Streams ------------------------------------------------------------------------------------------------------------


def test_the_command_runs_as_a_module_and_ends_quietly_when_its_pipe_is_closed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sam4mllm_tool", "data", "scenes", "--out", str(tmp_path), "--count", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 0
    assert "Error" not in stderr
    assert "Exception" not in stderr


def test_ctrl_c_while_the_program_starts_ends_it_without_a_traceback() -> None:
    program = (
        "import sys, sam4mllm_tool.__main__ as main\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sam4mllm_tool.cli.main': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "sys.exit(main.start())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BackendError("out of memory:\ntry a smaller model"), (1, "", "sam4mllm: out of memory: try a smaller model\n")),
        (SpecError("no such model"), (2, "", "sam4mllm: no such model\n")),
        (FileNotFoundError(2, "No such file", "x"), (2, "", "sam4mllm: No such file: 'x'\n")),
        (KeyboardInterrupt(), (130, "", "")),
    ],
    ids=["a model failed", "an invalid spec", "the system failed", "interrupted"],
)
def test_an_error_is_an_exit_code_and_one_line(
    run: Run, image: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, outcome: tuple[int, str, str]
) -> None:
    def raise_error(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Sam4Mllm, "load", raise_error)
    assert run("segment", image, "the ring") == outcome


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
def test_data_scenes_writes_images_and_lines_whose_masks_decode(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "set"
    code, out, _ = run("data", "scenes", "--out", folder, "--count", "3", "--seed", "41")
    assert (code, out) == (0, f"wrote {folder / 'scenes.jsonl'}\n")
    names = [f"scene-{seed:07d}.png" for seed in (41, 42, 43)]
    assert sorted(path.name for path in folder.iterdir()) == [*names, "scenes.jsonl"]
    lines = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    assert {line["image"] for line in lines} == set(names)
    for line in lines:
        assert set(line) == {"image", "expression", "kind", "objects"}
        assert line["kind"] in KINDS
        assert bool(line["objects"]) == (line["kind"] not in ABSENT_KINDS)
        scene = draw_scene(int(line["image"][6:13]))
        assert np.array_equal(np.asarray(Image.open(folder / line["image"])), scene.image)
        for item in line["objects"]:
            mask = coco.decode(item["mask"]).astype(bool)
            ys, xs = np.nonzero(mask)
            assert item["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert any(np.array_equal(mask, scene.mask(i)) for i in range(len(scene.regions)))


def test_data_scenes_writes_the_same_files_every_time(run: Run, tmp_path: Path) -> None:
    contents = []
    for name in ("first", "second"):
        run("data", "scenes", "--out", tmp_path / name, "--count", "2", "--seed", "7")
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_data_scenes_names_a_folder_that_it_cannot_write(run: Run, image: Path) -> None:
    assert_refused(run("data", "scenes", "--out", image, "--count", "1"), f"'{image}' is a file, not a folder")
    assert_refused(run("data", "scenes", "--out", image / "below", "--count", "1"), str(image))


def test_a_warning_of_a_model_is_one_line_on_stderr(monkeypatch, capsys):
    def load(_):
        warnings.warn("the adapter 'a' was\ntrained on 'b'", ModelWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("sam4mllm_tool.cli.main.run_command", load)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["segment"]) == 0
    assert capsys.readouterr() == ("", "sam4mllm: warning: the adapter 'a' was trained on 'b'\n")
