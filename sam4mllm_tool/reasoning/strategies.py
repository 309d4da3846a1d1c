"""The strategies of reasoning segmentation as flows: the first attempt, and the ways of trying again.

Boxes come from the MLLM's words, from a crop, or from the question for other boxes. Each is then asked about in one round on
the whole image: few points where an answer is reliable (pipeline/point_selection.py), and whether the object in it is what the
expression means. What the budget doesn't allow is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from sam4mllm_tool.errors import OverBudgetError, ReplyError
from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, format_box, select_new_boxes
from sam4mllm_tool.geometry.crops import Crop, crop_around, crop_quadrants
from sam4mllm_tool.images.draw import overlay
from sam4mllm_tool.pipeline.point_selection import pick_better, select_points
from sam4mllm_tool.pipeline.requests import Flow, on_crop
from sam4mllm_tool.pipeline.run_context import RunContext, yes_probability
from sam4mllm_tool.protocol import PQPP, BoxOnly, PointsByBox, Verified
from sam4mllm_tool.reasoning.attempts import Attempt, ReasoningConfig
from sam4mllm_tool.reasoning.counting import count_objects, parse_ordinal
from sam4mllm_tool.reasoning.decision import choose_best
from sam4mllm_tool.types import Box, Image, ObjectPrompt, Reply, Segmentation, SegmentedObject, Size

__all__ = ["ReasoningStrategies"]

T = TypeVar("T")

_OBJECT_SHARE = 0.3
"""Share of a crop that a doubtful box takes."""


@dataclass(frozen=True)
class ReasoningStrategies:
    """The strategies for one expression. Each takes the attempts so far and returns them with its own.

    Args:
        run: The run; every attempt gets a transcript of its own.
        expression: What is meant, whatever other wordings are tried.
        config: When to try again, and how.
    """

    run: RunContext
    expression: str
    config: ReasoningConfig

    @property
    def size(self) -> Size:
        return self.run.size

    def take_step(self, step: str, attempts: Sequence[Attempt], wordings: Sequence[str] = ()) -> Flow[list[Attempt]]:
        """Take a step by its name.

        Args:
            step: `look` for the first attempt, or a strategy.
            attempts: So far.
            wordings: Other words for the expression, for `rephrase`.
        """
        if step == "rephrase":
            return (yield from self.rephrase(attempts, wordings))
        by_step = {
            "look": self.first_attempt,
            "count": self.count,
            "verify": self.verify,
            "other": self.find_others,
            "zoom": self.zoom,
        }
        return (yield from by_step[step](attempts))

    def first_attempt(self, attempts: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """Run the dialogue as it is, and verify its boxes."""
        new = yield from self._try_wording("look", self.expression)
        return [*attempts, *new]

    def count(self, attempts: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """Count the objects of the kind that an ordinal counts: with too few, the one that is meant is absent."""
        ordinal = parse_ordinal(self.expression)
        if ordinal is None:
            return list(attempts)
        counted = yield from _within_budget(count_objects(self.run.with_new_transcript(), ordinal, _all_boxes(attempts)))
        return list(attempts) if counted is None else [*attempts, counted]

    def rephrase(self, attempts: Sequence[Attempt], wordings: Sequence[str]) -> Flow[list[Attempt]]:
        """Run the dialogue in other words until the answer is sure; its boxes are verified by the expression itself."""
        extended = list(attempts)
        for wording in wordings[: self.config.wordings]:
            new = yield from self._try_wording("rephrase", wording)
            extended = _add_new(extended, new)
            if choose_best(extended).is_sure(self.config):
                break
        return extended

    def find_others(self, attempts: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """Ask for what the expression means besides all boxes so far."""
        run = self.run.with_new_transcript()
        boxes = yield from _within_budget(run.find_other_boxes(self.expression, _all_boxes(attempts)))
        if boxes is None:
            return list(attempts)
        if not boxes:
            return [*attempts, self._no_object("other", self.expression, run)]
        new = yield from self._examine_boxes("other", self.expression, boxes, run)
        return _add_new(attempts, new)

    def zoom(self, attempts: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """Ask in crops: around the best boxes, which are verified there once more, or, without boxes, in four quadrants.

        Boxes that take much of the image leave nothing to zoom into.
        """
        run, extended = self.run.with_new_transcript(), list(attempts)
        new_boxes: list[Box] = []
        best = _best_with_objects(attempts)
        known = () if best is None else attempts[best].boxes
        for crop in _crops_of(known, self.size):
            boxes, checks = (yield from self._ask_in_crop(crop, known, run)) or ((), [])
            if best is not None and len(checks) == len(known):
                extended[best] = extended[best].with_checks(checks)
            new_boxes += select_new_boxes(map(crop.to_image_box, boxes), (*new_boxes, *_all_boxes(attempts)), SAME_OBJECT_IOU)
        if not new_boxes:
            return extended
        new = yield from self._examine_boxes("zoom", self.expression, new_boxes, run)
        return _add_new(extended, new)

    def verify(self, attempts: Sequence[Attempt]) -> Flow[list[Attempt]]:
        """Show the MLLM its best answer drawn on the image, and ask once more whether that is what was meant."""
        best = _best_with_objects(attempts)
        result = None if best is None else attempts[best].result
        if best is None or result is None:
            return list(attempts)
        attempt = attempts[best]
        question = self.run.with_new_transcript().verify_boxes(self.expression, attempt.boxes)
        probabilities = _known((yield from _within_budget(on_crop(_AnswerOverlay(result), question))) or ())
        if len(probabilities) == len(attempt.boxes):
            attempt = attempt.with_checks(probabilities)
        return [attempt if index == best else other for index, other in enumerate(attempts)]

    def _try_wording(self, step: str, wording: str) -> Flow[list[Attempt]]:
        """Run the dialogue in these words; nothing where the budget doesn't reach to a first reply and its masks."""
        run = self.run.with_new_transcript()
        try:
            dialogue = yield from run.run_dialogue(BoxOnly.start(wording, self.size, dialect=run.dialect))
        except OverBudgetError:
            return []
        except ReplyError as error:
            return [Attempt(step, wording, note=error.reason)]
        if not dialogue.prompts:
            return [self._no_object(step, wording, run)]
        return (yield from self._examine_boxes(step, wording, [prompt.box for prompt in dialogue.prompts], run))

    def _examine_boxes(self, step: str, wording: str, boxes: Sequence[Box], run: RunContext) -> Flow[list[Attempt]]:
        """Segment and verify the objects in boxes, as far as the budget reaches.

        Whatever words led to the boxes, they are verified by the expression itself. The calibration holds for boxes that the
        MLLM names first; those that it names when pressed are less often right, so theirs is taken as it is.
        """
        from_boxes = yield from _within_budget(run.segment_prompts([ObjectPrompt(box) for box in boxes]))
        if from_boxes is None:
            return []
        objects, meant = yield from self._ask_about(boxes, from_boxes, run)
        if not any(segmented.mask.any() for segmented in objects):
            return [Attempt(step, wording, note=f"the segmenter gives no pixel in {_list_boxes(boxes)}")]
        calibrate = run.calibration.objects if step == "look" else float
        is_known = not run.transcript.warnings
        confidences = [calibrate(probability) if is_known and probability is not None else None for probability in meant]
        objects = [
            replace(segmented, confidence=confidence) for segmented, confidence in zip(objects, confidences, strict=True)
        ]
        checks = tuple(() if confidence is None else (confidence,) for confidence in confidences)
        return [Attempt(step, wording, run.build_result(wording, objects), checks)]

    def _ask_about(
        self, boxes: Sequence[Box], from_boxes: Sequence[SegmentedObject], run: RunContext
    ) -> Flow[tuple[list[SegmentedObject], list[float | None]]]:
        """Ask about points and boxes in one round; the boxes alone where the budget doesn't reach for the points."""
        points = PointsByBox(
            tuple(
                (run.dialect.snap_box(box, self.size), select_points(segmented))
                for box, segmented in zip(boxes, from_boxes, strict=True)
            )
        )
        thresholds = run.config.thresholds
        start = PQPP.start(self.expression, self.size, dialect=run.dialect, sampler=points, thresholds=thresholds)
        named = start.answer([Reply(run.dialect.format_boxes(boxes, self.size))])
        verified = yield from _within_budget(run.run_dialogue(Verified(named)))
        if verified is None:
            run.note("went on without points: the budget doesn't reach")
            meant = (yield from _within_budget(run.verify_boxes(self.expression, boxes))) or [None] * len(boxes)
            return list(from_boxes), meant
        meant = list((verified.match_probabilities if isinstance(verified, Verified) else None) or [None] * len(boxes))
        from_points = (yield from _within_budget(run.segment_prompts(verified.prompts))) or from_boxes
        return [pick_better(pointed, bare) for pointed, bare in zip(from_points, from_boxes, strict=True)], meant

    def _ask_in_crop(
        self, crop: Crop, known: Sequence[Box], run: RunContext
    ) -> Flow[tuple[tuple[Box, ...], list[float]] | None]:
        """In one round on the crop, ask for boxes and whether each known one is meant; None beyond the budget."""
        inside = [crop.to_crop_prompt(ObjectPrompt(box)).box for box in known]
        return (yield from _within_budget(on_crop(crop, self._ask_boxes_and_verify(inside, run))))

    def _ask_boxes_and_verify(self, boxes: Sequence[Box], run: RunContext) -> Flow[tuple[tuple[Box, ...], list[float]]]:
        start = BoxOnly.start(self.expression, self.size, dialect=run.dialect)
        questions = list(start.pending)
        verifications = (run.dialect.ask_verification(start.expression, box, self.size) for box in boxes)
        questions += [question for question in verifications if question is not None]
        first, *rest = yield from run.ask(questions)
        checks = _known([yes_probability(reply) for reply in rest])
        try:
            return run.dialect.parse_boxes(questions[0], first, self.size), checks
        except ReplyError as error:
            run.note(f"went on without a crop: {error.reason}")
            return (), checks

    def _no_object(self, step: str, wording: str, run: RunContext) -> Attempt:
        """The attempt whose last reply says that there is no such object."""
        none = None if run.transcript.warnings else run.none_confidence(run.transcript.exchanges[-1].reply)
        return Attempt(step, wording, run.build_result(wording, ()), none=none)


