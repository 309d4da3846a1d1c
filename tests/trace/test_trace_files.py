"""The file: reading inverts writing, writing is atomic, and only traces are read."""

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

from sam4mllm_tool.config import SegmentationConfig
from sam4mllm_tool.pipeline.calibration import Calibration, Scaling
from sam4mllm_tool.pipeline.run_context import ModelTraits
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Dialect, Exchange, FixedList, Grid, PointsByBox, PoissonDisk, Thresholds
from sam4mllm_tool.trace import Trace, TraceError, Verdict, load, replay, save
from sam4mllm_tool.trace.files import MAX_VALUES, VERSION, from_json, seal, to_json
from sam4mllm_tool.trace.schema import (
    Failure,
    MLLMStep,
    RecordedCandidate,
    RecordedImage,
    RecordedObject,
    RunLengthMask,
    SegmentStep,
    TraceSettings,
)
from sam4mllm_tool.types import (
    Box,
    FreeText,
    Labels,
    ObjectPrompt,
    Point,
    PointPrompt,
    Question,
    Reply,
    Size,
    Tokens,
    Turn,
)
from tests.trace.traced import BOX, GREY, SURE, scripted, traced

WIDTH, HEIGHT = 7, 5
IMAGE = RecordedImage.of(PILImage.fromarray(np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)))

text = st.text(st.characters(), max_size=12)  # any code point, half characters among them
number = st.floats(allow_nan=False, allow_infinity=False)
share = st.floats(0, 1)
box = st.builds(Box, number, number, number, number)
point = st.builds(PointPrompt, number, number, st.sampled_from([0, 1]), st.none() | share)
runs = st.lists(st.booleans(), min_size=WIDTH * HEIGHT, max_size=WIDTH * HEIGHT).map(
    lambda pixels: RunLengthMask.of(np.array(pixels).reshape(HEIGHT, WIDTH))
)
prompt = st.builds(ObjectPrompt, box, st.lists(point, max_size=3).map(tuple), st.none() | runs, st.booleans())
answer = st.builds(FreeText, st.integers(1, 999)) | st.builds(
    Labels, st.integers(0, 9), st.lists(text, min_size=1, max_size=3).map(tuple)
)
turn = st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), text)
question = st.builds(Question, st.lists(turn, min_size=1, max_size=3).map(tuple), answer)
rows = st.lists(st.lists(share, min_size=1, max_size=2).map(tuple), max_size=2).map(tuple)
tokens = st.builds(Tokens, st.integers(0, 10**6), st.integers(0, 999))
reply = st.builds(Reply, text, st.none() | rows, st.none() | st.floats(-99, 0), st.none() | tokens)
mllm_steps = st.builds(MLLMStep, st.lists(st.builds(Exchange, question, reply), max_size=3).map(tuple), share)
candidates = st.lists(st.builds(RecordedCandidate, runs, share), max_size=2).map(tuple)
recorded_objects = st.builds(RecordedObject, prompt, runs, share, st.none() | share, candidates)
segment_steps = st.lists(st.tuples(prompt, recorded_objects), max_size=2).map(
    lambda pairs: SegmentStep(tuple(first for first, _ in pairs), tuple(second for _, second in pairs), 0.5)
)
samplers = st.one_of(
    st.builds(Grid, st.integers(1, 9), st.integers(1, 9)),
    st.just(FixedList()),
    st.builds(PoissonDisk, st.integers(0, 9), share, st.just(9.5), st.just(2.5)),
    st.builds(PointsByBox, st.lists(st.tuples(box, st.just((Point(1.5, 2.5),))), max_size=2).map(tuple)),
)
settings = st.builds(
    TraceSettings,
    st.sampled_from(sorted(DIALECTS)).map(lambda name: DIALECTS[name]),
    sampler=samplers,
    thresholds=st.builds(Thresholds, share, share),
    retries=st.integers(0, 5),
    greedy=st.booleans(),
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
    image=st.just(IMAGE),
    settings=settings,
    expression=st.none() | text,
    method=st.none() | st.sampled_from(["pqpp", "box"]),
    steps=st.lists(mllm_steps | segment_steps, max_size=3).map(tuple),
    result=st.none() | result,
    error=st.none() | st.builds(Failure, text, text),
    began=st.just("2026-01-01T00:00:00+00:00"),
    seconds=share,
    written_by=text,
    verdict=verdicts,
)


