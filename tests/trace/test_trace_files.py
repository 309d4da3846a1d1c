"""The file: what is written is what is read, whole or not there, and nothing else passes for one."""

import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from sam4mllm_tool.pipeline.methods import Methods
from sam4mllm_tool.protocol import DIALECTS, Exchange, FixedList, Grid, PointsByBox, PoissonDisk, Thresholds
from sam4mllm_tool.trace import Trace, TraceError, Verdict, load, save
from sam4mllm_tool.trace.files import from_json, seal, to_json
from sam4mllm_tool.trace.schema import Asked, Candidate, Failure, Found, Picture, Prompted, Runs
from sam4mllm_tool.types import Box, FreeText, Labels, ObjectPrompt, Point, PointPrompt, Question, Reply, Size, Tokens, Turn
from tests.trace.traced import BOX, GREY, SURE, scripted, traced

WIDTH, HEIGHT = 7, 5
PICTURE = Picture.of(PILImage.fromarray(np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)))

text = st.text(st.characters(), max_size=12)  # any code point, half characters among them
number = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)
box = st.builds(Box, number, number, number, number)
point = st.builds(PointPrompt, number, number, st.sampled_from([0, 1]), st.none() | share)
prompt = st.builds(ObjectPrompt, box, st.lists(point, max_size=3).map(tuple))
runs = st.lists(st.booleans(), min_size=WIDTH * HEIGHT, max_size=WIDTH * HEIGHT).map(
    lambda pixels: Runs.of(np.array(pixels).reshape(HEIGHT, WIDTH))
)
answer = st.builds(FreeText, st.integers(1, 999)) | st.builds(
    Labels, st.integers(0, 9), st.lists(text, min_size=1, max_size=3).map(tuple)
)
turn = st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), text)
question = st.builds(Question, st.lists(turn, min_size=1, max_size=3).map(tuple), answer)
rows = st.lists(st.lists(share, min_size=1, max_size=2).map(tuple), max_size=2).map(tuple)
tokens = st.builds(Tokens, st.integers(0, 10**6), st.integers(0, 999))
reply = st.builds(Reply, text, st.none() | rows, st.none() | st.floats(-99, 0), st.none() | tokens)
asked = st.builds(Asked, st.lists(st.builds(Exchange, question, reply), max_size=3).map(tuple), share)
candidates = st.lists(st.builds(Candidate, runs, share), max_size=2).map(tuple)
found = st.builds(Found, prompt, runs, share, st.none() | share, candidates)
prompted = st.lists(st.tuples(prompt, found), max_size=2).map(
    lambda pairs: Prompted(tuple(one for one, _ in pairs), tuple(one for _, one in pairs), 0.5)
)
samplers = st.one_of(
    st.builds(Grid, st.integers(1, 9), st.integers(1, 9)),
    st.just(FixedList()),
    st.builds(PoissonDisk, st.integers(0, 9), share),
    st.builds(PointsByBox, st.lists(st.tuples(box, st.just((Point(1.5, 2.5),))), max_size=2).map(tuple)),
)
settings = st.builds(
    Methods,
    st.sampled_from(sorted(DIALECTS)).map(lambda name: DIALECTS[name]),
    sampler=samplers,
    thresholds=st.builds(Thresholds, share, share),
    retries=st.integers(0, 5),
    repeats=st.booleans(),
    mllm=text,
    segmenter=text,
)
result = st.builds(
    lambda expression, notes: {
        "expression": expression,
        "size": {"width": WIDTH, "height": HEIGHT},
        "objects": [],
        "turns": [],
        "notes": notes,
        "confidence": None,
        "models": {"mllm": "m"},
    },
    text,
    st.lists(text, max_size=2),
)
verdicts = st.builds(Verdict, st.none() | st.booleans(), text, st.none() | st.lists(runs, max_size=2).map(tuple))
traces = st.builds(
    Trace,
    picture=st.just(PICTURE),
    settings=settings,
    expression=st.none() | text,
    method=st.none() | st.sampled_from(["pqpp", "box"]),
    steps=st.lists(asked | prompted, max_size=3).map(tuple),
    result=st.none() | result,
    error=st.none() | st.builds(Failure, text, text),
    began=st.just("2026-01-01T00:00:00+00:00"),
    seconds=share,
    written_by=text,
    verdict=verdicts,
)


