"""A trace as one page of HTML that needs nothing else: the image with the result, the conversation, every point and mask.

The markup is in the templates folder. Expressions and replies are other people's text: Jinja2 escapes every value, and what is
invisible (controls, marks of direction, lone surrogates) is written as its escape, so that no text looks like another. The
page has no script, and its policy lets it load nothing.
"""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sam4mllm_tool.errors import Sam4MllmError, count_noun
from sam4mllm_tool.geometry.boxes import format_box, mask_to_box
from sam4mllm_tool.images.object_labels import Colour
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.trace.codec import to_plain
from sam4mllm_tool.trace.files import write_file
from sam4mllm_tool.trace.image_layers import choose_object_colors, draw_layers, embed_image, format_css
from sam4mllm_tool.trace.replaying import image_of, replay, replaying
from sam4mllm_tool.trace.schema import (
    RecordedPointAnswer,
    RecordedResult,
    ResultObject,
    RunLengthMask,
    SegmentStep,
    Trace,
    read_result,
)
from sam4mllm_tool.trace.step_cards import build_point_rows, build_step_cards, build_time_bars, format_percent
from sam4mllm_tool.trace.verdict_files import build_verdict_links
from sam4mllm_tool.types import Box, PointAnswer, PointPrompt

__all__ = ["escape_invisible", "page", "write_page"]

_VISIBLE = "\n\u200c\u200d"
"""Line breaks, and the joiners that scripts and emoji need."""


def write_page(trace: Trace, path: str | os.PathLike[str]) -> Path:
    """Write the page to a file and return its path.

    Raises:
        TraceError: The file can't be written.
    """
    path = Path(path)
    write_file(path, page(trace).encode("utf-8"), "the page")
    return path


def page(trace: Trace) -> str:
    """Render the page."""
    result = None if trace.result is None else read_result(trace.result)
    colors = choose_object_colors(trace.image, result.objects) if result else []
    view = _View(trace, result, colors)
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=trace.expression if trace.expression is not None else "a flow without an expression",
            data_uri=embed_image(trace.image),
            size=trace.image.size,
            outcome=view.describe_outcome(),
            chips=view.build_chips(),
            warnings=view.build_warnings(),
            verdict_links=build_verdict_links(trace),
            layers=view.layer_names(),
            drawing=draw_layers(trace.image.size, view.objects, colors, view.answers),
            objects=view.build_object_cards(),
            steps=build_step_cards(trace, view.colors_by_mask()),
            points=build_point_rows(view.answers),
            correction=_draw_correction(trace),
            time_bars=build_time_bars(trace),
            total_seconds=trace.seconds,
            model_seconds=sum(step.seconds for step in trace.steps),
            facts=_collect_facts(trace),
            dialect=json.dumps(to_plain(trace.settings.dialect), indent=2),
        )
    )


