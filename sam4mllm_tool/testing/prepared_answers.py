"""The right answers to the questions of a conformance suite, for backends that are driven by prepared replies.

A scripted backend takes `answer`; the handler of a server that stands in for a real one takes `answer_text`, with whatever of
the question's text arrives there.
"""

from collections.abc import Sequence

from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.testing.conformance_cases import ConformanceCase
from sam4mllm_tool.types import Labels, Question, Reply, Turn

__all__ = ["MALFORMED_EXPRESSION", "PreparedAnswers", "ask_about_points"]

MALFORMED_EXPRESSION = "what can't be answered readably"
"""The expression whose question gets a reply that no dialect can read."""
_MALFORMED_REPLY = "Somewhere around [12, 34"
_SURE = 0.9
"""Probability of the right label."""


class PreparedAnswers:
    """Right answers about the cases, by the text of the question.

    Args:
        dialect: In which the backend is asked.
        cases: What it may be asked about.
    """

    def __init__(self, dialect: Dialect, cases: Sequence[ConformanceCase]) -> None:
        self._replies: dict[str, str] = {_text(dialect.ask_boxes(MALFORMED_EXPRESSION)): _MALFORMED_REPLY}
        for case in cases:
            self._replies[_text(dialect.ask_boxes(case.expression))] = dialect.format_boxes(case.boxes, case.size)
            self._replies |= {_text(question): text for question, text in ask_about_points(dialect, case)}

    def answer(self, question: Question) -> Reply:
        """Return the right reply, with probabilities where labels are asked for. Raises LookupError for another question."""
        text = self._replies[_text(question)]
        if not isinstance(question.answer, Labels):
            return Reply(text)
        words = question.answer.words
        rest = (1 - _SURE) / (len(words) - 1)
        return Reply(text, (tuple(_SURE if word == text else rest for word in words),))

    def answer_text(self, text: str) -> str:
        """Return the text of the right reply to a request that holds a question's text. Raises LookupError without one."""
        for question, reply in self._replies.items():
            if question in text:
                return reply
        raise LookupError(f"no question of the suite is in {text[:200]!r}")


def ask_about_points(dialect: Dialect, case: ConformanceCase) -> list[tuple[Question, str]]:
    """Return a question about each known point of a case, one point a question, and the right answer."""
    first, pairs = dialect.ask_boxes(case.expression), []
    turns = (*first.turns, Turn("assistant", dialect.format_boxes(case.boxes, case.size)))
    for point, label in case.points:
        (question,) = dialect.ask_points(turns, case.boxes[0], [point], case.size)
        pairs.append((question, dialect.format_labels([label])))
    return pairs


def _text(question: Question) -> str:
    return question.turns[-1].text