@dataclass(frozen=True, eq=False)
class _AnswerOverlay:
    """Shows the image with a result drawn on it."""

    result: Segmentation

    @property
    def description(self) -> str:
        return "the image with the answer drawn on it"

    def apply(self, image: Image) -> Image:
        return overlay(image, self.result, labels=False)  # a label would tell the answer


def _within_budget(flow: Flow[T]) -> Flow[T | None]:
    """Run the flow; None where the budget doesn't reach."""
    try:
        return (yield from flow)
    except OverBudgetError:
        return None


def _known(probabilities: Sequence[float | None]) -> list[float]:
    """Drop unknown ones. The calibration is for boxes that were just named on the whole image, so these stay as they are."""
    return [probability for probability in probabilities if probability is not None]


def _list_boxes(boxes: Sequence[Box]) -> str:
    return " and ".join(map(format_box, boxes))


def _all_boxes(attempts: Sequence[Attempt]) -> list[Box]:
    """All boxes so far, each object once."""
    return select_new_boxes((box for attempt in attempts for box in attempt.boxes), (), SAME_OBJECT_IOU)


def _add_new(attempts: Sequence[Attempt], new: Sequence[Attempt]) -> list[Attempt]:
    """Add the new attempts; one with the boxes of an earlier one is noted and counts no more."""
    extended = list(attempts)
    for attempt in new:
        same = next((index for index, known in enumerate(extended) if attempt.boxes and _has_same_boxes(known, attempt)), None)
        if same is not None:
            attempt = Attempt(attempt.step, attempt.expression, note=f"as in attempt {same + 1}")
        extended.append(attempt)
    return extended


def _has_same_boxes(first: Attempt, second: Attempt) -> bool:
    pairs = zip(first.boxes, second.boxes, strict=False)
    return len(first.boxes) == len(second.boxes) and all(a.iou(b) >= SAME_OBJECT_IOU for a, b in pairs)


def _best_with_objects(attempts: Sequence[Attempt]) -> int | None:
    """Index of the attempt that is surest of its objects."""
    with_objects = (index for index, attempt in enumerate(attempts) if attempt.boxes)
    return max(with_objects, key=lambda index: attempts[index].confidence or 0, default=None)


def _crops_of(boxes: Sequence[Box], size: Size) -> tuple[Crop, ...]:
    if not boxes:
        return crop_quadrants(size)
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    crop = crop_around(Box(min(x1), min(y1), max(x2), max(y2)), size, _OBJECT_SHARE)
    return () if crop is None else (crop,)