@given(traces)
def test_reading_inverts_writing(trace: Trace) -> None:
    again = from_json(json.loads(json.dumps(to_json(trace), allow_nan=False)))
    assert again == trace
    assert (again.altered, seal(again)) == (False, seal(trace))
    assert again.image.pixels is not None
    assert again.image.pixels.tobytes() == IMAGE.pixels.tobytes()  # type: ignore[union-attr]


@pytest.mark.slow
@given(traces, st.data())
def test_a_file_truncated_anywhere_is_refused(trace: Trace, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        for name in ("it.json", "it.json.gz"):
            path = Path(folder) / name
            save(trace, path)
            content = path.read_bytes()
            path.write_bytes(
                content[: data.draw(st.integers(0, len(content) - 2), label=name)]
            )  # the last byte is a line break
            with pytest.raises(TraceError, match=r"truncated|empty|not JSON|no trace"):
                load(path)


@pytest.fixture
def content() -> dict[str, Any]:
    written: dict[str, Any] = json.loads(json.dumps(to_json(traced(scripted(BOX, SURE)))))
    return written


def test_a_file_is_read_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "new" / "a.json")
    save(trace, tmp_path / "a.json.gz")
    assert load(tmp_path / "new" / "a.json") == load(tmp_path / "a.json.gz") == trace
    assert gzip.decompress((tmp_path / "a.json.gz").read_bytes()) == (tmp_path / "new" / "a.json").read_bytes()
    (tmp_path / "a.json.gz").rename(tmp_path / "b.json")
    assert load(tmp_path / "b.json") == trace


def test_a_trace_saved_without_its_image_keeps_hash_and_size(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "a.json", include_image=False)
    again = load(tmp_path / "a.json")
    assert (again == trace, again.image.pixels, again.altered) == (True, None, False)
    assert (tmp_path / "a.json").stat().st_size < 20_000


