"""The command `sam4mllm probe`: on the embedded model, on one that can't ground, and its table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sam4mllm_tool.cli.probe import _format_report
from sam4mllm_tool.models.probing.measurement import probe_mllm
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Dialect
from tests.checkpoints import FAMILIES
from tests.conftest import Run
from tests.models.probing.grounding_model import GroundingModel


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SAM4MLLM_CACHE", str(folder))
    return folder


def test_the_embedded_model_is_measured_in_its_own_frame(run: Run, tmp_path: Path, cache: Path) -> None:
    code, out, err = run("probe", "--mllm", "embedded", "--out", tmp_path / "dialect.json", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["dialect"] == "embedded"
    assert report["frame"]["name"] == "0..191, x first"
    assert report["frame"]["iou"] > 0.75 > 0.3 > report["next_frame"]["iou"]
    assert report["absent"] == {"right": 4, "asked": 4}
    assert report["points"] == {"right": 24, "asked": 24, "probabilities": True}
    (kept,) = cache.rglob("dialect.json")
    assert f"wrote {kept}" in err
    for file in (kept, tmp_path / "dialect.json"):
        assert Dialect.from_json(file.read_text()) == DIALECTS["embedded"]


def test_a_model_that_cannot_ground_is_an_error_of_one_line(run: Run, tmp_path: Path, cache: Path) -> None:
    folder = FAMILIES["llava"](tmp_path / "weights")
    (folder / "dialect.json").write_text(replace(PLAIN, max_tokens=4).to_json())
    before = sorted(folder.iterdir())
    code, out, err = run("probe", "--mllm", folder, "--out", tmp_path / "dialect.json")
    assert code == 1
    assert "none: the coordinate frame is in doubt" in out
    last = err.splitlines()[-1]
    assert last.startswith(f"sam4mllm: no dialect can be chosen for {folder}: ")
    assert last.endswith("; name one yourself with --dialect or dialect=")
    assert not cache.exists()
    assert not (tmp_path / "dialect.json").exists()
    assert sorted(folder.iterdir()) == before


def test_the_table_names_the_frames_and_what_was_measured() -> None:
    lines = _format_report(probe_mllm(GroundingModel("0..1").load(), (PLAIN,))).splitlines()
    assert lines[1] == "dialect                   plain (0..1, x first)"
    assert lines[2].endswith("0..1, x first: mean IoU 1.00")
    assert lines[3].split()[:2] == ["next", "frame"]
    assert lines[5].endswith('"none" for 4 of 4')
    assert lines[6].endswith("Yes or No rightly for 24 of 24, without probabilities")
    assert lines[8] == "in plain (0..1, x first)  gIoU 1.00"