def escape_invisible(text: str) -> str:
    """Write what can't be seen in the text as its escape, as in \\u202e."""
    return "".join(
        character if character.isprintable() or character in _VISIBLE else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sam4mllm_tool.trace"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: escape_invisible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {"g": lambda value: f"{value:g}", "duration": _format_seconds}
    return environment


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


@dataclass
class _View:
    """What the page shows of a trace, with what a replay adds to it.

    Args:
        trace: The run.
        result: Read from the trace.
        colors: Of the result's objects.
    """

    trace: Trace
    result: RecordedResult | None
    colors: Sequence[Colour]
    answers: Sequence[PointAnswer] = field(init=False)
    difference: str | None = field(init=False)
    """Of a replay, "" where there is none; None where the run can't be replayed."""

    def __post_init__(self) -> None:
        self.difference = replay(self.trace).difference if self.trace.is_of_method else None
        self.answers = _collect_point_answers(self.trace, self.result)

    @property
    def objects(self) -> Sequence[ResultObject]:
        return self.result.objects if self.result else ()

    def describe_outcome(self) -> str:
        """Say in one line what the run gave."""
        if self.trace.error is not None:
            return f"It failed: {self.trace.error.type}: {self.trace.error.message}"
        if self.result is None:
            return "A step of a tool, whose result is not a segmentation."
        if self.result.abstained and not self.objects:
            return "Not sure enough to answer: nothing is segmented"
        confidence = self.result.confidence
        suffix = "" if confidence is None else f", right with {format_percent(confidence)}"
        return (_count_objects(self.objects) or "There is no such object") + suffix

    def build_chips(self) -> list[tuple[str, str]]:
        """The key facts, each with its CSS class."""
        verdict = self.trace.verdict
        chips = [{None: ("not judged", ""), True: ("accepted", "good"), False: ("rejected", "bad")}[verdict.accepted]]
        if verdict.objects is not None:
            chips = [("corrected: " + (_count_objects(verdict.objects) or "no such object"), "good")]
        chips += [(self.trace.method or "a tool's flow", ""), (_format_seconds(self.trace.seconds), "")]
        if self.difference is not None:
            chips.append(("replay differs", "bad") if self.difference else ("replays to the same result", "good"))
        count, (width, height) = len(list(self.trace.exchanges)), self.trace.image.size
        return [*chips, (count_noun(count, "question"), ""), (f"{width} x {height} pixels", "")]

    def build_warnings(self) -> list[str]:
        """What the reader has to know: warnings of the result, differences, a broken seal, notes, the comment."""
        warnings = [f"Warning: {warning}" for warning in self.result.warnings] if self.result else []
        warnings += [self.difference] if self.difference else []
        if self.trace.altered and "changed after it was recorded" not in (self.difference or ""):
            warnings.append("the file was changed after it was recorded: its seal doesn't fit")
        warnings += self.result.notes if self.result else ()
        return [*warnings, *([f"comment: {self.trace.verdict.comment}"] if self.trace.verdict.comment else [])]

    def layer_names(self) -> list[str]:
        """The layers of the drawing that the reader can hide."""
        is_there = {
            "masks": bool(self.objects),
            "boxes": bool(self.objects),
            "points": bool(self.answers),
            "dropped": any(not answer.kept for answer in self.answers),
        }
        return [name for name, there in is_there.items() if there]

    def build_object_cards(self) -> list[dict[str, Any]]:
        """A card per object: its color and its facts."""
        width, height = self.trace.image.size
        cards = []
        for segmented, color in zip(self.objects, self.colors, strict=True):
            positives, pixels = sum(point.label for point in segmented.points), int(segmented.mask.mask().sum())
            facts = {
                "box": format_box(segmented.box),
                "mask": f"{pixels:,} pixels, {format_percent(pixels / (width * height))}",
                "points": f"{positives} on it, {len(segmented.points) - positives} off it",
                "score": f"{segmented.score:.3f}",
                "confidence": "unknown" if segmented.confidence is None else format_percent(segmented.confidence),
                "agreement": "unknown"
                if segmented.agreement is None
                else f"{format_percent(segmented.agreement)}, with the answers about points",
            }
            cards.append({"color": format_css(color), "facts": facts})
        return cards

    def colors_by_mask(self) -> dict[str, Colour]:
        """The color of each mask in the result by its run lengths, and of those in crops that it was made from."""
        colors = {segmented.mask.counts: color for segmented, color in zip(self.objects, self.colors, strict=True)}
        for step in self.trace.steps if self.objects else ():
            if isinstance(step, SegmentStep) and step.crop is not None:
                for candidate in step.objects:
                    ious = [segmented.box.iou(step.crop.to_image_box(candidate.prompt.box)) for segmented in self.objects]
                    colors[candidate.mask.counts] = self.colors[ious.index(max(ious))]
        return colors


def _count_objects(objects: Sequence[object]) -> str:
    return count_noun(len(objects), "object") if objects else ""


def _collect_point_answers(trace: Trace, result: RecordedResult | None) -> Sequence[PointAnswer]:
    """Every answer about a point: as recorded, else of a replay, else the points of the result."""
    if result and result.point_answers is not None:
        answers = [_read_point_answer(answer) for answer in result.point_answers]
    else:  # the run failed, or the trace is from before version 0.2
        answers = _replay_point_answers(trace)
    if answers or not result:
        return answers
    return [PointAnswer(segmented.box, point) for segmented in result.objects for point in segmented.points]


def _read_point_answer(answer: RecordedPointAnswer) -> PointAnswer:
    return PointAnswer(answer.box, PointPrompt(answer.x, answer.y, answer.label, answer.confidence), answer.kept)


def _replay_point_answers(trace: Trace) -> list[PointAnswer]:
    if trace.expression is None or not trace.is_of_method:
        return []
    models = replaying(trace)
    context = models.start_run(trace.image.size, trace.expression)
    flow = segment_expression(context, trace.expression, trace.method)  # type: ignore[arg-type]  # is_of_method checks it
    with suppress(Sam4MllmError):  # the page says how the replay failed
        models.run(image_of(trace), flow, context)
    return context.transcript.point_answers


def _draw_correction(trace: Trace) -> Any:
    """Draw the masks that a person gave as correct; None if there are none."""
    masks = [mask.mask() for mask in trace.verdict.objects or ()]
    if not masks:
        return None
    boxes = (mask_to_box(mask) if mask.any() else Box(0, 0, 1, 1) for mask in masks)
    objects = [ResultObject(box, (), 1.0, RunLengthMask.of(mask)) for box, mask in zip(boxes, masks, strict=True)]
    return draw_layers(trace.image.size, objects, choose_object_colors(trace.image, objects), ())


def _collect_facts(trace: Trace) -> dict[str, str]:
    settings = trace.settings
    return {
        "began": trace.began,
        "MLLM": settings.mllm,
        "segmenter": settings.segmenter,
        "dialect": settings.dialect.name,
        "sampler": json.dumps(to_plain(settings)["sampler"]),
        "thresholds": f"on above {settings.thresholds.on:g}, off above {settings.thresholds.off:g}",
        "retries": str(settings.retries),
        "image": f"sha256 {trace.image.sha256}",
        "written by": f"sam4mllm-tool {trace.written_by}",
    }
