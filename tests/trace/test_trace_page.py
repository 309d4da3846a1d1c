"""The page: it shows all of the run, loads nothing, and escapes all text."""

import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED, Grid
from sam4mllm_tool.trace import Trace, Verdict, load, save
from sam4mllm_tool.trace.page import _environment, escape_invisible, page
from sam4mllm_tool.trace.schema import Failure, RunLengthMask
from sam4mllm_tool.types import Image, Reply
from tests.trace.traced import BOX, GREY, SEEDS, SURE, embedded, scene, scripted, traced

HOSTILE = (
    "\"'></title></style></svg><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\u202e\x00"
)


class Parsed(HTMLParser):
    """The page's elements, its attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements[name] += 1
        self.attributes += [(key, value or "") for key, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


def record_hostile_run() -> Trace:
    """A run in which every text that others write is an attack."""
    models = scripted(BOX, Reply(f"hm{HOSTILE}"), Reply(HOSTILE), SURE)
    models.mllm._name = models.segmenter._name = HOSTILE  # type: ignore[attr-defined]
    models.dialect = replace(models.dialect, name=HOSTILE, system=HOSTILE)
    trace = traced(models, GREY, f"a cat {HOSTILE}")
    return replace(trace, verdict=Verdict(True, HOSTILE), written_by=HOSTILE, began=HOSTILE)


def test_hostile_text_does_not_become_markup() -> None:
    trace = record_hostile_run()
    parsed, plain = Parsed(page(trace)), Parsed(page(traced(scripted(BOX, "hm", "hmm", SURE))))
    assert parsed.elements - plain.elements <= Counter({"p": 1, "li": 1, "div": 1, "b": 1}), "a comment and a system turn"
    assert not {"script", "img", "iframe", "link", "object", "embed", "base", "form"} & parsed.elements.keys()
    assert not [key for key, _ in parsed.attributes if key.startswith("on")]
    assert parsed.text.count("document.title='taken'") > 10, "all of it is shown, as text"
    assert "\\u202e" in parsed.text
    assert not {"\u202e", "\x00"} & set(parsed.text)


def test_hostile_errors_and_methods_are_escaped() -> None:
    trace = replace(traced(scripted(BOX, SURE)), result=None, error=Failure(HOSTILE, HOSTILE), method=HOSTILE)
    parsed = Parsed(page(trace))
    assert "script" not in parsed.elements
    assert "It failed" in parsed.text


@pytest.mark.parametrize("method", METHODS)
def test_the_page_loads_nothing(method: Method) -> None:
    image, expressions = scene(SEEDS[0])
    parsed = Parsed(page(traced(embedded(), image, expressions[0], method)))
    places = [value for key, value in parsed.attributes if key in ("src", "href", "xlink:href", "action", "data", "srcset")]
    assert places
    downloads = ("data:application/json;base64,",)  # links, which load nothing until they are clicked
    assert all(place.startswith(("data:image/png;base64,", "#photo", *downloads)) for place in places)
    assert ("http-equiv", "Content-Security-Policy") in parsed.attributes
    assert not [value for key, value in parsed.attributes if key == "style" and "url" in value]


class _WarningMLLM(ScriptedMLLM):
    def check_image(self, image: Image) -> str | None:
        return f"it knows no images of {image.width} pixels"


def test_the_page_shows_warnings_and_agreement() -> None:
    models = Sam4Mllm(_WarningMLLM([BOX, SURE]), BoxSegmenter(), dialect=RELEASED, sampler=Grid(2, 2))
    trace = traced(models)
    text = Parsed(page(trace)).text
    (segmented,) = (trace.result or {})["objects"]
    assert "Warning: it knows no images of 100 pixels" in text
    assert f"{100 * segmented['agreement']:.1f} %, with the answers about points" in text


def test_the_page_of_an_abstaining_run_does_not_say_that_there_is_no_such_object() -> None:
    trace = traced(scripted(BOX, SURE))
    assert trace.result is not None
    abstained = replace(trace, result={**trace.result, "objects": [], "abstained": True})
    text = Parsed(page(abstained)).text
    assert "Not sure enough to answer" in text
    assert text.count("There is no such object") == 1, "the button"


def test_the_page_shows_all_of_a_run(tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[1])
    trace = traced(embedded(), image, expressions[0])
    save(replace(trace, verdict=Verdict(True, "just right")), tmp_path / "it.json.gz")
    text = Parsed(page(load(tmp_path / "it.json.gz"))).text
    assert expressions[0] in text
    for exchange in trace.exchanges:
        assert exchange.question.turns[-1].text in text
    first = next(trace.exchanges)
    assert first.reply.text in text
    for segmented in trace.objects:
        for candidate in (segmented, *segmented.alternatives):
            assert f"score {candidate.score:.2f}" in text
    for phrase in ("accepted", "just right", "replays to the same result", "25 points were asked about", "embedded", "pqpp"):
        assert phrase in text
    answered = [exchange.reply.label_probabilities for exchange in trace.exchanges if exchange.reply.label_probabilities]
    for (row,) in answered:
        assert f"{100 * max(row):.1f} %" in text


def test_dropped_answers_are_shown_as_dropped() -> None:
    trace = traced(scripted(BOX, SURE))
    parsed = Parsed(page(trace))
    assert "4 points were asked about, 3 kept" in parsed.text
    assert Counter(value for key, value in parsed.attributes if key == "class" and value in ("kept", "dropped")) == {
        "kept": 3 + 3,  # on the image and on the thumbnail
        "dropped": 1,
    }


def test_a_trace_without_point_answers_gets_them_from_a_replay() -> None:
    text = Parsed(page(load(Path(__file__).parent / "version_0_1.trace.json"))).text
    assert "4 points were asked about, 3 kept" in text


def test_a_run_that_failed_in_the_segmenter_shows_its_point_answers() -> None:
    trace = traced(scripted(BOX, SURE))
    failed = replace(trace, steps=trace.steps[:2], result=None, error=Failure("BackendError", "out of memory"))
    text = Parsed(page(failed)).text
    assert "4 points were asked about, 3 kept" in text
    assert "replays to the same result" in text


def test_a_run_whose_replay_differs_says_so() -> None:
    trace = traced(scripted(BOX, SURE))
    assert trace.result is not None
    text = Parsed(page(replace(trace, result={**trace.result, "notes": ["all well"]}))).text
    assert "replay differs" in text
    assert "result.notes: 1 were recorded, there are 0 this time" in text


def test_traces_without_object_image_expression_or_result_have_pages(tmp_path: Path) -> None:
    none = traced(scripted("No object found."))
    assert "There is no such object" in Parsed(page(none)).text
    save(none, tmp_path / "it.json", include_image=False)
    assert "The image was not saved" in Parsed(page(load(tmp_path / "it.json"))).text
    flow = replace(none, expression=None, method=None, result=None)
    assert "whose result is not a segmentation" in Parsed(page(flow)).text
    right = replace(none, verdict=Verdict(True, "", (RunLengthMask.of(np.ones((80, 100), bool)),)))
    assert "What would be right" in Parsed(page(right)).text


@given(st.text(st.characters()))
def test_any_text_is_shown_with_its_invisible_characters_escaped(text: str) -> None:
    """In an element and in an attribute, in bytes of UTF-8."""
    template = _environment().from_string('<p title="{{ text }}">{{ text }}</p>')
    parsed = Parsed(template.render(text=text).encode().decode())
    assert parsed.elements == {"p": 1}
    assert parsed.text == escape_invisible(text)
    assert parsed.attributes == [("title", escape_invisible(text))]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_no_script_of_a_hostile_page(tmp_path: Path) -> None:
    (tmp_path / "it.html").write_text(page(record_hostile_run()), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, f"file://{tmp_path / 'it.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>a cat " in done.stdout
    assert "<title>taken" not in done.stdout
    assert "<script" not in done.stdout.lower()
