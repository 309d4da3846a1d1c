"""The steps of a run as its page shows them: the conversation, what the segmenter was prompted with and gave, the points."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sam4mllm_tool.errors import count_noun, quote_text
from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.images.draw import OBJECT_COLOURS
from sam4mllm_tool.images.object_labels import Colour
from sam4mllm_tool.protocol import Exchange
from sam4mllm_tool.trace.image_layers import ImageLayers, draw_thumbnail
from sam4mllm_tool.trace.schema import MLLMStep, RecordedCandidate, RecordedObject, Step, Trace
from sam4mllm_tool.types import Labels, PointAnswer, Size, Turn

__all__ = ["PointRow", "StepCard", "TimeBar", "build_point_rows", "build_step_cards", "build_time_bars", "format_percent"]

_MAX_BUBBLES = 3
"""Questions asked at once that are shown as a conversation; of more, the first, and a table of all."""


@dataclass(frozen=True)
class Bubble:
    """One turn of the conversation; `note` stands beside its role."""

    role: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class ProbabilityBar:
    """A probability from left to right, with the number that is written beside it."""

    probability: float
    text: str

    @property
    def percent(self) -> float:
        """In [0, 100]."""
        return 100 * max(0.0, min(1.0, self.probability))


@dataclass(frozen=True)
class ExchangeRow:
    """One of many questions that were asked at once."""

    question: str
    reply: str
    bar: ProbabilityBar | None


@dataclass(frozen=True)
class CandidateFigure:
    """A mask that the segmenter offered."""

    drawing: ImageLayers
    caption: str
    is_chosen: bool


@dataclass(frozen=True)
class StepCard:
    """One step.

    Args:
        title: In words.
        seconds: Of the step.
        bubbles: The conversation.
        rows: All questions, where `bubbles` shows the first only.
        summary: The replies of those rows, counted.
        figures: The segmenter's candidates, a group per prompt.
    """

    title: str
    seconds: float
    bubbles: Sequence[Bubble] = ()
    rows: Sequence[ExchangeRow] = ()
    summary: str = ""
    figures: Sequence[Sequence[CandidateFigure]] = ()


@dataclass(frozen=True)
class PointRow:
    """An answer about a point, for the table of points."""

    number: int
    place: str
    label: str
    bar: ProbabilityBar | None
    is_kept: bool
    box: str


@dataclass(frozen=True)
class TimeBar:
    """When a step ran, in percent of the time in the models."""

    name: str
    kind: str
    left: float
    width: float
    seconds: float


def format_percent(probability: float) -> str:
    """Write a probability with one decimal, as in 97.3 %."""
    return f"{100 * probability:.1f} %"


def build_step_cards(trace: Trace, colors: Mapping[str, Colour]) -> list[StepCard]:
    """Build a card per step.

    Args:
        trace: The run.
        colors: Colors of the masks that are in the result, by their run lengths.
    """
    cards, known_turns = [], set[Turn]()
    for number, step in enumerate(trace.steps, start=1):
        title = f"{number}. {_describe_step(step)}"
        if isinstance(step, MLLMStep):
            cards.append(_build_conversation(title, step, known_turns))
            known_turns |= {turn for exchange in step.exchanges for turn in _normalized_turns(exchange)}
        else:
            shown = step.crop or trace.image.size
            figures = [
                [_draw_candidate(segmented, index, place, shown, colors) for place in range(len(segmented.alternatives) + 1)]
                for index, segmented in enumerate(step.objects)
            ]
            cards.append(StepCard(title, step.seconds, figures=figures))
    return cards


def _describe_step(step: Step) -> str:
    suffix = f", shown {step.transform}" if step.transform else ""
    if isinstance(step, MLLMStep):
        count = len(step.exchanges)
        return ("The model is asked" if count == 1 else f"The model is asked {count} questions at once") + suffix
    if step.phrase is not None:
        return f"Segment Anything proposes {count_noun(len(step.objects), 'object')} for {quote_text(step.phrase)}{suffix}"
    points = sum(len(prompt.points) for prompt in step.prompts)
    boxes = sum(not prompt.points_only for prompt in step.prompts)
    parts = [f"{boxes} box{'es' if boxes > 1 else ''}"] * bool(boxes) + [f"{points} points"] * bool(points)
    return f"Segment Anything is prompted with {' and '.join(parts)}" + suffix


def _normalized_turns(exchange: Exchange) -> list[Turn]:
    turns = (*exchange.question.turns, Turn("assistant", exchange.reply.text))
    return [Turn(turn.role, turn.text.strip()) for turn in turns]


def _build_conversation(title: str, step: MLLMStep, known_turns: set[Turn]) -> StepCard:
    if len(step.exchanges) <= _MAX_BUBBLES:
        bubbles = [bubble for exchange in step.exchanges for bubble in _build_bubbles(exchange, known_turns)]
        return StepCard(title, step.seconds, bubbles)
    counts = Counter(_shorten(exchange.reply.text) for exchange in step.exchanges)
    summary = ", ".join(f"{count} x {reply}" for reply, count in counts.most_common(6))
    rows = [ExchangeRow(*_row_texts(exchange), _build_bar(exchange)) for exchange in step.exchanges]
    return StepCard(title, step.seconds, _build_bubbles(step.exchanges[0], known_turns)[:-1], rows, summary)


def _build_bubbles(exchange: Exchange, known_turns: set[Turn]) -> list[Bubble]:
    """The turns of an exchange that were not shown before."""
    *earlier, last = exchange.question.turns
    fresh = [turn for turn in earlier if Turn(turn.role, turn.text.strip()) not in known_turns]
    questions = [Bubble(turn.role, turn.text) for turn in (*fresh, last)]
    return [*questions, Bubble("assistant", exchange.reply.text, _format_probabilities(exchange))]


def _format_probabilities(exchange: Exchange) -> str:
    rows = exchange.reply.label_probabilities
    if rows is None or not isinstance(exchange.question.answer, Labels):
        return ""
    words = exchange.question.answer.words
    best = [max(zip(row, words, strict=False), default=(0.0, "?")) for row in rows]
    return ", ".join(f"{word} {format_percent(share)}" for share, word in best[:12]) + (", ..." if len(best) > 12 else "")


def _row_texts(exchange: Exchange) -> tuple[str, str]:
    return exchange.question.turns[-1].text, _shorten(exchange.reply.text)


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= 40 else f"{text[:40]}..."


def _build_bar(exchange: Exchange) -> ProbabilityBar | None:
    rows = exchange.reply.label_probabilities
    return ProbabilityBar(rows[0][0], format_percent(max(rows[0]))) if rows and rows[0] else None


def _draw_candidate(
    segmented: RecordedObject, index: int, place: int, shown: Crop | Size, colors: Mapping[str, Colour]
) -> CandidateFigure:
    """Draw the chosen mask (place 0) or an alternative."""
    color = colors.get(segmented.mask.counts, OBJECT_COLOURS[index % len(OBJECT_COLOURS)])
    candidate = (RecordedCandidate(segmented.mask, segmented.score), *segmented.alternatives)[place]
    caption = f"{'chosen, ' if place == 0 and segmented.alternatives else ''}score {candidate.score:.2f}"
    drawing = draw_thumbnail(shown, candidate.mask.mask(), segmented.prompt, color, caption)
    return CandidateFigure(drawing, caption, place == 0)


def build_point_rows(answers: Sequence[PointAnswer]) -> list[PointRow]:
    """Build the table of all points that were asked about."""
    rows = []
    for number, answer in enumerate(answers, start=1):
        point, bar = answer.point, None
        if point.confidence is not None:
            on_probability = point.confidence if point.label else 1 - point.confidence
            bar = ProbabilityBar(on_probability, format_percent(point.confidence))
        place, label = f"({point.x:.1f}, {point.y:.1f})", "on" if point.label else "off"
        rows.append(PointRow(number, place, label, bar, answer.kept, format_box(answer.box)))
    return rows


def build_time_bars(trace: Trace) -> list[TimeBar]:
    """Place the steps one after another on a scale of the time in the models."""
    total = max(sum(step.seconds for step in trace.steps), 1e-9)
    bars, elapsed = [], 0.0
    for number, step in enumerate(trace.steps, start=1):
        kind = "MLLM" if isinstance(step, MLLMStep) else "segmenter"
        bars.append(TimeBar(f"{number}. {kind}", kind, 100 * elapsed / total, 100 * step.seconds / total, step.seconds))
        elapsed += step.seconds
    return bars
