"""Each run leaves one line of JSON and its spans, without what is secret."""

import json
import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import Image

from sam4mllm_tool import BackendError, ReplyError, Sam4Mllm
from sam4mllm_tool.cli.serve import _log_runs
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.run_context import ModelTraits, RunContext
from sam4mllm_tool.pipeline.run_log import LOGGER, RunLog
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import Question, Size

IMAGE = Image.new("RGB", (100, 80))
SECRET = "the key of the safe"


def models(*replies: str) -> Sam4Mllm:
    answers = iter(replies)

    def reply(_: Question) -> str:
        answer = next(answers)
        if answer == "failure":
            raise BackendError(f"could not read {SECRET}")
        return answer

    return Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=JOINT, retries=0)


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == LOGGER.name]


def test_a_run_leaves_one_line_with_id_models_stages_and_outcome(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    pair = models("[100,100,500,500]", "no such object")
    for _ in range(2):
        pair.segment(IMAGE, SECRET, method="box")
    first, second = lines(caplog)
    assert (first["outcome"], first["objects"], second["outcome"], second["objects"]) == ("segmented", 1, "absent", 0)
    assert first["calls"] == {"mllm": 1, "segmenter": 1}
    assert (first["width"], first["height"], first["method"], first["questions"]) == (100, 80, "box", 1)
    assert first["seconds"].keys() == {"total", "mllm", "segmenter"}  # type: ignore[attr-defined]
    assert first["id"] != second["id"]


def test_the_expression_is_in_the_line_on_request_alone(caplog: pytest.LogCaptureFixture) -> None:
    for level in (logging.INFO, logging.DEBUG):
        caplog.set_level(level, LOGGER.name)
        models("no such object").segment(IMAGE, SECRET, method="box")
    quiet, full = lines(caplog)
    assert SECRET not in json.dumps(quiet)
    assert full["expression"] == SECRET


@pytest.mark.parametrize(("reply", "error"), [("gibberish", ReplyError), ("failure", BackendError)])
def test_a_failed_run_names_its_error_but_not_its_message(
    caplog: pytest.LogCaptureFixture, reply: str, error: type[Exception]
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    with pytest.raises(error):
        models(reply).segment(IMAGE, SECRET, method="box")
    (line,) = lines(caplog)
    assert line["outcome"] == error.__name__
    assert SECRET not in json.dumps(line)


def test_no_line_is_made_where_nobody_listens(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, LOGGER.name)
    models("no such object").segment(IMAGE, SECRET, method="box")
    assert lines(caplog) == []


def test_spans_hold_a_run_and_its_calls() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    pair = models("[100,100,500,500]", "gibberish").with_run_hooks(
        lambda _, context: RunLog(context, provider.get_tracer("test"))
    )
    pair.segment(IMAGE, SECRET, method="box")
    with pytest.raises(ReplyError):
        pair.segment(IMAGE, SECRET, method="box")
    *calls, run, _, failed = exporter.get_finished_spans()
    assert [span.name for span in calls] == ["sam4mllm.mllm", "sam4mllm.segmenter"]
    assert all(span.parent.span_id == run.context.span_id for span in calls)
    assert calls[0].attributes == {"sam4mllm.questions": 1}
    assert (run.attributes["sam4mllm.outcome"], run.status.is_ok) == ("segmented", True)
    assert (failed.attributes["sam4mllm.outcome"], failed.status.description) == ("ReplyError", "ReplyError")
    assert SECRET not in "".join(span.to_json() for span in exporter.get_finished_spans())


def test_runs_are_traced_by_the_processs_own_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    models("no such object").segment(IMAGE, SECRET, method="box")
    assert [span.name for span in exporter.get_finished_spans()] == ["sam4mllm.mllm", "sam4mllm.run"]


def test_another_flow_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)
    RunLog(RunContext(Size(1, 1), ModelTraits())).after_run(7, None)
    assert [(line["outcome"], line["objects"]) for line in lines(caplog)] == [("done", None)]


@pytest.mark.parametrize("with_expressions", [True, False])
def test_the_server_prints_the_lines(
    with_expressions: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "level", LOGGER.level)
    _log_runs(with_expressions=with_expressions)
    models("no such object").segment(IMAGE, SECRET, method="box")
    line = json.loads(capsys.readouterr().out)
    assert line.get("expression") == (SECRET if with_expressions else None)
    LOGGER.setLevel(logging.NOTSET)
