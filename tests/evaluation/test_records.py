"""Lines of samples.jsonl: confidence and agreement apart, and lines of earlier versions."""

import json
from pathlib import Path

import pytest

from sam4mllm_tool.evaluation.metrics import PROTOCOLS, PixelCounts
from sam4mllm_tool.evaluation.records import SampleRecord, ScoredObject, read_records
from sam4mllm_tool.types import Box

RECORD = SampleRecord(
    "a", "", "small", PixelCounts(5, 6, 7), objects=(ScoredObject(Box(1, 2, 3, 4), None, 0.9, 0.7, True, agreement=0.8),)
)


def test_confidence_and_agreement_come_back_apart() -> None:
    (predicted,) = SampleRecord.from_json(RECORD.to_json(PROTOCOLS["refcoco"])).objects
    assert (predicted.confidence, predicted.agreement) == (None, 0.8)


@pytest.mark.parametrize(
    ("method", "confidence", "agreement"),
    [
        pytest.param("pqpp", None, 0.6, id="the agreement was called confidence"),
        pytest.param("adaptive", 0.6, None, id="adaptive"),
    ],
)
def test_records_of_earlier_versions_load(
    tmp_path: Path, method: str, confidence: float | None, agreement: float | None
) -> None:
    line = json.loads(RECORD.to_json(PROTOCOLS["refcoco"]))
    line["objects"][0] |= {"confidence": 0.6}
    del line["objects"][0]["agreement"], line["warnings"]
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "order.json").write_text(json.dumps({"method": method}))
    (record,) = read_records(tmp_path)
    (predicted,) = record.objects
    assert record.warnings == ()
    assert (predicted.confidence, predicted.agreement) == (confidence, agreement)
