"""`sam4mllm segment` with several images and expressions, and what it says on stderr."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import Segmentation
from tests.results import assert_equal_json
from tests.trace.traced import SEEDS, embedded, scene

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Load the embedded pair once for all tests; return the settings of each load."""
    models, calls = embedded(), list[dict[str, Any]]()

    def load(*_: object, **settings: Any) -> Sam4Mllm:
        calls.append(settings)
        return models

    monkeypatch.setattr(Sam4Mllm, "load", load)
    return calls


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the images a.png and b.png, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a.png", SEEDS[0]), ("b.png", SEEDS[1])):
        scene(seed)[0].save(name)
    Path("text.png").write_text("not an image")
    return tmp_path


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# Which word is what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        pytest.param([], "missing argument 'IMAGE'", id="nothing"),
        pytest.param(["a.png"], "missing argument 'EXPRESSION'", id="no expression"),
        pytest.param(["a.png", "the", "red", "ring"], "needs quotation marks, as in 'the red ring'", id="no quotation marks"),
        pytest.param(["a.png", "b.png"], "'b.png' is an image, not an expression", id="two images"),
        pytest.param(["a.png", "b.png", "the ring"], "in several with --expression", id="two images and an expression"),
        pytest.param(["a.png", "https://x.org/b"], "is an image, not an expression", id="an image and a URL"),
        pytest.param(["--expression", "the ring"], "missing argument 'IMAGE'", id="an expression alone"),
        pytest.param(["a.png", "--batch", "pairs.jsonl"], "--batch FILE takes neither images", id="a batch and an image"),
        pytest.param(
            ["a.png", "b.png", "--expression", "x", "--trace", "t.json"], "--trace has room for one run", id="a trace"
        ),
        pytest.param(["n.png", "m.png", "--expression", "x"], "none of the images exists: 'm.png', 'n.png'", id="no images"),
        pytest.param(["a.png", "b.png", "--expression", ""], "the expression is empty", id="an empty expression"),
    ],
)
def test_words_that_could_mean_two_things_are_refused(
    run: Run, folder: Path, loads: list[dict[str, Any]], words: Sequence[str], reason: str
) -> None:
    code, out, err = run("segment", *words)
    assert (code, out, err.count("\n"), loads) == (2, "", 1, [])
    assert reason in err
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "b.png", "text.png"]


def test_an_expression_may_have_the_name_of_a_file_that_is_no_image(
    run: Run, folder: Path, loads: list[dict[str, Any]]
) -> None:
    (folder / "ring").write_text("")
    code, out, _ = run("segment", "a.png", "ring", "--json")
    assert (code, json.loads(out)["expression"], len(loads)) == (0, "ring", 1)


# Several ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder")
def test_images_and_expressions_load_the_models_once_and_give_what_each_alone_gives(
    run: Run, loads: list[dict[str, Any]]
) -> None:
    expressions = [scene(SEEDS[0])[1][0], "the purple elephant"]
    words = ["a.png", "b.png", "--expression", expressions[0], "--expression", expressions[1]]
    code, out, err = run("segment", *words, "--out", "out")
    assert (code, len(loads)) == (0, 1)
    assert "loading took" in err
    assert "segmenting took" in err
    records = read_lines(Path("out/results.jsonl").read_text())
    assert [(record["image"], record["expression"]) for record in records] == [
        (image, expression) for image in ("a.png", "b.png") for expression in expressions
    ]
    for record in records:
        assert f'{record["image"]}: "{record["expression"]}": ' in out
        assert json.loads(Path("out", record["name"], "result.json").read_text()) == record["result"]
        assert Path("out", record["name"], "overlay.png").is_file()
        alone = embedded().segment(record["image"], record["expression"])
        assert (Segmentation.from_dict(record["result"]).mask == alone.mask).all()
    assert out.endswith("wrote out/results.jsonl: 4 new results, 0 errors\n")