def edit(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *parents, last = path
        for key in parents:
            content = content[key]
        content[last] = to

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(edit("format", to="coco"), "'format'", id="another format"),
        pytest.param(edit("version", to=VERSION + 1), "update sam4mllm-tool", id="a newer version"),
        pytest.param(edit("version", to="1"), "'version'", id="a version that is a text"),
        pytest.param(edit("mood", to=1), "'mood', which is not known", id="an unknown field"),
        pytest.param(lambda content: content.pop("steps"), "no 'steps'", id="a missing field"),
        pytest.param(lambda content: content.pop("picture"), "trace has no 'picture'", id="no image"),
        pytest.param(lambda content: content.pop("seal"), "trace.seal", id="no seal"),
        pytest.param(edit("seconds", to="soon"), "trace.seconds should be a valid number", id="a text for a number"),
        pytest.param(edit("seconds", to=True), "trace.seconds should be a valid number", id="a boolean for a number"),
        pytest.param(edit("seconds", to=1e999), "trace.seconds should be a finite number", id="an infinite number"),
        pytest.param(edit("result", "seconds", "mllm", to=1e999), "can't hold the number", id="an endless one in the result"),
        pytest.param(edit("settings", "sampler", "kind", to="spiral"), "sampler", id="a strange sampler"),
        pytest.param(
            edit("settings", "sampler", "kind", to=["grid"]), "expected the kind of a sampler", id="a sampler of two kinds"
        ),
        pytest.param(edit("settings", "sampler", "rows", to=0), "at least one column", id="a grid of no rows"),
        pytest.param(edit("settings", "dialect", "yes", to=""), "words for yes", id="a dialect without a yes"),
        pytest.param(edit("steps", 0, to={"sung": []}), "trace.steps[0]", id="a step of another kind"),
        pytest.param(edit("steps", 0, "exchanges", 0, "question", "turns", 0, "role", to="god"), "role", id="a strange role"),
        pytest.param(edit("steps", 2, "found", 0, "mask", "size", to=[80, 101]), "the image 100 x 80", id="a mask's size"),
        pytest.param(edit("steps", 2, "found", 0, "mask", "counts", to="0"), "RLE counts", id="a mask's counts"),
        pytest.param(
            edit("steps", 2, "found", 0, "prompt", "box", to=[1, 2, 3]), "prompt.box has no item 3", id="a box of three"
        ),
        pytest.param(edit("result", "objects", to=None), "trace.result.objects", id="a result without objects"),
        pytest.param(edit("result", "objects", 0, "score", to="good"), "objects[0].score", id="a score that is a text"),
        pytest.param(edit("result", "size", to={"width": 1, "height": 1}), "trace.result is of", id="a result of another size"),
        pytest.param(edit("verdict", "accepted", to="yes"), "trace.verdict.accepted", id="a verdict in words"),
        pytest.param(edit("picture", "png", to="?"), "trace.picture.png", id="no base64"),
        pytest.param(edit("picture", "png", to="aGVsbG8="), "trace.picture.png", id="no PNG"),
        pytest.param(edit("picture", "image", to="x"), "trace.picture has 'image'", id="pixels where none belong"),
        pytest.param(edit("picture", "size", to=[0, 80]), "the image is empty", id="an image of no width"),
        pytest.param(edit("picture", "size", to=[46_000, 46_000]), "more than 64,000,000 pixels", id="46,000 x 46,000"),
        pytest.param(
            edit("settings", "dialect", "item_text", to="{box:>300000000}"), "item_text with box", id="a padded template"
        ),
    ],
)
def test_an_inconsistent_file_is_refused_naming_the_place(
    tmp_path: Path, content: dict[str, Any], change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    change(content)
    path = tmp_path / "it.json"
    path.write_text(json.dumps(content).replace("Infinity", "1e999"))
    with pytest.raises(TraceError) as caught:
        load(path)
    assert expected in str(caught.value)
    assert "it.json" in str(caught.value)


def test_an_exchanged_image_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    red = replace(traced(scripted(BOX, SURE)), image=RecordedImage.of(PILImage.new("RGB", (100, 80), "red")))
    content["picture"]["png"] = to_json(red)["picture"]["png"]
    (tmp_path / "it.json").write_text(json.dumps(content))
    with pytest.raises(TraceError, match="another image"):
        load(tmp_path / "it.json")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="a text"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b'{"format": "sam4mllm trace"}', id="no version"),
        pytest.param(b"\x1f\x8bnonsense", id="a broken gzip"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="an image"),
        pytest.param(b"[" * 100_000, id="brackets without end"),
        pytest.param(b'{"format": "sam4mllm trace", "version": NaN}', id="no number"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "it.json").write_bytes(content)
    with pytest.raises(TraceError, match=r"it\.json"):
        load(tmp_path / "it.json")


@pytest.mark.parametrize("unit", [b"[],", b"1,", b"{},"])
def test_a_small_gzip_of_many_values_is_refused(tmp_path: Path, unit: bytes) -> None:
    path = tmp_path / "it.json.gz"
    path.write_bytes(gzip.compress(b'{"format": "sam4mllm trace", "steps": [' + unit * MAX_VALUES + b"1]}"))
    assert path.stat().st_size < 50_000
    with pytest.raises(TraceError, match=r"it\.json\.gz.*more than 3,000,000 values"):
        load(path)


def test_masks_are_checked_without_being_made(tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it.json").write_text(json.dumps(content))
    monkeypatch.setattr(RunLengthMask, "mask", lambda _: pytest.fail("a mask was made"))
    assert load(tmp_path / "it.json").result


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(TraceError, match="can't be read"):
            load(path)
    with pytest.raises(TraceError, match="can't be written"):
        save(traced(scripted(BOX, SURE)), tmp_path)


def test_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "it.json")
    with pytest.raises(TraceError, match="nan"):
        save(replace(trace, seconds=float("nan")), tmp_path / "it.json")
    assert load(tmp_path / "it.json") == trace
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


