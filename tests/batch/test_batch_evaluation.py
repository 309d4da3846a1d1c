"""A dataset that a batch job segmented is evaluated as if the models had been in one process."""

from pathlib import Path

import pytest

from sam4mllm_tool.batch.job import LocalEngine, run_job
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation import EvaluationConfig, evaluate
from tests.batch.batch_inputs import make_config
from tests.evaluation.evaluation_helpers import box_reply, sample_line, scripted_models, write_samples

BOXES = [(4, 3, 24, 18), (28, 3, 36, 27), (2, 2, 12, 12), (5, 5, 30, 20)]
REPLIES = {
    **{f"object {number}": box_reply(*BOXES[number % 3]) for number in range(6)},
    "both": f"{box_reply(*BOXES[0])} {box_reply(*BOXES[1])}",
    "nothing": "no such object",
}


@pytest.mark.slow
def test_an_evaluation_merged_from_four_shards_equals_that_of_one_process(tmp_path: Path) -> None:
    lines = [sample_line(text, BOXES[number % 4]) for number, text in enumerate(REPLIES)]
    del lines[0]["id"]  # which then is named after its line
    root = write_samples(tmp_path / "data", *lines)
    models = scripted_models(REPLIES.__getitem__)
    expected = evaluate(EvaluationConfig("jsonl", root), tmp_path / "models", models=models)
    out = tmp_path / "out"
    summary = run_job(make_config(root / "val.jsonl", out, shard_rows=2, method="pqpp"), LocalEngine(lambda: models))
    assert (summary.rows, summary.errors, len(list(out.glob("part-*")))) == (8, 0, 4)
    merged = evaluate(EvaluationConfig("jsonl", root, predictions=out), tmp_path / "metrics")
    for name in ("cIoU", "gIoU", "mIoU", "Pr@0.5", "samples"):
        assert merged[name] == expected[name], name


def test_an_unfinished_job_is_not_evaluated(tmp_path: Path) -> None:
    root = write_samples(tmp_path / "data", sample_line("square", BOXES[0]))
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="expected the output of a finished sam4mllm batch"):
        evaluate(EvaluationConfig("jsonl", root, predictions=tmp_path / "out"), tmp_path / "metrics")