@pytest.mark.usefixtures("folder", "loads")
def test_results_are_written_in_the_formats_asked_for(run: Run) -> None:
    code, out, _ = run("segment", "a.png", "all rings", "--out", "one", "--format", "coco", "labelme", "yolo")
    assert code == 0
    assert sorted(path.name for path in Path("one").iterdir()) == ["a.json", "a.txt", "coco.json", "yolo.yaml"]
    assert "wrote one/coco.json" in out
    assert json.loads(Path("one/coco.json").read_text())["images"][0]["file_name"] == "a.png"
    words = ["a.png", "b.png", "--expression", "all rings", "--out", "two"]
    assert run("segment", *words, "--format", "svg", "--format", "cutout")[0] == 0
    assert sorted(path.name for path in Path("two/b-all-rings").iterdir()) == ["cutout.png", "objects.svg"]
    code, _, err = run("segment", *words, "--format", "mask")
    assert (code, "holds results of other settings" in err) == (2, True)


@pytest.mark.usefixtures("folder")
def test_a_format_that_does_not_exist_is_refused_before_the_models_are_loaded(run: Run, loads: list[dict[str, Any]]) -> None:
    code, _, err = run("segment", "a.png", "ring", "--out", "out", "--format", "coco", "labelmee")
    assert (code, loads, Path("out").exists()) == (2, [], False)
    assert "there is no output format 'labelmee': expected mask, instances" in err
    assert "did you mean 'labelme'?" in err
    assert "--format has no effect without --out" in run("segment", "a.png", "ring", "--format", "coco")[2]
    Path("coco.json").symlink_to("a.png")
    assert "--out would replace the image" in run("segment", "a.png", "ring", "--out", ".", "--format", "coco")[2]


@pytest.mark.usefixtures("loads")
def test_a_bad_line_of_a_batch_is_named_and_the_others_have_their_results(run: Run, folder: Path) -> None:
    lines = [
        '{"image": "a.png", "expression": "the purple elephant", "name": "first"}',
        "",
        '{"image": "missing.png", "expression": "the ring"}',
        '{"image": "text.png", "expression": "the ring"}',
        "not JSON",
        '{"image": "a.png"}',
        '{"image": "a.png", "expression": "x", "name": "../../x"}',
        '{"image": "a.png", "expression": "x", "name": "first"}',
        '{"image": "b.png", "expression": "the purple elephant"}',
        '{"image": "b.png", "expression": "the purple elephant"}',
    ]
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png", "text.png"):
        (folder / name).rename(folder / "sub" / name)  # paths start at the batch's folder
    (folder / "sub" / "pairs.jsonl").write_text("\n".join(lines))
    code, out, err = run("segment", "--batch", "sub/pairs.jsonl", "--out", "out", "--json")
    assert code == 1
    records = read_lines(out)
    assert [record["name"] for record in records if "result" in record] == [
        "first",
        "b-the-purple-elephant",
        "b-the-purple-elephant-2",
    ]
    assert [record["image"] for record in records if "error" in record] == ["missing.png", "text.png"]
    assert sorted(records, key=str) == sorted(read_lines(Path("out/results.jsonl").read_text()), key=str)
    for place, reason in (
        ("line 3, 'the ring' in 'missing.png'", "does not exist"),
        ("line 4, 'the ring' in 'text.png'", "formats"),
        ("line 5", "expected JSON such as"),
        ("line 6", "it has no expression"),
        ("line 7", "the name '../../x' can't be a folder's"),
        ("line 8", "the name 'first' is that of line 1"),
    ):
        (line,) = [line for line in err.splitlines() if line.startswith(f"sam4mllm: {place}:")]
        assert reason in line
    assert not (folder.parent / "x").exists()