@given(traces)
def test_what_is_written_is_what_is_read(trace: Trace) -> None:
    again = from_json(json.loads(json.dumps(to_json(trace), allow_nan=False)))
    assert again == trace
    assert (again.altered, seal(again)) == (False, seal(trace))
    assert again.picture.image is not None
    assert again.picture.image.tobytes() == PICTURE.image.tobytes()  # type: ignore[union-attr]


@given(traces, st.data())
def test_a_file_cut_off_anywhere_is_refused(trace: Trace, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        for name in ("it.json", "it.json.gz"):
            path = Path(folder) / name
            save(trace, path)
            content = path.read_bytes()
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 2), label=name)])  # the last is a line break
            with pytest.raises(TraceError, match=r"cut off|empty|not JSON|no trace"):
                load(path)


@pytest.fixture
def told() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(to_json(traced(scripted(BOX, SURE)))))
    return written


def test_zipped_or_not_a_file_is_read_by_what_it_is(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "new" / "a.json")
    save(trace, tmp_path / "a.json.gz")
    assert load(tmp_path / "new" / "a.json") == load(tmp_path / "a.json.gz") == trace
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "new" / "a.json").read_bytes()
    (tmp_path / "a.json.gz").rename(tmp_path / "b.json")
    assert load(tmp_path / "b.json") == trace


def test_without_the_picture_its_hash_and_size_stay(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "a.json", picture=False)
    again = load(tmp_path / "a.json")
    assert (again == trace, again.picture.image, again.altered) == (True, None, False)
    assert (tmp_path / "a.json").stat().st_size < 20_000


def edit(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(told: dict[str, Any]) -> None:
        *way, last = path
        for step in way:
            told = told[step]
        told[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(edit("format", to="coco"), "'format'", id="another format"),
        pytest.param(edit("version", to=2), "update sam4mllm-tool", id="a newer version"),
        pytest.param(edit("version", to="1"), "'version'", id="a version that is a text"),
        pytest.param(edit("mood", to=1), "'mood', which is not known", id="a field too many"),
        pytest.param(lambda told: told.pop("steps"), "no 'steps'", id="a field missing"),
        pytest.param(lambda told: told.pop("picture"), "trace.picture", id="no picture"),
        pytest.param(lambda told: told.pop("seal"), "trace.seal", id="no seal"),
        pytest.param(edit("seconds", to="soon"), "trace.seconds should be a number", id="a text for a number"),
        pytest.param(edit("seconds", to=True), "trace.seconds should be a number", id="a truth for a number"),
        pytest.param(edit("seconds", to=1e999), "trace.seconds should be a number", id="an endless number"),
        pytest.param(edit("result", "seconds", "mllm", to=1e999), "can't hold the number", id="an endless one in the result"),
        pytest.param(edit("settings", "sampler", "kind", to="spiral"), "sampler", id="a strange sampler"),
        pytest.param(edit("settings", "sampler", "rows", to=0), "at least one column", id="a grid of no rows"),
        pytest.param(edit("settings", "dialect", "yes", to=""), "words for yes", id="a dialect without a yes"),
        pytest.param(edit("steps", 0, to={"sung": []}), "trace.steps[0]", id="a step of another kind"),
        pytest.param(edit("steps", 0, "exchanges", 0, "question", "turns", 0, "role", to="god"), "role", id="a strange role"),
        pytest.param(edit("steps", 2, "found", 0, "mask", "size", to=[80, 101]), "the picture 100 x 80", id="a mask's size"),
        pytest.param(edit("steps", 2, "found", 0, "mask", "counts", to="0"), "RLE counts", id="a mask's counts"),
        pytest.param(edit("steps", 2, "found", 0, "prompt", "box", to=[1, 2, 3]), "a list of 4", id="a box of three"),
        pytest.param(edit("result", "objects", to=None), "trace.result.objects", id="a result without objects"),
        pytest.param(edit("result", "objects", 0, "score", to="good"), "objects[0].score", id="a score that is a text"),
        pytest.param(edit("result", "size", to={"width": 1, "height": 1}), "trace.result is of", id="a result of another size"),
        pytest.param(edit("verdict", "accepted", to="yes"), "trace.verdict.accepted", id="a verdict in words"),
        pytest.param(edit("picture", "png", to="?"), "trace.picture.png", id="no base64"),
        pytest.param(edit("picture", "png", to="aGVsbG8="), "trace.picture.png", id="no picture in it"),
        pytest.param(edit("picture", "image", to="x"), "trace.picture.image", id="pixels where none belong"),
        pytest.param(edit("picture", "size", to=[0, 80]), "nothing in it", id="a picture of no width"),
    ],
)
def test_a_file_at_odds_with_itself_is_refused(
    tmp_path: Path, told: dict[str, Any], change: Callable[[dict[str, Any]], None], named: str
) -> None:
    change(told)
    path = tmp_path / "it.json"
    path.write_text(json.dumps(told).replace("Infinity", "1e999"))
    with pytest.raises(TraceError) as caught:
        load(path)
    assert named in str(caught.value)
    assert "it.json" in str(caught.value)


