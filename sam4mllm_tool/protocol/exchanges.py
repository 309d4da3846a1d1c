"""What every dialogue shares: its interface, its history of exchanges, and how both are replayed and listed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol, Self, TypeVar

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.types import ObjectPrompt, PointAnswer, Question, Reply, Turn

__all__ = ["Dialogue", "Exchange", "catch_reply_error", "check_reply_count", "flatten_turns", "replay"]


@dataclass(frozen=True)
class Exchange:
    """A question and its reply."""

    question: Question
    reply: Reply


class Dialogue(Protocol):
    """What the pipeline, the tools and the builder of training data run."""

    @property
    def expression(self) -> str: ...

    @property
    def pending(self) -> tuple[Question, ...]:
        """The questions to ask now, all at once; empty when the dialogue is done."""

    @property
    def prompts(self) -> tuple[ObjectPrompt, ...]:
        """One prompt per object, complete when nothing is pending; none then means that there is no such object."""

    @property
    def point_answers(self) -> tuple[PointAnswer, ...]:
        """All answers about points in order, also those that the thresholds keep out of `prompts`."""

    @property
    def history(self) -> tuple[Exchange, ...]:
        """All questions so far with their replies."""

    def answer(self, replies: Sequence[Reply]) -> Self:
        """Return the next state. Raises ReplyError if a reply breaks the format; this state stays as it was."""

    def faults(self, replies: Sequence[Reply]) -> tuple[ReplyError | None, ...]:
        """Return for each pending question why its reply can't be parsed, or None if it can."""

    def drop_unreadable_points(self, replies: Sequence[Reply]) -> "Dialogue | None":
        """Return the state to continue from when pending replies stay unreadable, or None if there is none."""


D = TypeVar("D", bound=Dialogue)


def replay(dialogue: D, rounds: Iterable[Sequence[Reply]]) -> D:
    """Return the state after these rounds of replies."""
    for replies in rounds:
        dialogue = dialogue.answer(replies)
    return dialogue


def flatten_turns(history: Iterable[Exchange]) -> tuple[Turn, ...]:
    """Return the exchanges as one readable sequence of turns.

    Turns that a question shares with the exchange before it are listed once. A question that continues from an earlier
    exchange, such as one that is asked again, repeats the turns it continues from.
    """
    turns: list[Turn] = []
    previous: tuple[Turn, ...] = ()
    for exchange in history:
        context = exchange.question.turns[:-1]
        shared = len(list(takewhile(lambda pair: _is_same_turn(*pair), zip(context, previous, strict=False))))
        previous = (*exchange.question.turns, Turn("assistant", exchange.reply.text))
        turns += previous[shared:]
    return tuple(turns)


def _is_same_turn(a: Turn, b: Turn) -> bool:
    """Compare turns without surrounding blanks: `Dialect.restore_answer_start` may have added some."""
    return a.role == b.role and a.text.strip() == b.text.strip()


def check_reply_count(pending: Sequence[Question], replies: Sequence[Reply]) -> None:
    """Raise ValueError unless there is one reply per pending question, and something is pending."""
    if not pending:
        raise ValueError("the dialogue is done: nothing is pending")
    if len(replies) != len(pending):
        raise ValueError(f"{len(pending)} questions are pending, got {len(replies)} replies")


def catch_reply_error(parse: Callable[[], object]) -> ReplyError | None:
    """Return why a reply can't be parsed, or None if it can."""
    try:
        parse()
    except ReplyError as error:
        return error
    return None
