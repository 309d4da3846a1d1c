"""A trace as one page of HTML that needs nothing else: the picture with the answer, what was said, every point and mask.

The page has no script and its policy lets it load nothing. Points are told with the answers that were dropped, which a result
doesn't have: the run is replayed for them, and the page says whether that gave the recorded result.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.evaluation.point_recorder import Listener
from sam4mllm_tool.geometry.boxes import format_box, mask_to_box
from sam4mllm_tool.images.draw import Colour
from sam4mllm_tool.pipeline.methods import METHODS
from sam4mllm_tool.trace.codec import to_plain
from sam4mllm_tool.trace.html import Html, seen, tag
from sam4mllm_tool.trace.image_layers import Asking, colours, css, overlay_svg, photo
from sam4mllm_tool.trace.replaying import picture_of, replay, replaying
from sam4mllm_tool.trace.schema import Prompted, Runs, Trace, TraceError
from sam4mllm_tool.trace.step_cards import percent, points_table, seconds, step_card, timings
from sam4mllm_tool.trace.style import STYLE
from sam4mllm_tool.trace.verdicts import Answer, AnsweredObject, read_answer
from sam4mllm_tool.types import Box

__all__ = ["page", "write_page"]

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_LEGEND = (
    "Discs are points that the model called on the object, crosses off it, rings answers that were dropped; the fainter, the "
    "less sure it was."
)


def write_page(trace: Trace, path: str | os.PathLike[str]) -> Path:
    """Writes the page beside its place and moves it there. Raises TraceError where that fails."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(page(trace), encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise TraceError(f"the page can't be written to {quote_text(str(path))}: {error.strerror or error}") from error
    return path


def page(trace: Trace) -> str:
    """The page as text."""
    view = _View.of(trace)
    title = _name(trace)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    steps = [step_card(number, step, trace, view.inks_by_mask) for number, step in enumerate(trace.steps, start=1)]
    parts = (
        photo(trace.picture),
        _heading(view, title),
        _hero(view),
        tag("h2", "What happened"),
        *steps,
        *_points(view),
        *_right(trace),
        tag("h2", "Time"),
        timings(trace),
        tag("h2", "The run"),
        _run(trace),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *parts)), lang='en')}\n"


@dataclass(frozen=True)
class _View:
    """The trace and what is worked out of it once."""

    trace: Trace
    answer: Answer | None
    inks: tuple[Colour, ...]
    asked: tuple[Asking, ...]
    replayed: str | None
    """What differs in a replay, "" where nothing, None where it can't be run again."""

    @classmethod
    def of(cls, trace: Trace) -> "_View":
        answer = None if trace.result is None else read_answer(trace.result)
        inks = tuple(colours(trace.picture, answer.objects)) if answer else ()
        known = trace.expression is not None and trace.method in METHODS
        return cls(trace, answer, inks, _asked(trace, answer), replay(trace).difference if known else None)

    @property
    def inks_by_mask(self) -> dict[str, Colour]:
        """The colour of what was chosen in the end, by its run lengths, and of what was made of it from close by."""
        objects = self.answer.objects if self.answer else ()
        inks = {thing.mask.counts: ink for thing, ink in zip(objects, self.inks, strict=True)}
        close = [(step.view, step.found) for step in self.trace.steps if isinstance(step, Prompted) and step.view is not None]
        for view, found in close if objects else ():
            for one in found:
                fits = [thing.box.iou(view.to_image_box(one.prompt.box)) for thing in objects]
                inks[one.mask.counts] = self.inks[fits.index(max(fits))]
        return inks


def _asked(trace: Trace, answer: Answer | None) -> tuple[Asking, ...]:
    """Every point that was asked about; those of the answer alone where the run can't be followed."""
    kept = (
        {(point.x, point.y, point.label): (thing.box, point) for thing in answer.objects for point in thing.points}
        if answer
        else {}
    )
    listener = Listener(replaying(trace))
    try:
        if trace.expression is None or trace.method not in METHODS:
            raise TraceError("no method's run")
        listener.models.segment(picture_of(trace), trace.expression, method=trace.method)
    except Sam4MllmError:  # what went wrong is told by the replay
        pass
    expression = answer.expression if answer else trace.expression
    heard = listener.points(expression) if expression is not None else []
    if not heard:
        return tuple(Asking(box, point, True) for box, point in kept.values())
    return tuple(Asking(box, point, (point.x, point.y, point.label) in kept) for box, point in heard)


def _name(trace: Trace) -> str:
    return trace.expression if trace.expression is not None else "a flow without an expression"