def test_another_picture_in_its_place_is_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    red = replace(traced(scripted(BOX, SURE)), picture=Picture.of(PILImage.new("RGB", (100, 80), "red")))
    told["picture"]["png"] = to_json(red)["picture"]["png"]
    (tmp_path / "it.json").write_text(json.dumps(told))
    with pytest.raises(TraceError, match="another picture"):
        load(tmp_path / "it.json")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="a text"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b'{"format": "sam4mllm trace"}', id="no version"),
        pytest.param(b"\x1f\x8bnonsense", id="a broken gzip"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="a picture"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
        pytest.param(b'{"format": "sam4mllm trace", "version": NaN}', id="no number"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "it.json").write_bytes(content)
    with pytest.raises(TraceError, match=r"it\.json"):
        load(tmp_path / "it.json")


def test_no_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(TraceError, match="can't be read"):
            load(path)
    with pytest.raises(TraceError, match="can't be written"):
        save(traced(scripted(BOX, SURE)), tmp_path)


def test_a_number_that_is_none_is_not_written_and_the_old_file_stays(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "it.json")
    with pytest.raises(TraceError, match="nan"):
        save(replace(trace, seconds=float("nan")), tmp_path / "it.json")
    assert load(tmp_path / "it.json") == trace
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


def test_the_verdict_is_outside_the_seal_and_a_broken_seal_stays_broken(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "it.json")
    told = json.loads((tmp_path / "it.json").read_text())
    told["verdict"] = {"accepted": True, "comment": "by hand"}
    (tmp_path / "it.json").write_text(json.dumps(told))
    judged = load(tmp_path / "it.json")
    assert (judged.verdict, judged.altered) == (Verdict(True, "by hand"), False)
    told["seconds"] = 99
    (tmp_path / "it.json").write_text(json.dumps(told))
    assert load(tmp_path / "it.json").altered
    save(replace(load(tmp_path / "it.json"), verdict=Verdict(False)), tmp_path / "it.json")
    assert load(tmp_path / "it.json").altered


KILLED = """
import sys
from dataclasses import replace
from sam4mllm_tool.trace import load, save
trace = load(sys.argv[1])
print("ready", flush=True)
n = 0
while True:
    n += 1
    save(replace(trace, seconds=float(n)), sys.argv[1], picture=False)
"""


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed again and again in the middle of its writing, the file is always one that was written whole."""
    path = tmp_path / "it.json"
    trace = replace(traced(scripted(BOX, SURE)), seconds=0.0, verdict=Verdict(comment="x" * 20_000_000))  # takes a while
    save(trace, path)
    cut = 0
    for _ in range(12):
        program = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        until = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:  # the file beside, as it is written
            time.sleep(0.001)
        program.send_signal(signal.SIGKILL)
        program.wait()
        program.stdout.close()
        assert replace(load(path), seconds=0.0) == trace
        cut += len(list(tmp_path.iterdir())) > 1
        if cut:
            break
    assert cut, "no kill came in the middle of a writing"


def test_a_trace_of_the_first_version_stays_readable() -> None:
    """tests/trace/first.trace.json was written when the format was; whoever breaks this has to raise VERSION."""
    trace = load(Path(__file__).parent / "first.trace.json")
    assert (trace.expression, trace.method, len(trace.steps), trace.altered) == ("the cats", "pqpp", 3, False)
    assert trace.picture.size == Size(*GREY.size)
    assert [found.score for found in trace.found] == [1.0, 1.0]
