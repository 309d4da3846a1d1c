"""The page: all of the run is on it, it needs nothing else, and nobody's text becomes markup."""

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

from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.trace import Trace, Verdict, load, save
from sam4mllm_tool.trace.html import Html, seen, tag
from sam4mllm_tool.trace.page import page
from sam4mllm_tool.trace.schema import Failure, Runs
from sam4mllm_tool.types import Reply
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


def hostile() -> Trace:
    """A run in which every text that others write is an attack."""
    models = scripted(BOX, Reply(f"hm{HOSTILE}"), Reply(HOSTILE), SURE)
    models.mllm._name = models.segmenter._name = HOSTILE  # type: ignore[attr-defined]
    models.dialect = replace(models.dialect, name=HOSTILE, system=HOSTILE)
    trace = traced(models, GREY, f"a cat {HOSTILE}")
    return replace(trace, verdict=Verdict(True, HOSTILE), written_by=HOSTILE, began=HOSTILE)


def test_no_text_of_others_becomes_markup() -> None:
    trace = hostile()
    parsed, plain = Parsed(page(trace)), Parsed(page(traced(scripted(BOX, "hm", "hmm", SURE))))
    assert parsed.elements - plain.elements <= Counter({"p": 1, "li": 1, "div": 1, "b": 1}), "a comment, a system turn"
    assert not {"script", "img", "iframe", "link", "object", "embed", "base", "form"} & parsed.elements.keys()
    assert not [key for key, _ in parsed.attributes if key.startswith("on")]
    assert parsed.text.count("document.title='taken'") > 10, "it is all there, as text"
    assert "\\u202e" in parsed.text
    assert not {"\u202e", "\x00"} & set(parsed.text)


def test_errors_and_other_methods_are_text_too() -> None:
    trace = replace(traced(scripted(BOX, SURE)), result=None, error=Failure(HOSTILE, HOSTILE), method=HOSTILE)
    parsed = Parsed(page(trace))
    assert "script" not in parsed.elements
    assert "It failed" in parsed.text


@pytest.mark.parametrize("method", METHODS)
def test_the_page_needs_nothing_else(method: Method) -> None:
    image, expressions = scene(SEEDS[0])
    parsed = Parsed(page(traced(embedded(), image, expressions[0], method)))
    places = [value for key, value in parsed.attributes if key in ("src", "href", "xlink:href", "action", "data", "srcset")]
    assert places
    assert all(place.startswith(("data:image/png;base64,", "#photo")) for place in places)
    assert ("http-equiv", "Content-Security-Policy") in parsed.attributes
    assert not [value for key, value in parsed.attributes if key == "style" and "url" in value]


def test_all_of_a_run_is_on_its_page(tmp_path: Path) -> None:
    image, expressions = scene(SEEDS[1])
    trace = traced(embedded(), image, expressions[0])
    save(replace(trace, verdict=Verdict(True, "just right")), tmp_path / "it.json.gz")
    text = Parsed(page(load(tmp_path / "it.json.gz"))).text
    assert expressions[0] in text
    for exchange in trace.exchanges:
        assert exchange.question.turns[-1].text in text
    first = next(trace.exchanges)
    assert first.reply.text in text
    for found in trace.found:
        for one in (found, *found.alternatives):
            assert f"score {one.score:.2f}" in text
    for told in ("accepted", "just right", "replays to the same result", "25 points were asked about", "embedded", "pqpp"):
        assert told in text
    answered = [exchange.reply.label_probabilities for exchange in trace.exchanges if exchange.reply.label_probabilities]
    for (row,) in answered:
        assert f"{100 * max(row):.1f} %" in text


def test_answers_that_were_dropped_are_shown_as_dropped() -> None:
    trace = traced(scripted(BOX, SURE))
    parsed = Parsed(page(trace))
    assert "4 points were asked about, 3 were kept" in parsed.text
    assert Counter(value for key, value in parsed.attributes if key == "class" and value in ("kept", "dropped")) == {
        "kept": 3 + 3,  # on the picture and on the one mask
        "dropped": 1,
    }


def test_a_run_that_no_longer_replays_says_so() -> None:
    trace = traced(scripted(BOX, SURE))
    assert trace.result is not None
    text = Parsed(page(replace(trace, result={**trace.result, "notes": ["all well"]}))).text
    assert "replay differs" in text
    assert "result.notes: 1 were recorded, there are 0 this time" in text


def test_no_object_no_picture_no_expression_and_no_result_have_their_pages(tmp_path: Path) -> None:
    none = traced(scripted("No object found."))
    assert "There is no such object" in Parsed(page(none)).text
    save(none, tmp_path / "it.json", picture=False)
    assert "The picture was not kept" in Parsed(page(load(tmp_path / "it.json"))).text
    flow = replace(none, expression=None, method=None, result=None)
    assert "whose result is not a segmentation" in Parsed(page(flow)).text
    right = replace(none, verdict=Verdict(True, "", (Runs.of(np.ones((80, 100), bool)),)))
    assert "What would be right" in Parsed(page(right)).text


@given(st.text(st.characters()))
def test_any_text_comes_back_as_it_is_seen(text: str) -> None:
    """Through an element and an attribute, in bytes of UTF-8."""
    made = tag("p", text, title=text).encode().decode()
    parsed = Parsed(made)
    assert parsed.elements == {"p": 1}
    assert parsed.text == seen(text)
    assert parsed.attributes == [("title", seen(text))]


def test_markup_stays_markup_and_absent_attributes_are_left_out() -> None:
    assert tag("p", Html("<b>x</b>"), "<i>", class_="a", id=None) == '<p class="a"><b>x</b>&lt;i&gt;</p>'


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_of_a_hostile_page(tmp_path: Path) -> None:
    (tmp_path / "it.html").write_text(page(hostile()), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        ["chromium", *flags, f"file://{tmp_path / 'it.html'}"], capture_output=True, text=True, timeout=120, check=True
    )
    assert "<title>a cat " in done.stdout
    assert "<title>taken" not in done.stdout
    assert "<script" not in done.stdout.lower()