def _heading(view: _View, title: str) -> Html:
    trace = view.trace
    told = tag("p", _said(view), class_="answer")
    verdict = {None: ("not judged", ""), True: ("accepted", "good"), False: ("rejected", "bad")}[trace.verdict.accepted]
    if trace.verdict.objects is not None:
        verdict = ("corrected: " + (_count(len(trace.verdict.objects)) or "no such object"), "good")
    chips = [verdict, (trace.method or "a tool's flow", ""), (seconds(trace.seconds), "")]
    if view.replayed is not None:
        chips.append(("replay differs", "bad") if view.replayed else ("replays to the same result", "good"))
    count = len(list(trace.exchanges))
    chips += [(f"{count} question{'' if count == 1 else 's'}", ""), (" x ".join(map(str, trace.picture.size)) + " pixels", "")]
    warnings = [view.replayed] if view.replayed else []
    if trace.altered and "changed after it was recorded" not in (view.replayed or ""):
        warnings.append("the file was changed after it was recorded: its seal doesn't fit")
    warnings += view.answer.notes if view.answer else []
    warnings += [f"comment: {trace.verdict.comment}"] if trace.verdict.comment else []
    listed = tag("ul", *(tag("li", text, class_=kind or None) for text, kind in chips), class_="chips")
    return tag("header", tag("h1", f"“{title}”"), told, listed, *(tag("p", one, class_="card warn") for one in warnings))


def _said(view: _View) -> str:
    if view.trace.error is not None:
        return f"It failed: {view.trace.error.type}: {view.trace.error.message}"
    if view.answer is None:
        return "A step of a tool, whose result is not a segmentation."
    sure = "" if view.answer.confidence is None else f", right with {percent(view.answer.confidence)}"
    return (_count(len(view.answer.objects)) or "There is no such object") + sure


def _count(objects: int) -> str:
    return "" if not objects else f"{objects} object{'s' if objects > 1 else ''}"


def _hero(view: _View) -> Html:
    objects = view.answer.objects if view.answer else ()
    layers = [name for name, there in _layers(view) if there]
    toggles = [tag("input", type="checkbox", id=name, checked="", class_="toggle") for name in layers]
    labels = tag("div", *(tag("label", name, for_=name) for name in layers), class_="layers")
    stage = overlay_svg(view.trace.picture.size, objects, view.inks, view.asked)
    told = [tag("p", _LEGEND, class_="legend")] if view.asked else []
    if view.trace.picture.image is None:
        told.append(tag("p", "The picture was not kept in the file.", class_="legend"))
    seen_part = tag("div", *toggles, stage, *([labels] if layers else []), *told, class_="card seen")
    return tag("section", seen_part, _things(view), class_="hero")


def _layers(view: _View) -> Sequence[tuple[str, bool]]:
    there = bool(view.answer and view.answer.objects)
    dropped = any(not one.kept for one in view.asked)
    return (("masks", there), ("boxes", there), ("points", bool(view.asked)), ("dropped", dropped))


def _things(view: _View) -> Html:
    if view.answer is None or not view.answer.objects:
        return tag("div", tag("div", _said(view), class_="card"), class_="things")
    cards = []
    for number, (thing, ink) in enumerate(zip(view.answer.objects, view.inks, strict=True), start=1):
        on = sum(point.label for point in thing.points)
        pixels = int(thing.mask.mask().sum())
        facts = {
            "box": format_box(thing.box),
            "mask": f"{pixels:,} pixels, {pixels / (view.trace.picture.size.width * view.trace.picture.size.height):.1%}",
            "points": f"{on} on it, {len(thing.points) - on} off it",
            "score": f"{thing.score:.3f}",
            "confidence": "unknown" if thing.confidence is None else percent(thing.confidence),
        }
        heading = tag("h3", f"Object {number}")
        cards.append(tag("div", heading, _facts(facts), class_="card thing", style=f"border-left-color:{css(ink)}"))
    return tag("div", *cards, class_="things")


def _facts(facts: dict[str, str]) -> Html:
    return tag("dl", *(one for name, told in facts.items() for one in (tag("dt", name), tag("dd", told))), class_="facts")


def _points(view: _View) -> tuple[Html, ...]:
    if not view.asked:
        return ()
    return tag("h2", "Points"), tag("div", points_table(view.asked), class_="card")


def _right(trace: Trace) -> tuple[Html, ...]:
    """What a person said would be right."""
    masks = [runs.mask() for runs in trace.verdict.objects or ()]
    if not masks:
        return ()
    boxes = (mask_to_box(mask) if mask.any() else Box(0, 0, 1, 1) for mask in masks)
    things = [AnsweredObject(box, (), 1.0, Runs.of(mask)) for box, mask in zip(boxes, masks, strict=True)]
    stage = overlay_svg(trace.picture.size, things, colours(trace.picture, things), ())
    return tag("h2", "What would be right"), tag("div", stage, class_="card seen")


def _run(trace: Trace) -> Html:
    settings = trace.settings
    facts = {
        "began": trace.began,
        "MLLM": settings.mllm,
        "segmenter": settings.segmenter,
        "dialect": settings.dialect.name,
        "sampler": json.dumps(to_plain(settings.sampler)),
        "thresholds": f"on above {settings.thresholds.on:g}, off above {settings.thresholds.off:g}",
        "retries": str(settings.retries),
        "picture": f"sha256 {trace.picture.sha256}",
        "written by": f"sam4mllm-tool {trace.written_by}",
    }
    wording = tag(
        "details", tag("summary", "The dialect's wording"), tag("pre", json.dumps(asdict(settings.dialect), indent=2))
    )
    return tag("div", _facts({name: seen(told) for name, told in facts.items()}), wording, class_="card")
