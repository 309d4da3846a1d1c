"""A run's steps on its page: what was said, as turns; what the segmenter was shown and gave; how long each took."""

from collections import Counter
from collections.abc import Mapping, Sequence

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.images.draw import OBJECT_COLOURS, Colour
from sam4mllm_tool.protocol import Exchange
from sam4mllm_tool.trace.html import Html, tag
from sam4mllm_tool.trace.image_layers import Asking, thumbnail
from sam4mllm_tool.trace.schema import Asked, Candidate, Found, Prompted, Step, Trace
from sam4mllm_tool.types import Labels, Size, Turn

__all__ = ["percent", "points_table", "seconds", "step_card", "timings"]

_SPOKEN = 3
"""Questions side by side that are shown as turns; of more, the first and a table."""
_WHO = {"system": "system", "user": "asked", "assistant": "the model"}


def percent(share: float) -> str:
    """With a digit after the point, as 97.3 %."""
    return f"{100 * share:.1f} %"


def seconds(value: float) -> str:
    """In milliseconds below one."""
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def step_card(number: int, step: Step, trace: Trace, inks: Mapping[str, Colour]) -> Html:
    """One step. inks: the colours of the masks that are in the answer."""
    body = _asked(step, _said_before(number, trace)) if isinstance(step, Asked) else _prompted(step, trace, inks)
    head = tag("div", tag("h3", f"{number}. {_title(step)}"), tag("span", seconds(step.seconds)), class_="head")
    return tag("section", head, *body, class_="card step")


def _title(step: Step) -> str:
    shown = f", shown {step.shown}" if step.shown else ""
    if isinstance(step, Asked):
        count = len(step.exchanges)
        return ("The model is asked" if count == 1 else f"The model is asked {count} questions side by side") + shown
    points = sum(len(prompt.points) for prompt in step.prompts)
    boxes = f"{len(step.prompts)} box{'es' if len(step.prompts) > 1 else ''}"
    return f"Segment Anything is prompted with {boxes}" + (f" and {points} points" if points else "") + shown


def _said_before(number: int, trace: Trace) -> set[Turn]:
    steps = (step for step in trace.steps[: number - 1] if isinstance(step, Asked))
    pairs = [(*one.question.turns, Turn("assistant", one.reply.text)) for step in steps for one in step.exchanges]
    return {Turn(turn.role, turn.text.strip()) for turns in pairs for turn in turns}


def _asked(step: Asked, before: set[Turn]) -> Sequence[Html]:
    if len(step.exchanges) <= _SPOKEN:
        return [bubble for exchange in step.exchanges for bubble in _spoken(exchange, before)]
    first = step.exchanges[0]
    said = Counter(_word(exchange) for exchange in step.exchanges)
    told = ", ".join(f"{count} x {word}" for word, count in said.most_common(6))
    rows = [_row(exchange) for exchange in step.exchanges]
    table = _table(("question", "reply", "probability"), rows)
    return [
        *(bubble for bubble in _spoken(first, before)[:-1]),
        tag("p", f"and {len(step.exchanges) - 1} more like it", class_="legend"),
        _bubble("assistant", told),
        tag("details", tag("summary", f"all {len(step.exchanges)}"), table),
    ]


def _spoken(exchange: Exchange, before: set[Turn]) -> list[Html]:
    """The turns of an exchange that were not shown before."""
    *earlier, last = exchange.question.turns
    fresh = [turn for turn in earlier if Turn(turn.role, turn.text.strip()) not in before]
    how = _probabilities(exchange)
    return [*(_bubble(turn.role, turn.text) for turn in (*fresh, last)), _bubble("assistant", exchange.reply.text, how)]


def _bubble(role: str, text: str, beside: str = "") -> Html:
    return tag("div", tag("b", f"{_WHO[role]}{f' ({beside})' if beside else ''}"), text or "(nothing)", class_=f"said {role}")


def _probabilities(exchange: Exchange) -> str:
    rows = exchange.reply.label_probabilities
    if rows is None or not isinstance(exchange.question.answer, Labels):
        return ""
    words = exchange.question.answer.words
    best = [max(zip(row, words, strict=False), default=(0.0, "?")) for row in rows]
    return ", ".join(f"{word} {percent(share)}" for share, word in best[:12]) + (", ..." if len(best) > 12 else "")


