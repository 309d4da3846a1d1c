"""What a job leaves behind: every row once, the same bytes whatever was interrupted, errors in their rows."""

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from PIL import Image

from sam4mllm_tool.batch.job import LocalEngine, run_job
from sam4mllm_tool.batch.progress_report import ProgressReport
from sam4mllm_tool.batch.shard_worker import ShardReport
from sam4mllm_tool.errors import BackendError, DataError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.metadata import find_fingerprints
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.types import Question, Reply, SegmentedObject
from tests.batch.batch_inputs import list_outcomes, make_config, read_rows, run_embedded, save_scenes, write_lines
from tests.trace.traced import BOX, embedded


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight rows about two images, which alternate."""
    (first, texts), (second, others) = save_scenes(tmp_path / "images").items()
    pairs = [(first, texts[0]), (second, others[0]), (first, texts[1]), (second, others[1])] * 2
    lines = [{"id": f"r{i}", "image": f"images/{name}", "expression": text} for i, (name, text) in enumerate(pairs)]
    return write_lines(tmp_path / "rows.jsonl", lines)


Run = Callable[..., tuple[int, str, str]]
Line = Mapping[str, Any] | str


def read_shards(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("part-*")}


def test_rows_keep_their_order_and_hold_the_objects_of_the_library(tmp_path: Path, rows: Path) -> None:
    run_embedded(rows, tmp_path / "out", shard_rows=3)
    results = read_rows(tmp_path / "out")
    assert [(row["row"], row["id"]) for row in results] == [(i, f"r{i}") for i in range(8)]
    assert [path.name for path in sorted((tmp_path / "out").glob("part-*"))] == [f"part-{i:06d}.parquet" for i in range(3)]
    row = results[0]
    expected = embedded().segment(tmp_path / "images" / "a.png", row["expression"], method="box")
    objects = [SegmentedObject.from_dict(fields) for fields in json.loads(row["objects"])]
    assert [rle.encode(each.mask) for each in objects] == [rle.encode(each.mask) for each in expected.objects]
    assert set(json.loads(row["objects"])[0]) == set(expected.to_dict()["objects"][0])


def test_an_interrupted_job_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path, rows: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:4]))
    run_embedded(rows, whole, shard_rows=2, method="pqpp")  # which shows the rounding of probabilities
    shutil.copytree(whole, out)
    for shard in (1, 0):  # whichever the models have worked off before
        (out / f"part-{shard:06d}.parquet").unlink()
        (out / "_manifest.json").unlink()
        (out / "_temporary").mkdir()
        (out / "_temporary" / "part").write_bytes(b"half a file")
        run_embedded(rows, out, shard_rows=2, method="pqpp")
        assert read_shards(out) == read_shards(whole)
        assert (out / "_manifest.json").read_bytes() == (whole / "_manifest.json").read_bytes()
        assert not (out / "_temporary").exists()


def test_a_finished_job_loads_no_models(tmp_path: Path, rows: Path) -> None:
    expected = run_embedded(rows, tmp_path / "out")

    def load() -> Sam4Mllm:
        raise AssertionError

    assert run_job(make_config(rows, tmp_path / "out"), LocalEngine(load)) == expected


class _EngineElsewhere(LocalEngine):
    """Works in another folder and environment, as a worker on another machine does."""

    def work(self, *arguments: Any) -> Iterator[ShardReport]:
        os.chdir("/")
        os.environ["SAM4MLLM_MLLM"] = "nowhere"
        return super().work(*arguments)


def test_workers_may_be_in_another_folder_and_environment(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_embedded(rows, tmp_path / "expected")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM4MLLM_MLLM", "embedded")
    (tmp_path / "elsewhere").mkdir()
    config = make_config(rows.rename("elsewhere/rows.jsonl").relative_to("."), "out")
    config = replace(config, input=replace(config.input, images="."))
    assert run_job(config, _EngineElsewhere()).errors == 0
    assert read_shards(tmp_path / "out") == read_shards(tmp_path / "expected")


def test_results_of_other_settings_are_not_mixed(tmp_path: Path, rows: Path) -> None:
    run_embedded(rows, tmp_path / "out")
    with pytest.raises(DataError, match="method: box there, ppg now"):
        run_embedded(rows, tmp_path / "out", method="ppg")


def test_the_manifest_counts_the_rows_of_each_shard(tmp_path: Path, rows: Path) -> None:
    with rows.open("a") as file:
        file.write('{"image": "nowhere.png", "expression": "the ring"}\n')
    summary = run_embedded(rows, tmp_path / "out", shard_rows=4)
    manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
    assert (summary.rows, summary.errors) == (manifest["rows"], manifest["errors"]) == (9, 1)
    assert [(shard["first_row"], shard["rows"], shard["errors"]) for shard in manifest["shards"]] == [
        (0, 4, 0),
        (4, 4, 0),
        (8, 1, 1),
    ]
    assert [shard["bytes"] for shard in manifest["shards"]] == [
        len(content) for _, content in sorted(read_shards(tmp_path / "out").items())
    ]
    assert manifest["settings"]["weights"] == find_fingerprints("embedded", "embedded")
    assert pyarrow.parquet.read_table(tmp_path / "out").num_rows == 9  # the folder is one table to other programs


def test_coco_shards_are_data_again(tmp_path: Path, rows: Path) -> None:
    run_embedded(rows, tmp_path / "parquet")
    run_embedded(rows, tmp_path / "out", format="coco", shard_rows=4)
    content = [json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob("part-*.json"))]
    ids = [annotation["id"] for shard in content for annotation in shard["annotations"]]
    assert len(ids) == len(set(ids)) > 0
    assert len({image["id"] for shard in content for image in shard["images"]}) == 4
    assert [row["row"] for shard in content for row in shard["rows"]] == list(range(8))
    masks = {(a["expression"], a["segmentation"]["counts"]) for shard in content for a in shard["annotations"]}
    table = read_rows(tmp_path / "parquet")
    assert masks == {(row["expression"], each["mask"]["counts"]) for row in table for each in json.loads(row["objects"])}


def make_bad_lines(count: int) -> tuple[list[Line], dict[int, str]]:
    """Return `count` good lines with a bad one of each kind among them, and what the error of each says, by row."""
    bad: dict[str, Line] = {
        "does not exist": {"image": "images/none.png", "expression": "the ring"},
        "in none of the formats": {"image": "images/junk.png", "expression": "the ring"},
        "over the limit": {"image": "images/huge.png", "expression": "the ring"},
        "the expression is empty": {"image": "images/a.png", "expression": " "},
        "at most 2,000 are allowed": {"image": "images/a.png", "expression": "ring " * 1000},
        "expected the expression as text": {"image": "images/a.png", "expression": 5},
        "names no image": {"expression": "the ring"},
        "expected JSON": "{not JSON",
    }
    lines: list[Line] = [{"image": "images/a.png", "expression": f"the ring number {i}"} for i in range(count)]
    reasons = {}
    for number, (reason, line) in enumerate(bad.items()):
        place = (number + 1) * count // (len(bad) + 1) + number
        lines.insert(place, line)
        reasons[place] = reason
    return lines, reasons


@pytest.mark.parametrize("count", [3, pytest.param(1000, marks=pytest.mark.slow)])
def test_bad_rows_are_reported_with_their_row_and_the_others_are_done(tmp_path: Path, run: Run, count: int) -> None:
    save_scenes(tmp_path / "images", side=160)
    (tmp_path / "images" / "junk.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    _save_png_header(tmp_path / "images" / "huge.png", 200_000)
    lines, reasons = make_bad_lines(count)
    path = write_lines(tmp_path / "rows.jsonl", lines)
    code, out, err = run("batch", path, tmp_path / "out", "--method", "box", "--shard-rows", 200)
    assert code == 3, err
    outcomes = list_outcomes(tmp_path / "out")
    assert len(outcomes) == count + len(reasons)
    for row, (_, _, has_result, error) in enumerate(outcomes):
        assert has_result == (row not in reasons)
        if row in reasons:
            assert reasons[row] in str(error)
            assert f"row {row} (line {row + 1} of rows.jsonl)" in err
    assert f"{len(reasons)} errors" in out


def _save_png_header(path: Path, side: int) -> None:
    """Write a PNG that says it is of `side` x `side` pixels."""
    Image.new("RGB", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def test_nothing_done_is_exit_code_two(tmp_path: Path, run: Run) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [{"image": "none.png", "expression": "the ring"}] * 3)
    code, out, err = run("batch", path, tmp_path / "out")
    assert (code, out) == (2, "")
    assert "all 3 rows have an error" in err


def test_a_job_stops_where_the_models_fail_at_every_row(tmp_path: Path, rows: Path) -> None:
    with rows.open("a") as file:
        file.write("not JSON\n")
    models = Sam4Mllm(_FailingMLLM(), embedded().segmenter)
    with pytest.raises(BackendError, match="fail at all 8 rows of shard 0 that can be used: BackendError: the server is down"):
        run_job(make_config(rows, tmp_path / "out"), LocalEngine(lambda: models))
    assert read_shards(tmp_path / "out") == {}
    summary = run_embedded(rows, tmp_path / "out")
    assert (summary.rows, summary.errors) == (9, 1)


def test_an_expression_that_a_model_fails_at_leaves_the_others_about_its_image_alone(tmp_path: Path) -> None:
    Image.new("RGB", (100, 80)).save(tmp_path / "one.png")
    texts = ["a cat", "a broken one", "a dog"]
    path = write_lines(tmp_path / "rows.jsonl", [{"image": "one.png", "expression": text} for text in texts])

    def answer(question: Question) -> Reply:
        if "broken" in question.turns[-1].text:
            raise BackendError("out of memory")
        return Reply(BOX)

    models = Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=RELEASED)
    summary = run_job(make_config(path, tmp_path / "out"), LocalEngine(lambda: models))
    assert (summary.rows, summary.errors) == (3, 1)
    assert [error for *_, error in list_outcomes(tmp_path / "out")] == [None, "BackendError: out of memory", None]


class _FailingMLLM:
    name = "failing"

    def reply(self, *_: object) -> list[object]:
        raise BackendError("the server is down")


def test_progress_says_rate_and_time_left() -> None:
    now = [0.0]
    lines: list[str] = []
    progress = ProgressReport(20_000, 1_000, lines.append, lambda: now[0])
    now[0] = 100.0
    progress.add(500)
    assert lines == ["1,500 of 20,000 rows, 5 rows/s, 1 h 2 min left"]
    now[0] = 110.0
    progress.add(500)
    assert len(lines) == 1
    progress.close()
