"""A scripted model that grounds perfectly, or with faults, in any coordinate frame, for the tests of probing."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.probing.probe_scenes import ProbeObject, ProbeScene, draw_probe_scenes
from sam4mllm_tool.protocol.native_codec import Resizing
from sam4mllm_tool.protocol.padded_codec import pad_box, pad_size
from sam4mllm_tool.types import Box, Labels, Point, Question, Reply, Size

RESIZING = (28, 56 * 56, 14 * 14 * 4 * 1280)
"""As Qwen2.5-VL's: both sides become multiples of 28."""

Units = Callable[[Size], tuple[float, float]]
UNITS: dict[str, Units] = {
    "0..1": lambda _: (1, 1),
    "0..100": lambda _: (100, 100),
    "0..999": lambda _: (999, 999),
    "0..1000": lambda _: (1000, 1000),
    "pixels of the image": lambda size: size,
    "pixels of the processed image": Resizing(*RESIZING).apply,
}
"""The numbers at the far edges of an image of a size, by the frame's name."""


@dataclass
class GroundingModel:
    """Answers in one frame, whatever it is asked to write.

    Args:
        frame: A key of `UNITS`.
        order: Whether x or y comes first.
        form: How a box is written; placeholders {0} to {3}.
        noise: Standard deviation of each coordinate, as a share of the object's side.
        wrong: Share of the boxes that are another object's.
        says_none: Whether it says that there is no such object; else it gives a box of another one.
        probabilities: Whether labels come with probabilities.
        counts_square: Whether its numbers count the square that it sees the image in the middle of.
    """

    frame: str
    order: str = "xy"
    form: str = "[{0}, {1}, {2}, {3}]"
    noise: float = 0.0
    wrong: float = 0.0
    says_none: bool = True
    probabilities: bool = False
    counts_square: bool = False
    random: Random = field(default_factory=lambda: Random(0))

    def load(self) -> ScriptedMLLM:
        """Return the model as a backend."""
        mllm = ScriptedMLLM(self.reply)
        mllm.resizing = RESIZING  # type: ignore[attr-defined]
        return mllm

    def reply(self, question: Question) -> Reply:
        text = question.turns[-1].text
        if isinstance(question.answer, Labels):
            return self._label(question)
        pairs = [(scene, drawn) for scene in draw_probe_scenes() for drawn in scene.objects]
        named = next(((scene, drawn) for scene, drawn in pairs if drawn.expression in text), None)
        if named is None and self.says_none:
            return Reply("none. There is none.")
        scene, drawn = named or pairs[0]
        if self.random.random() < self.wrong:
            drawn = next(other for other in scene.objects if other is not drawn)
        return Reply(self.form.format(*self._write_box(self._shake(drawn.box), scene.size)))

    def _shake(self, box: Box) -> Box:
        x1, y1, x2, y2 = (
            value + self.random.gauss(0, self.noise) * side
            for value, side in zip(box, (box.width, box.height) * 2, strict=True)
        )
        return Box(x1, y1, x2, y2)

    def _write_box(self, box: Box, size: Size) -> list[str]:
        corners = (Point(box.x1, box.y1), Point(box.x2, box.y2))
        return [number for corner in corners for number in self._write_point(corner, size)]

    def _write_point(self, point: Point, size: Size) -> list[str]:
        if self.counts_square:
            x, y, *_ = pad_box(Box(*point, *point), size)
            point, size = Point(x, y), pad_size(size)
        decimals = {"0..1": 3, "0..100": 1}.get(self.frame, 0)
        numbers = [
            f"{value / side * unit:.{decimals}f}"
            for value, side, unit in zip(point, size, UNITS[self.frame](size), strict=True)
        ]
        return numbers if self.order == "xy" else numbers[::-1]

    def _label(self, question: Question) -> Reply:
        """Say Yes or No rightly about the known points whose numbers, in the model's own frame, are in the question."""
        assert isinstance(question.answer, Labels)
        numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", question.turns[-1].text)]
        labels = [self._find_label(pair, question) for pair in pairwise(numbers)]
        known = [label for label in labels if label is not None][: question.answer.count] or [0] * question.answer.count
        yes, no = question.answer.words
        rows = tuple((0.9, 0.1) if label else (0.2, 0.8) for label in known)
        return Reply("".join(yes if label else no for label in known), rows if self.probabilities else None)

    def _find_label(self, pair: tuple[float, float], question: Question) -> int | None:
        scene, drawn = self._find_object(question)
        unit = max(UNITS[self.frame](scene.size)) / 150
        for point, label in drawn.points:
            written = (float(number) for number in self._write_point(point, scene.size))
            if all(abs(number - other) < unit for number, other in zip(pair, written, strict=True)):
                return label
        return None

    def _find_object(self, question: Question) -> tuple[ProbeScene, ProbeObject]:
        text = "".join(turn.text for turn in question.turns)
        return next((scene, drawn) for scene in draw_probe_scenes() for drawn in scene.objects if drawn.expression in text)
