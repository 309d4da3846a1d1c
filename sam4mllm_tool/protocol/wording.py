"""Build the questions that a model is asked and the ideal answers that training teaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sam4mllm_tool.protocol.padded_codec import Codec
from sam4mllm_tool.protocol.thoughts import strip_thought
from sam4mllm_tool.types import Box, FreeText, Label, Labels, ObjectPrompt, Point, Question, Reply, Size, Turn

__all__ = ["Wording"]

_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DESCRIPTION_TOKENS = 64


@dataclass(frozen=True)
class Wording:
    """Fill the templates of a dialect. The fields are those of `Dialect`, which describes them; boxes are in pixels."""

    codec: Codec
    ask_boxes_text: str
    ask_points_text: str
    ask_prompt_text: str
    none_text: str
    yes: str
    no: str
    points: Literal["joint", "each"]
    system: str
    answer_start: str
    max_tokens: int
    ask_again_text: str
    ask_whether_text: str
    ask_other_text: str
    ask_region_text: str
    ask_pointing_text: str
    item_text: str
    list_text: str
    separator: str

    def start(self) -> tuple[Turn, ...]:
        return (Turn("system", self.system),) if self.system else ()

    def ask_boxes(self, expression: str) -> Question:
        return self._ask(self.ask_boxes_text.format(expression=expression), FreeText(self.max_tokens))

    def ask_other_boxes(self, expression: str, boxes: Sequence[Box], size: Size) -> Question | None:
        if not self.ask_other_text:
            return None
        excluded = " ".join(self.codec.encode_box(box, size) for box in boxes)
        return self._ask(self.ask_other_text.format(expression=expression, boxes=excluded), FreeText(self.max_tokens))

    def ask_verification(self, expression: str, box: Box, size: Size) -> Question | None:
        if not self.ask_whether_text:
            return None
        text = self.ask_whether_text.format(expression=expression, box=self.codec.encode_box(box, size))
        return self._ask(text, Labels(1, (self.yes, self.no)))

    def ask_region(self, box: Box, point: Point, size: Size) -> Question:
        places = {"box": self.codec.encode_box(box, size), "point": self.codec.encode_point(point, size)}
        return self._ask(self.ask_region_text.format(**places), FreeText(min(self.max_tokens, _DESCRIPTION_TOKENS)))

    def ask_prompts(self, expression: str, on: int, off: int) -> Question:
        text = self.ask_prompt_text.format(expression=expression, on=_spell(on), off=_spell(off))
        return self._ask(text, FreeText(self.max_tokens))

    def ask_pointing(self, expression: str) -> Question | None:
        if not self.ask_pointing_text:
            return None
        return self._ask(self.ask_pointing_text.format(expression=expression), FreeText(self.max_tokens))

    def ask_points(
        self, previous_turns: tuple[Turn, ...], box: Box, points: Sequence[Point], size: Size
    ) -> tuple[Question, ...]:
        if not self.ask_points_text:
            return ()
        groups = [[point] for point in points] if self.points == "each" else [points] if points else []
        questions, written = [], self.codec.encode_box(box, size)
        for group in groups:
            listed = " ".join(self.codec.encode_point(point, size) for point in group)
            text = self.ask_points_text.format(box=written, points=listed)
            questions.append(Question((*previous_turns, Turn("user", text)), Labels(len(group), (self.yes, self.no))))
        return tuple(questions)

    def ask_again(self, question: Question, reply: Reply, reason: str) -> Question:
        if not self.ask_again_text:
            return question
        correction = (Turn("assistant", reply.text), Turn("user", self.ask_again_text.format(reason=reason)))
        return Question((*question.turns, *correction), question.answer)

    def format_boxes(self, boxes: Sequence[Box], size: Size) -> str:
        if not boxes:
            return self.answer_start + self.none_text
        items = self.separator.join(self.item_text.format(box=self.codec.encode_box(box, size)) for box in boxes)
        return self.answer_start + self.list_text.format(boxes=items)

    def format_points(self, points: Sequence[Point], size: Size) -> str:
        written = (self.codec.encode_point(point, size) for point in points)
        return self.answer_start + (self.separator.join(written) or self.none_text)

    def format_labels(self, labels: Sequence[Label]) -> str:
        return "".join(self.yes if label else self.no for label in labels)

    def format_prompts(self, prompts: Sequence[ObjectPrompt], size: Size) -> str:
        return self.answer_start + (" ".join(self._format_prompt(prompt, size) for prompt in prompts) or self.none_text)

    def restore_answer_start(self, text: str) -> str:
        answer = strip_thought(text)
        if answer is not None and answer != text.strip():
            text = answer
        return text if text.startswith(self.answer_start) else self.answer_start + text

    def _ask(self, text: str, answer: FreeText | Labels) -> Question:
        return Question((*self.start(), Turn("user", text)), answer)

    def _format_prompt(self, prompt: ObjectPrompt, size: Size) -> str:
        words = [self.codec.encode_box(prompt.box, size)]
        for word, label in (("on", 1), ("off", 0)):
            points = [self.codec.encode_point(Point(p.x, p.y), size) for p in prompt.points if p.label == label]
            words += [word, *points] if points else []
        return " ".join(words)


def _spell(count: int) -> str:
    return _COUNTS[count] if count < len(_COUNTS) else str(count)
