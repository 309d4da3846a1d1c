"""`sam4mllm segment --trace` and `sam4mllm trace` as a user types them."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.trace import TraceError, Verdict, load, recorded, save
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recorded_trace(tmp_path: Path) -> Path:
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
    assert run("trace", "export", file, "--out", dataset)[:2] == (0, f"wrote {dataset}: 1 sample about 1 image\n")
    assert run("data", "check", "jsonl", dataset)[0] == 0
    assert load(file).verdict.comment == "fine"


def test_a_trace_does_not_change_the_json_output(run: Run, tmp_path: Path) -> None:
    image, _ = scene(SEEDS[0])
    image.save(tmp_path / "scene.png")
    code, out, _ = run("segment", tmp_path / "scene.png", "the purple elephant", "--json", "--trace", tmp_path / "it.json")
    assert code == 0
    assert json.loads(out) == load(tmp_path / "it.json").result


def test_a_replay_describes_the_result(run: Run, recorded_trace: Path) -> None:
    outcome = "the same result: 1 object, from 2 replies and 1 prompt, without any model\n"
    assert run("trace", "replay", recorded_trace) == (0, outcome, "")


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
    assert "it is a folder" in run("trace", command, tmp_path)[2]


def test_a_verdict_is_given_corrected_and_withdrawn(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    masks = []
    for name, rows in (("upper", slice(0, 40)), ("lower", slice(40, 80))):
        mask = np.zeros((80, 100), np.uint8)
        mask[rows] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
        masks.append(mask > 0)
    before = load(recorded_trace)
    assert run("trace", "accept", recorded_trace, "--reject", "--comment", "the other cat")[1].endswith(": rejected\n")
    assert (load(recorded_trace).verdict.accepted, load(recorded_trace).verdict.comment) == (False, "the other cat")
    files = (tmp_path / "upper.png", tmp_path / "lower.png")
    assert run("trace", "accept", recorded_trace, "--correct", *files)[1].endswith("accepted, with what is right\n")
    assert all(np.array_equal(o.mask(), m) for o, m in zip(load(recorded_trace).verdict.objects or (), masks, strict=True))
    assert run("trace", "accept", recorded_trace, "--none")[0] == 0
    assert load(recorded_trace).verdict.objects == ()
    assert run("trace", "accept", recorded_trace, "--forget", "--comment", "")[1].endswith(": not judged\n")
    assert load(recorded_trace) == before
    assert not load(recorded_trace).altered


def test_an_invalid_correction_is_refused_and_the_file_stays(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    before = recorded_trace.read_bytes()
    Image.new("L", (10, 10), 255).save(tmp_path / "small.png")
    Image.new("L", (100, 80), 0).save(tmp_path / "black.png")
    for name, reason in (("small.png", "10 x 10"), ("black.png", "--none"), ("no.png", "does not exist")):
        code, _, err = run("trace", "accept", recorded_trace, "--correct", tmp_path / name)
        assert code == 2
        assert reason in err
    code, _, err = run("trace", "accept", recorded_trace, "--reject", "--none")
    assert (code, "--reject and --none exclude each other" in err) == (2, True)
    assert recorded_trace.read_bytes() == before


def test_an_export_with_faults_is_exit_code_1_and_an_empty_export_2(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    assert run("trace", "export", recorded_trace, "--out", out)[0] == 2
    (tmp_path / "cut.json").write_text("{")
    code, printed, err = run("trace", "export", recorded_trace, tmp_path / "cut.json", "--unjudged", "--out", out)
    assert code == 1
    assert printed.startswith(f"wrote {out}: 1 sample about 1 image")
    assert err.startswith("left out: ")


def test_a_page_replaces_only_a_page(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    before = recorded_trace.read_bytes()
    for path, reason in ((recorded_trace, "is not a page, and would be lost"), (tmp_path, "it is a folder")):
        code, _, err = run("trace", "show", recorded_trace, "--out", path)
        assert code == 2
        assert reason in err
    assert recorded_trace.read_bytes() == before
    for _ in range(2):
        assert run("trace", "show", recorded_trace, "--out", tmp_path / "page.html")[0] == 0


def test_an_export_says_what_it_passed_over_and_why(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    for name, verdict in (("good", Verdict(True)), ("older", Verdict(True)), ("bad", Verdict(False))):
        trace = replace(load(recorded_trace), verdict=verdict)
        save(replace(trace, began="1999-01-01T00:00:00") if name == "older" else trace, tmp_path / f"{name}.json")
    good, older, bad = (tmp_path / f"{name}.json" for name in ("good", "older", "bad"))
    code, out, err = run("trace", "export", older, good, bad, recorded_trace, "--out", tmp_path / "mine.jsonl")
    assert (code, out) == (0, f"wrote {tmp_path / 'mine.jsonl'}: 1 sample about 1 image, 3 passed over\n")
    assert err.splitlines() == [
        f"passed over: '{older}': older than '{good}', about the same image and expression",
        f"passed over: '{bad}': rejected",
        f"passed over: '{recorded_trace}': not judged",
    ]
    code, _, err = run("trace", "export", recorded_trace, "--out", tmp_path / "none.jsonl")
    assert code == 2
    assert "cat.trace.json.gz': not judged: accept some with 'sam4mllm trace accept FILE'" in err


def test_an_export_replaces_only_an_export(run: Run, recorded_trace: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.jsonl"
    for _ in range(2):
        assert run("trace", "export", recorded_trace, "--unjudged", "--out", out)[0] == 0
    for content in (b'{"image": "a.png", "expression": "my own"}\n', b"\xff\n"):
        out.write_bytes(content)
        code, _, err = run("trace", "export", recorded_trace, "--unjudged", "--out", out)
        assert code == 2
        assert "it holds something else; choose another name" in err
        assert out.read_bytes() == content


# What --trace may replace -------------------------------------------------------------------------------------------


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_, **__: pytest.fail("the models were loaded"))


@pytest.mark.usefixtures("no_models")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--trace", "photo.png"], "--trace would replace the image 'photo.png' itself", id="the image"),
        pytest.param(["--trace", "./sub/../photo.png"], "--trace would replace the image", id="the image by another path"),
        pytest.param(["--trace", "link.png"], "--trace would replace the image", id="a link to the image"),
        pytest.param(["--trace", "notes.txt"], "not a complete trace, and would be lost", id="a foreign file"),
        pytest.param(["--trace", "cut.json"], "not a complete trace, and would be lost", id="half a trace"),
        pytest.param(["--trace", "sub"], "it is a folder; add a file name", id="a folder"),
        pytest.param(["--trace", "/dev/null"], "it is not a regular file", id="a device"),
        pytest.param(["--trace", "photo.png/it.json"], "photo.png", id="below a file"),
        pytest.param(["--trace", "judged.json"], "holds a trace that was accepted", id="an accepted trace"),
        pytest.param(["--trace", "result.json", "--out", "."], "--out writes 'result.json' too", id="the result"),
    ],
)
def test_a_trace_replaces_nothing_that_would_be_lost(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    GREY.save("photo.png")
    Path("sub").mkdir()
    Path("link.png").symlink_to("photo.png")
    Path("notes.txt").write_text("my notes")
    Path("cut.json").write_text('{"format": "sam4mllm trace"')
    save(replace(traced(scripted(BOX, SURE)), verdict=Verdict(True)), "judged.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, out, err = run("segment", "photo.png", "the ring", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.usefixtures("no_models")
def test_a_result_does_not_replace_the_image(run: Run, tmp_path: Path) -> None:
    GREY.save(tmp_path / "overlay.png")
    code, _, err = run("segment", tmp_path / "overlay.png", "the ring", "--out", tmp_path)
    assert code == 2
    assert "--out would replace the image" in err


@pytest.mark.parametrize(
    ("verdict", "state"),
    [(Verdict(True), "accepted"), (Verdict(False), "rejected"), (Verdict(None, "look at this"), "commented on")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_recording_keeps_a_trace_with_a_verdict(recorded_trace: Path, verdict: Verdict, state: str) -> None:
    save(replace(load(recorded_trace), verdict=verdict), recorded_trace)
    before = recorded_trace.read_bytes()
    with pytest.raises(TraceError, match=f"holds a trace that was {state}"), recorded(scripted(BOX, SURE), recorded_trace):
        pytest.fail("the run began")
    assert recorded_trace.read_bytes() == before


def test_recording_replaces_a_trace_without_a_verdict_and_an_empty_file(recorded_trace: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.json").touch()
    for path in (recorded_trace, tmp_path / "empty.json"):
        with recorded(scripted(BOX, SURE), path) as models:
            models.segment(GREY, "another cat")
        assert load(path).expression == "another cat"


@pytest.mark.parametrize(
    ("button", "expected", "said"),
    [
        ("accepted", Verdict(True), "accepted"),
        ("rejected", Verdict(False), "rejected"),
        ("none", Verdict(True, objects=()), "accepted, with what is right"),
    ],
)
def test_a_verdict_of_the_pages_buttons_is_taken(
    run: Run, recorded_trace: Path, tmp_path: Path, button: str, expected: Verdict, said: str
) -> None:
    run("trace", "show", recorded_trace, "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    links = dict(re.findall(r'download="[0-9a-f]{12}\.(\w+)\.json" href="data:application/json;base64,([^"]+)"', page))
    assert list(links) == ["accepted", "rejected", "none"]
    downloaded = tmp_path / "downloaded.json"
    downloaded.write_bytes(base64.b64decode(links[button]))
    assert run("trace", "accept", recorded_trace, "--verdict", downloaded) == (0, f"{recorded_trace}: {said}\n", "")
    assert load(recorded_trace).verdict == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b"[]", "'format' is not 'sam4mllm verdict'"),
        (b'{"format": "sam4mllm verdict", "accepted": 1, "none": false}', "'accepted' is 1"),
        (b'{"format": "sam4mllm verdict", "accepted": true, "none": false, "seal": "x"}', "about another run"),
    ],
)
def test_what_is_no_verdict_about_the_trace_is_refused(
    run: Run, recorded_trace: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "verdict.json").write_bytes(content)
    code, out, err = run("trace", "accept", recorded_trace, "--verdict", tmp_path / "verdict.json")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "verdict.json" in err
    assert reason in err
    assert load(recorded_trace).verdict == Verdict()
    assert "exclude each other" in run("trace", "accept", recorded_trace, "--verdict", "x", "--reject")[2]


def test_the_traces_of_a_folder_are_listed(run: Run, recorded_trace: Path) -> None:
    folder = recorded_trace.parent
    rejected = replace(traced(scripted(BOX, SURE), expression="a dog"), verdict=Verdict(False))
    save(rejected, folder / "dog.trace.json")
    (folder / "broken.trace.json").write_text("{")
    (folder / "other.json").write_text("{}")
    code, out, err = run("trace", "list", folder)
    head, first, second, total = out.splitlines()
    assert code == 1
    assert "broken.trace.json" in err
    assert err.count("\n") == 1
    assert head.split() == ["verdict", "method", "objects", "confidence", "image", "file", "expression"]
    size, sha = "100x80", rejected.image.sha256[:8]
    assert first.split() == ["not", "judged", "pqpp", "1", "-", size, sha, str(recorded_trace), "a", "cat"]
    assert second.split() == ["rejected", "pqpp", "1", "-", size, sha, str(folder / "dog.trace.json"), "a", "dog"]
    assert total == "2 traces"
    assert "there is no folder or file" in run("trace", "list", folder / "nowhere")[2]


def test_a_list_of_one_trace_gives_the_mean_confidence(run: Run, tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[0])
    trace = traced(embedded(), image, expressions[0], method="adaptive")
    save(trace, tmp_path / "it.trace.json")
    confidences = [segmented["confidence"] for segmented in (trace.result or {})["objects"]]
    code, out, _ = run("trace", "list", tmp_path)
    assert code == 0
    assert f" {sum(confidences) / len(confidences):.0%} " in out
    assert out.splitlines()[-1] == "1 trace"
