"""The command `sam4mllm reason` with the embedded pair."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool import Segmentation
from sam4mllm_tool.reasoning import Attempt, ReasoningResult, Spent
from sam4mllm_tool.trace import load
from sam4mllm_tool.types import Size
from tests.conftest import Run
from tests.example_scene import EXAMPLE_IMAGE, IMPLICIT


def test_each_step_and_the_reason_of_the_answer_are_printed(run: Run, tmp_path: Path) -> None:
    code, out, err = run("reason", EXAMPLE_IMAGE, IMPLICIT, "--out", tmp_path / "out", "--trace", tmp_path / "run.trace.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("1. asked for it on the whole image: attempt 1, ")
    assert any(line.startswith("why: the MLLM ") for line in lines)
    assert any(line.startswith("spent: ") and "model calls" in line for line in lines)
    assert f"wrote {tmp_path / 'out' / 'mask.png'}" in lines
    written = Segmentation.from_dict(json.loads((tmp_path / "out" / "result.json").read_text()))
    mask = np.asarray(Image.open(tmp_path / "out" / "mask.png")) > 0
    assert np.array_equal(written.mask, mask)
    trace = load(tmp_path / "run.trace.json")
    assert trace.expression == IMPLICIT
    assert trace.result is not None
    assert len(trace.steps) > 2


def test_the_result_is_printed_as_json_alone(run: Run) -> None:
    code, out, err = run("reason", EXAMPLE_IMAGE, IMPLICIT, "--json")
    assert (code, err) == (0, "")
    result = ReasoningResult.from_dict(json.loads(out))
    assert result.reason == json.loads(out)["reason"]
    assert result.expression == IMPLICIT


def test_a_photograph_gives_one_warning_on_stderr_only(run: Run, photograph: Path) -> None:
    code, out, err = run("reason", photograph, "the red circle", "--rounds", "1")
    assert code == 0
    assert err.startswith("sam4mllm: warning: ")
    assert err.count("\n") == 1
    assert "drawn scenes" in err
    assert "drawn scenes" not in out, "a terminal shows both streams"


def test_the_json_has_the_warnings(run: Run, photograph: Path) -> None:
    code, out, err = run("reason", photograph, "the red circle", "--rounds", "1", "--json")
    (warning,) = json.loads(out)["warnings"]
    assert (code, err) == (0, f"sam4mllm: warning: {warning}\n")


def test_the_json_has_the_warnings_also_where_there_is_no_answer() -> None:
    tried = Segmentation("the ring", Size(8, 6), (), warnings=("unlike the drawn scenes",))
    unread = Attempt("whole", "the ring", None, note="no readable reply")
    attempts = (Attempt("whole", "the ring", tried), unread, Attempt("whole", "the ring", tried))
    result = ReasoningResult(None, None, attempts, "abstained", Spent(1, 2, 3.0), "the ring", Size(8, 6))
    fields = result.to_dict()
    assert (fields["segmentation"], fields["warnings"]) == (None, ["unlike the drawn scenes"])
    assert result.as_segmentation().warnings == ("unlike the drawn scenes",)


@pytest.mark.slow
def test_a_budget_that_reaches_to_nothing_says_so(run: Run) -> None:
    code, out, _ = run("reason", EXAMPLE_IMAGE, IMPLICIT, "--tokens", "500")
    assert code == 0
    assert "not sure enough to answer" in out
    assert "why: the budget doesn't reach to a first answer" in out
    assert "spent: 0 model calls, 0 tokens" in out
    code, out, _ = run("reason", EXAMPLE_IMAGE, IMPLICIT, "--rounds", "1")
    assert "never verified; the budget doesn't allow what is left to try" in out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        pytest.param(["--rounds", "-1"], "'--rounds'", id="a negative budget"),
        pytest.param(["--seconds", "soon"], "'--seconds'", id="a budget in words"),
        pytest.param(["--chat-model", "nobody:model"], "the chat model 'nobody:model'", id="an unknown chat model"),
        pytest.param(["--mllm", "./nowhere"], "nowhere", id="an MLLM that does not exist"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(run: Run, options: list[str], reason: str) -> None:
    code, out, err = run("reason", EXAMPLE_IMAGE, IMPLICIT, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert reason in err


def test_the_image_itself_is_never_written_over(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "it.png"
    image.write_bytes(EXAMPLE_IMAGE.read_bytes())
    code, _, err = run("reason", image, IMPLICIT, "--trace", image)
    assert code == 2
    assert "would replace the image" in err
    assert image.read_bytes() == EXAMPLE_IMAGE.read_bytes()