def test_the_verdict_is_not_sealed_and_a_broken_seal_stays_broken(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    save(trace, tmp_path / "it.json")
    content = json.loads((tmp_path / "it.json").read_text())
    content["verdict"] = {"accepted": True, "comment": "by hand"}
    (tmp_path / "it.json").write_text(json.dumps(content))
    judged = load(tmp_path / "it.json")
    assert (judged.verdict, judged.altered) == (Verdict(True, "by hand"), False)
    content["seconds"] = 99
    (tmp_path / "it.json").write_text(json.dumps(content))
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
    save(replace(trace, seconds=float(n)), sys.argv[1], include_image=False)
"""


@pytest.mark.slow
def test_a_kill_while_writing_leaves_a_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    trace = replace(traced(scripted(BOX, SURE)), seconds=0.0, verdict=Verdict(comment="x" * 20_000_000))  # takes a while
    save(trace, path)
    hits = 0
    for _ in range(12):
        program = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:  # the temporary file
            time.sleep(0.001)
        program.send_signal(signal.SIGKILL)
        program.wait()
        program.stdout.close()
        assert replace(load(path), seconds=0.0) == trace
        hits += len(list(tmp_path.iterdir())) > 1
        if hits:
            break
    assert hits, "no kill hit a write"


@pytest.mark.parametrize(
    ("name", "expression", "steps", "objects"),
    [
        pytest.param("first.trace.json", "the cats", 3, 2, id="the first files"),
        pytest.param("version_0_1.trace.json", "a cat", 5, 1, id="with all settings of 0.1"),
    ],
)
def test_a_trace_of_an_earlier_version_is_read_and_replayed(name: str, expression: str, steps: int, objects: int) -> None:
    """Whoever breaks this has to raise VERSION."""
    trace = load(Path(__file__).parent / name)
    assert (trace.expression, trace.method, len(trace.steps), trace.altered) == (expression, "pqpp", steps, False)
    assert trace.image.size == Size(*GREY.size)
    assert [segmented.score for segmented in trace.objects] == [1.0] * objects
    assert trace.result is not None
    assert "point_answers" not in trace.result
    assert replay(trace).difference == ""


def test_a_trace_of_the_version_before_is_saved_with_the_same_content(tmp_path: Path) -> None:
    path = Path(__file__).parent / "version_0_1.trace.json"
    save(load(path), tmp_path / "trace.json")
    before, after = json.loads(path.read_text()), json.loads((tmp_path / "trace.json").read_text())
    assert (before.pop("version"), after.pop("version")) == (1, VERSION)
    assert before.pop("seal") != after.pop("seal"), "the version is part of what is sealed"
    assert after["settings"].pop("weights") == {}, "which traces didn't hold then"
    old_dialect, new_dialect = (Dialect(**trace["settings"].pop("dialect")) for trace in (before, after))
    assert (before, old_dialect) == (after, new_dialect), "an old dialect lacks the fields added since"
    assert not load(tmp_path / "trace.json").altered


def test_picture_is_a_deprecated_name_of_include_image(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="include_image"):
        save(traced(scripted(BOX, SURE)), tmp_path / "trace.json", picture=False)
    assert load(tmp_path / "trace.json").image.pixels is None


def test_settings_come_back_as_traits_and_config() -> None:
    config = SegmentationConfig(sampler=Grid(2, 3), retries=1, abstain=0.5, max_points=9, refine_crops=False)
    traits = ModelTraits(PLAIN, Calibration(Scaling(2.0, 0.5)), True, "m", "s")
    settings = TraceSettings.of(traits, config)
    assert (settings.traits, settings.config) == (traits, config)


def test_settings_with_a_sampler_of_ones_own_are_refused() -> None:
    with pytest.raises(TraceError, match="sampler of type function"):
        TraceSettings.of(ModelTraits(), SegmentationConfig(sampler=lambda box: (box.center,)))


def test_the_old_names_of_image_and_objects_still_work_with_a_warning() -> None:
    trace = traced(scripted(BOX, SURE))
    with pytest.warns(DeprecationWarning, match="`picture` is now `image`"):
        assert trace.picture is trace.image
    with pytest.warns(DeprecationWarning, match="`found` is now `objects`"):
        assert list(trace.found) == list(trace.objects)