@pytest.mark.usefixtures("loads")
def test_a_batch_as_csv_gives_the_same_results(run: Run, folder: Path) -> None:
    pairs = [
        {"image": "a.png", "expression": 'the "purple" elephant, or the ring'},
        {"image": "b.png", "expression": "all rings"},
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    table = '\ufeffimage,expression,note\r\na.png,"the ""purple"" elephant, or the ring",x\r\nb.png,all rings,y\r\n'
    (folder / "pairs.csv").write_text(table, encoding="utf-8")
    batches = [read_lines(run("segment", "--batch", name, "--json")[1]) for name in ("pairs.jsonl", "pairs.csv")]
    assert [{key: record[key] for key in ("image", "expression")} for record in batches[0]] == pairs
    for first, second in zip(*batches, strict=True):
        assert first["name"] == second["name"]
        assert_equal_json(first["result"]["objects"], second["result"]["objects"])


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("pairs.jsonl", b"", "the batch 'pairs.jsonl' is empty"),
        ("pairs.jsonl", b"{}\n[1]\n", "no line can be used"),
        ("pairs.jsonl", b"\xff\xfe", "is not text in UTF-8"),
        ("pairs.csv", b"a.png,the ring\n", "must name the columns image, expression"),
        ("pairs.csv", b"", "the batch 'pairs.csv' is empty"),
        ("pairs.csv", b"image,expression\n", "the batch 'pairs.csv' is empty"),
        ("pairs", None, "can't be read: No such file"),
    ],
)
def test_a_batch_that_cannot_be_used_is_refused_before_the_models_are_loaded(
    run: Run, loads: list[dict[str, Any]], name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    code, out, err = run("segment", "--batch", name)
    assert (code, out, loads) == (2, "", [])
    assert reason in err.splitlines()[-1]


@pytest.mark.usefixtures("folder")
def test_an_interrupted_batch_goes_on_where_it_was(
    run: Run, loads: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["segment", "a.png", "b.png", "--expression", "all rings", "--out", "out"]
    segment_group, images = Sam4Mllm.segment_group, []

    def segment_until_interrupted(self: Sam4Mllm, image: Any, *args: Any, **options: Any) -> Any:
        images.append(image)
        if len(images) == 2:
            raise KeyboardInterrupt
        return segment_group(self, image, *args, **options)

    monkeypatch.setattr(Sam4Mllm, "segment_group", segment_until_interrupted)
    code, _, err = run(*words)
    assert code == 130
    assert "interrupted after 1 of 2 results; the same command goes on" in err
    with Path("out/results.jsonl").open("a") as file:
        file.write('{"name": "b-all')  # as a crash leaves it
    code, out, err = run(*words, "--json")
    assert (code, len(images)) == (0, 3)
    assert "1 of 2 results in 'out' already" in err
    assert [record["name"] for record in read_lines(out)] == ["a-all-rings", "b-all-rings"]
    assert read_lines(Path("out/results.jsonl").read_text()) == read_lines(out)
    assert run(*words)[0] == 0
    assert len(loads) == 2, "the models were loaded although nothing was left to do"
    code, _, err = run(*words, "--method", "box")
    assert code == 2
    assert "holds results of other settings (method: pqpp there, box now)" in err


@pytest.mark.usefixtures("folder", "loads")
def test_a_failing_model_fails_one_expression_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    segment_group = Sam4Mllm.segment_group

    def fail_on_star(self: Sam4Mllm, image: Any, expressions: Sequence[str], **options: Any) -> Any:
        if "the star" in expressions:
            raise BackendError("out of memory")
        return segment_group(self, image, expressions, **options)

    monkeypatch.setattr(Sam4Mllm, "segment_group", fail_on_star)
    code, out, err = run("segment", "a.png", "--expression", "the star", "--expression", "all rings", "--json")
    assert code == 1
    assert [("error" in record, record["expression"]) for record in read_lines(out)] == [
        (True, "the star"),
        (False, "all rings"),
    ]
    assert "sam4mllm: 'the star' in 'a.png': out of memory" in err
    words = ["a.png", "--expression", "the star", "--expression", "all rings", "--on-error", "raise"]
    code, out, err = run("segment", *words, "--json")
    assert (code, [record["expression"] for record in read_lines(out)]) == (1, ["the star"])
    assert "sam4mllm: ended by an error after 0 of 2 results" in err


@pytest.mark.usefixtures("folder")
def test_a_batch_has_a_time_limit_for_each_call_of_a_model(run: Run, loads: list[dict[str, Any]]) -> None:
    assert run("segment", "a.png", "ring", "--timeout-s", "2.5")[0] == 0
    assert loads[0]["timeout_s"] == 2.5
    code, _, err = run("segment", "a.png", "ring", "--timeout-s", "0")
    assert (code, "'--timeout-s': expected a number from 0.001," in err) == (2, True)
    code, _, err = run("segment", "a.png", "ring", "--on-error", "raise")
    assert (code, "--on-error has no effect on a single expression" in err) == (2, True)


@pytest.mark.usefixtures("folder", "loads")
def test_results_replace_neither_an_image_nor_a_foreign_file(run: Run) -> None:
    Path("out/a-ring").mkdir(parents=True)
    Path("a.png").rename("out/a-ring/overlay.png")
    Path("a.png").symlink_to("out/a-ring/overlay.png")
    code, _, err = run("segment", "a.png", "b.png", "--expression", "ring", "--out", "out")
    assert code == 2
    assert "--out would replace the image 'a.png' itself" in err
    Path("mine").mkdir()
    Path("mine/results.jsonl").write_text("my results\n")
    code, _, err = run("segment", "a.png", "b.png", "--expression", "ring", "--out", "mine")
    assert code == 2
    assert "'mine/results.jsonl' is not of a batch" in err
    assert Path("mine/results.jsonl").read_text() == "my results\n"


@pytest.mark.slow
@pytest.mark.usefixtures("folder", "loads")
def test_points_can_be_left_out_of_the_overlays(run: Run) -> None:
    for name, words in (("one", ["a.png"]), ("several", ["a.png", "b.png"])):
        overlays = []
        for option in ("--points", "--no-points"):
            out = Path(name + option)
            assert run("segment", *words, "--expression", scene(SEEDS[0])[1][0], "--out", out, option)[0] == 0
            (path, *_) = sorted(out.rglob("overlay.png"))
            overlays.append(path.read_bytes())
            assert json.loads(path.with_name("result.json").read_text())["objects"][0]["points"]
        assert overlays[0] != overlays[1]
    code, _, err = run("segment", "a.png", "all rings", "--no-points")
    assert (code, "--no-points has no effect without --out" in err) == (2, True)


# What is said on stderr ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("folder", "loads")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param([], True, id="nothing is written"),
        pytest.param(["--expression", "the star"], True, id="nothing is written of several"),
        pytest.param(["--out", "out"], False, id="written"),
        pytest.param(["--json"], False, id="printed as JSON"),
        pytest.param(["--trace", "it.json"], False, id="traced"),
    ],
)
def test_segment_says_that_nothing_was_written(run: Run, options: list[str], said: bool) -> None:
    words = ["a.png", "--expression", "all rings"]
    code, out, err = run("segment", *words, *options)
    assert code == 0
    assert ("sam4mllm: nothing was written; --out DIR writes mask.png" in err) == said
    assert "nothing was written" not in out


@pytest.mark.usefixtures("folder", "loads")
def test_a_warning_is_printed_once_on_stderr_and_kept_in_each_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(embedded().mllm), "check_image", lambda *_: "these weights know drawn scenes only", raising=False)
    Image.new("RGB", (64, 64), "grey").save("c.png")
    code, out, err = run("segment", "a.png", "c.png", "--expression", "the purple elephant", "--json")
    assert code == 0
    assert err.count("warning: these weights know drawn scenes only") == 1
    assert [record["result"]["warnings"] for record in read_lines(out)] == [["these weights know drawn scenes only"]] * 2
    code, out, err = run("segment", "a.png", "the purple elephant")
    assert (err.count("warning: "), out.count("warning: ")) == (1, 0)
