"""Export: accepted traces become JSONL that the dataset readers read and `data build` builds conversations from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.errors import EmptyMaskError
from sam4mllm_tool.trace import Recorder, Trace, TraceError, Verdict, load, save
from sam4mllm_tool.trace.conversation_export import export
from sam4mllm_tool.trace.schema import Failure, RunLengthMask
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced

RED = PILImage.new("RGB", (100, 80), "red")


def save_judged(
    trace: Trace, path: Path, accepted: bool | None = True, objects: tuple[RunLengthMask, ...] | None = None
) -> Path:
    save(replace(trace, verdict=Verdict(accepted, "", objects)), path)
    return path


def test_exported_traces_are_read_as_a_dataset_with_their_masks_and_pixels(tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[0])
    traces = [traced(embedded(), image, expression) for expression in expressions]
    paths = [save_judged(trace, tmp_path / f"{number}.json.gz") for number, trace in enumerate(traces)]
    report = export(paths, tmp_path / "out" / "lessons.jsonl")
    assert (report.written, report.pictures, report.faults) == (len(traces), 1, [])
    dataset = load_dataset("jsonl", tmp_path / "out", "train")
    samples = list(dataset)
    assert not dataset.problems
    assert [sample.expression for sample in samples] == expressions
    assert len({sample.id for sample in samples}) == len(samples)
    for sample, trace in zip(samples, traces, strict=True):
        assert trace.result is not None
        assert [mask.tolist() for mask in sample.masks()] == [
            RunLengthMask((256, 256), item["mask"]["counts"]).mask().tolist() for item in trace.result["objects"]
        ]
    with PILImage.open(samples[0].image_path) as exported:
        assert exported.convert("RGB").tobytes() == image.tobytes()
    assert any(not sample.boxes for sample in samples), "no such object is exported too"
    lines = [json.loads(line) for line in (tmp_path / "out" / "lessons.jsonl").read_text().splitlines()]
    assert [line["trace"] for line in lines] == [str(path) for path in paths]


@pytest.mark.slow
def test_conversations_are_built_from_an_export(tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[1])
    paths = [save_judged(traced(embedded(), image, text), tmp_path / f"{n}.json") for n, text in enumerate(expressions)]
    export(paths, tmp_path / "mine" / "lessons.jsonl")
    main(["data", "build", "--data", f"jsonl:{tmp_path / 'mine'}", "--out", str(tmp_path / "built")])
    written = [file.read_text() for file in (tmp_path / "built").rglob("*.jsonl")]
    for text in expressions:
        assert any(text in content for content in written)


def test_only_accepted_traces_are_exported(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    accepted_path = save_judged(trace, tmp_path / "yes.json")
    rejected_path = save_judged(traced(scripted(BOX, SURE), RED), tmp_path / "no.json", False)
    unjudged_path = save_judged(traced(scripted(BOX, SURE), expression="cats"), tmp_path / "unjudged_path.json", None)
    out = tmp_path / "out.jsonl"
    assert (
        export([accepted_path, rejected_path, unjudged_path], out).written,
        export([accepted_path, rejected_path, unjudged_path], out).passed_over,
    ) == (1, 2)
    assert export([accepted_path, rejected_path, unjudged_path], out, unjudged=True).written == 2
    assert [json.loads(line)["trace"] for line in out.read_text().splitlines()] == [str(accepted_path), str(unjudged_path)]
    with pytest.raises(TraceError, match="trace accept"):
        export([rejected_path, unjudged_path], tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_correction_replaces_the_result(tmp_path: Path) -> None:
    mask = np.zeros((80, 100), np.bool_)
    mask[10:20, 30:60] = True
    trace = traced(scripted(BOX, SURE))
    failed = replace(trace, result=None, error=Failure("ReplyError", "hm"), expression="dogs")
    right = save_judged(trace, tmp_path / "right.json", objects=(RunLengthMask.of(mask),))
    none = save_judged(failed, tmp_path / "none.json", objects=())
    export([right, none], tmp_path / "out.jsonl")
    first, second = load_dataset("jsonl", tmp_path / "out.jsonl", "train")
    assert np.array_equal(first.mask(), mask)
    assert first.boxes == ((30, 10, 60, 20),)
    assert (second.expression, second.boxes) == ("dogs", ())


def test_of_two_traces_about_one_expression_the_later_is_exported(tmp_path: Path) -> None:
    old = save_judged(replace(traced(scripted("No object found.")), began="2026-01-01"), tmp_path / "old.json")
    new = save_judged(replace(traced(scripted(BOX, SURE)), began="2026-01-02"), tmp_path / "new.json")
    for order in ((old, new), (new, old)):
        assert export(order, tmp_path / "out.jsonl").passed_over == 1
        (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
        assert json.loads(line)["trace"] == str(new)


def test_unusable_traces_are_reported_and_the_others_exported(tmp_path: Path) -> None:
    trace = traced(scripted(BOX, SURE))
    good = save_judged(trace, tmp_path / "good.json")
    bare = tmp_path / "bare.json"
    save(replace(trace, verdict=Verdict(True)), bare, include_image=False)
    recorder = Recorder(scripted(BOX, "NoNoNoNo"))
    with pytest.raises(EmptyMaskError):
        recorder.models.segment(RED, "a cat")
    empty = save_judged(recorder.traces[0], tmp_path / "empty.json")
    failed = save_judged(replace(trace, result=None, error=Failure("E", "hm")), tmp_path / "failed.json")
    (tmp_path / "cut.json").write_text('{"format"')
    changed = save_judged(trace, tmp_path / "changed.json")
    content = json.loads(changed.read_text())
    content["result"]["objects"] = []
    changed.write_text(json.dumps(content))
    report = export([bare, empty, good, failed, tmp_path / "cut.json", changed], tmp_path / "out.jsonl")
    assert report.written == 1
    assert [fault.split(": ", 1)[1].split(";")[0] for fault in report.faults] == [
        "the trace was saved without its image",
        "the run has no result",
        "the run has no result",
        "the file is truncated or damaged",
        "the file was changed after it was recorded: its seal doesn't fit",
    ]
    with pytest.raises(TraceError, match="can't be written"):
        export([good], good / "out.jsonl")
    assert load(good).image.pixels is not None
    assert GREY.size == load(good).image.size
