"""An image unlike the model's training is answered with a warning, once, in every form of the result."""

import json
from pathlib import Path

from tests.conftest import Run
from tests.example_scene import EXAMPLE_IMAGE, EXPRESSION


def test_a_photograph_gives_one_warning_on_stderr(run: Run, photograph: Path) -> None:
    code, out, err = run("segment", photograph, "the red circle", "--method", "box")
    assert code == 0
    (warning,) = [line for line in err.splitlines() if line.startswith("sam4mllm: warning: ")]
    assert "drawn scenes" in warning
    assert "--mllm" in warning
    assert "--segmenter" in warning
    assert "warning" not in out, "a terminal shows both streams"


def test_a_photograph_gives_a_warning_in_the_json_and_no_confidence(run: Run, photograph: Path, tmp_path: Path) -> None:
    _, out, err = run("segment", photograph, "the red circle", "--method", "adaptive", "--json", "--out", tmp_path)
    result = json.loads(out)
    assert [f"sam4mllm: warning: {warning}" for warning in result["warnings"]] == [
        w for w in err.splitlines() if "warning" in w
    ]
    assert len(result["warnings"]) == 1
    assert result["confidence"] is None
    assert all(each["confidence"] is None for each in result["objects"])
    assert json.loads((tmp_path / "result.json").read_text())["warnings"] == result["warnings"]


def test_an_ordinary_scene_gives_no_warning(run: Run) -> None:
    _, out, err = run("segment", EXAMPLE_IMAGE, EXPRESSION, "--method", "adaptive", "--json")
    result = json.loads(out)
    assert ("warning" in err, result["warnings"]) == (False, [])
    assert result["objects"][0]["confidence"] > 0.5