def _word(exchange: Exchange) -> str:
    text = exchange.reply.text.strip()
    return text if len(text) <= 40 else f"{text[:40]}..."


def _row(exchange: Exchange) -> Html:
    rows = exchange.reply.label_probabilities
    how = _bar(rows[0][0], f"{percent(max(rows[0]))}") if rows and rows[0] else Html("-")
    question = tag("td", exchange.question.turns[-1].text, class_="words")
    return tag("tr", question, tag("td", _word(exchange)), tag("td", how, class_="n"))


def _bar(yes: float, told: str) -> Html:
    """How likely the first word is, from left to right."""
    share = max(0.0, min(1.0, yes))
    return Html(
        tag("span", tag("i", class_="yes" if yes >= 0.5 else "no", style=f"width:{100 * share:.0f}%"), class_="bar") + told
    )


def _prompted(step: Prompted, trace: Trace, inks: Mapping[str, Colour]) -> list[Html]:
    return [_choices(number, found, step.view or trace.picture.size, inks) for number, found in enumerate(step.found)]


def _choices(number: int, found: Found, shown: Crop | Size, inks: Mapping[str, Colour]) -> Html:
    ink = inks.get(found.mask.counts, OBJECT_COLOURS[number % len(OBJECT_COLOURS)])
    figures = []
    for place, one in enumerate((Candidate(found.mask, found.score), *found.alternatives)):
        told = f"{'chosen, ' if place == 0 and found.alternatives else ''}score {one.score:.2f}"
        picture = thumbnail(shown, one.mask.mask(), found.prompt, ink, told)
        figures.append(tag("figure", picture, tag("figcaption", told), class_="taken" if place == 0 else None))
    return tag("div", *figures, class_="choices")


def points_table(asked: Sequence[Asking]) -> Html:
    """Every point that was asked about, with what became of it."""
    kept = sum(one.kept for one in asked)
    rows = []
    for number, one in enumerate(asked, start=1):
        point = one.point
        label = tag("td", "on" if point.label else "off", class_="on" if point.label else "off")
        yes = point.confidence if point.label or point.confidence is None else 1 - point.confidence
        how = Html("unknown") if yes is None or point.confidence is None else _bar(yes, percent(point.confidence))
        place = tag("td", f"({point.x:.1f}, {point.y:.1f})", class_="n")
        box = tag("td", format_box(one.box), class_="n")
        fate = tag("td", "kept" if one.kept else "dropped")
        cells = (tag("td", str(number)), place, label, tag("td", how, class_="n"), fate, box)
        rows.append(tag("tr", *cells, class_=None if one.kept else "out"))
    told = tag(
        "p", f"{len(asked)} points were asked about, {kept} were kept. The bar is the probability of being on the object."
    )
    table = _table(("", "point", "answer", "probability", "", "in the box"), rows)
    return Html(told + tag("details", tag("summary", "all points"), table, open="" if len(asked) <= 30 else None))


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    head = tag("thead", tag("tr", *(tag("th", one) for one in heads)))
    return tag("div", tag("table", head, tag("tbody", *rows)), class_="wide")


def timings(trace: Trace) -> Html:
    """The steps one after another, as long as they took."""
    whole = max(sum(step.seconds for step in trace.steps), 1e-9)
    rows, done = [], 0.0
    for number, step in enumerate(trace.steps, start=1):
        place = f"left:{100 * done / whole:.2f}%;width:{100 * step.seconds / whole:.2f}%"
        mark = tag("i", class_=None if isinstance(step, Asked) else "seg", style=place)
        name = f"{number}. {'MLLM' if isinstance(step, Asked) else 'segmenter'}"
        rows += [tag("span", name), tag("div", mark, class_="track"), tag("span", seconds(step.seconds))]
        done += step.seconds
    told = tag("p", f"{seconds(trace.seconds)} in all, {seconds(whole)} of it in the models.", class_="legend")
    return tag("div", tag("div", *rows, class_="time"), told, class_="card")
