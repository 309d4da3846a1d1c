"""Measure how a model answers: in which frame its boxes are, and how well it labels points and says that there is none.

The model is shown the drawn scenes and asked in every wording that may fit. The wording, with the frame that was measured for
it, in which it scores best becomes its dialect, unless the frame is in doubt: then there is none.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sam4mllm_tool.errors import BackendError, ReplyError
from sam4mllm_tool.models.metadata import fit_dialect
from sam4mllm_tool.models.probing.frame_fit import BoxAnswer, FrameChoice, choose_frame, list_frames
from sam4mllm_tool.models.probing.probe_scenes import ProbeObject, ProbeScene, draw_probe_scenes
from sam4mllm_tool.models.validation import validate_replies
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.protocol.native_replies import find_first_box
from sam4mllm_tool.types import MLLM, Label, Question, Reply, Turn

__all__ = ["DialectTrial", "PointAccuracy", "ProbeReport", "probe_mllm"]

_SAME_SCORE = 0.02
"""Dialects whose gIoU differs by less count as equally good; the one that was asked first then is chosen."""
_NATIVE_BOXES = ("[{x1}, {y1}, {x2}, {y2}]", "({x1},{y1}),({x2},{y2})")


@dataclass(frozen=True)
class DialectTrial:
    """How the model answered in one dialect.

    Args:
        dialect: The dialect, adapted to the frame that was measured where its own doesn't read the answers as well.
        choice: How the frames fit the answers.
        giou: Mean over all questions of the IoU of the boxes that `dialect` reads with the true ones; for an absent object 1
            if the answer is "none", else 0 (gIoU of the GRES benchmark, on boxes). Unreadable answers count 0.
        iou: The same over the questions about objects that are there.
        absent_right: How many absent objects were answered with "none".
        absent: How many absent objects were asked about.
        seconds_per_question: Mean time of an answer with a box.
    """

    dialect: Dialect
    choice: FrameChoice
    giou: float
    iou: float
    absent_right: int
    absent: int
    seconds_per_question: float


@dataclass(frozen=True)
class PointAccuracy:
    """How the model answered about known points.

    Args:
        right: How many points got the right label.
        count: How many points were asked about.
        has_probabilities: Whether the answers come with probabilities.
    """

    right: int
    count: int
    has_probabilities: bool


@dataclass(frozen=True)
class ProbeReport:
    """What was measured.

    Args:
        mllm: The model's name.
        trials: One for each dialect, best first.
        points: How points were answered in the best dialect; None where the frame is in doubt, or without words for them.
        doubt: Why no dialect can be relied on; empty if one can.
    """

    mllm: str
    trials: tuple[DialectTrial, ...]
    points: PointAccuracy | None
    doubt: str

    @property
    def dialect(self) -> Dialect | None:
        """The dialect in which the model scored best; None where the frame is in doubt."""
        return None if self.doubt else self.trials[0].dialect

    def require_dialect(self) -> Dialect:
        """Return the dialect. Raises BackendError where the frame is in doubt."""
        if self.dialect is None:
            raise BackendError(
                f"no dialect can be chosen for {self.mllm}: {self.doubt}; name one yourself with --dialect or dialect="
            )
        return self.dialect

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        best, points = self.trials[0], self.points
        following = best.choice.next
        return {
            "mllm": self.mllm,
            "dialect": None if self.dialect is None else self.dialect.name,
            "doubt": self.doubt,
            "frame": {"name": best.choice.best.frame.name, "iou": best.choice.best.iou},
            "next_frame": following and {"name": following.frame.name, "iou": following.iou},
            "boxes": {"iou": best.iou, "asked": len(best.choice.best.ious)},
            "absent": {"right": best.absent_right, "asked": best.absent},
            "points": points and {"right": points.right, "asked": points.count, "probabilities": points.has_probabilities},
            "seconds_per_question": best.seconds_per_question,
            "trials": [
                {
                    "dialect": trial.dialect.name,
                    "giou": trial.giou,
                    "frames": [{"name": fit.frame.name, "iou": fit.iou} for fit in trial.choice.fits],
                }
                for trial in self.trials
            ],
        }


def probe_mllm(mllm: MLLM, dialects: Sequence[Dialect]) -> ProbeReport:
    """Ask a model about the drawn scenes, and measure its answers.

    Args:
        mllm: The model.
        dialects: Those to ask in, the preferred one first.

    Raises:
        BackendError: The model failed.
    """
    trials = [_try_dialect(mllm, dialect) for dialect in dialects]
    reliable = [trial for trial in trials if not trial.choice.reason]
    best = _choose_first_best(reliable or trials)
    ranked = (best, *sorted((trial for trial in trials if trial is not best), key=lambda trial: -trial.giou))
    if not reliable:
        return ProbeReport(mllm.name, ranked, None, best.choice.reason)
    return ProbeReport(mllm.name, ranked, _measure_points(mllm, fit_dialect(best.dialect, mllm)), "")


def _choose_first_best(trials: Sequence[DialectTrial]) -> DialectTrial:
    most = max(trial.giou for trial in trials)
    return next(trial for trial in trials if trial.giou > most - _SAME_SCORE)


# Boxes ----------------------------------------------------------------------------------------------------------------

_Exchange = tuple[ProbeScene, ProbeObject | None, Question, Reply]
"""A scene, the object asked about or None for the absent one, the question and its reply."""


def _try_dialect(mllm: MLLM, dialect: Dialect) -> DialectTrial:
    bound = fit_dialect(dialect, mllm)
    began = time.perf_counter()
    exchanges = [exchange for scene in draw_probe_scenes() for exchange in _ask_boxes(mllm, bound, scene)]
    seconds = (time.perf_counter() - began) / len(exchanges)
    answers = [BoxAnswer(find_first_box(reply.text), drawn.box, scene.size) for scene, drawn, _, reply in exchanges if drawn]
    frames = list_frames(bound, getattr(mllm, "resizing", None), pads_images=getattr(mllm, "pads_images", False))
    choice = choose_frame(frames, answers)
    templates = dict.fromkeys((dialect.box_text, *_NATIVE_BOXES))
    readers = (dialect, *(choice.best.frame.adapt_dialect(dialect, text) for text in templates))
    fitted = {reader: fit_dialect(reader, mllm) for reader in readers}
    scores = {reader: [_score(fitted[reader], *exchange) for exchange in exchanges] for reader in readers}
    most = max(map(fmean, scores.values()))
    reader = next(reader for reader, score in scores.items() if fmean(score) > most - _SAME_SCORE)
    present = [score for score, exchange in zip(scores[reader], exchanges, strict=True) if exchange[1]]
    absent = [score for score, exchange in zip(scores[reader], exchanges, strict=True) if not exchange[1]]
    return DialectTrial(
        reader, choice, fmean(scores[reader]), fmean(present), sum(score == 1 for score in absent), len(absent), seconds
    )


def _ask_boxes(mllm: MLLM, dialect: Dialect, scene: ProbeScene) -> list[_Exchange]:
    drawn: list[ProbeObject | None] = [*scene.objects, None]
    questions = [dialect.ask_boxes(each.expression if each else scene.absent) for each in drawn]
    replies = validate_replies(mllm.name, questions, mllm.reply(scene.image, questions))
    return [(scene, *exchange) for exchange in zip(drawn, questions, replies, strict=True)]


def _score(dialect: Dialect, scene: ProbeScene, drawn: ProbeObject | None, question: Question, reply: Reply) -> float:
    """Return the IoU of the first box that the dialect reads with the true one, in [0, 1]."""
    try:
        boxes = dialect.parse_boxes(question, reply, scene.size)
    except ReplyError:
        return 0.0
    if drawn is None:
        return 0.0 if boxes else 1.0
    return boxes[0].iou(drawn.box) if boxes else 0.0


# Points ---------------------------------------------------------------------------------------------------------------


def _measure_points(mllm: MLLM, dialect: Dialect) -> PointAccuracy | None:
    if not dialect.ask_points_text:
        return None
    right = count = with_probabilities = question_count = 0
    for scene in draw_probe_scenes():
        questions, labels = _list_point_questions(dialect, scene)
        replies = validate_replies(mllm.name, questions, mllm.reply(scene.image, questions))
        for question, reply, true_labels in zip(questions, replies, labels, strict=True):
            right += _count_right(dialect, question, reply, true_labels)
            with_probabilities += reply.label_probabilities is not None
        count += sum(map(len, labels))
        question_count += len(questions)
    return PointAccuracy(right, count, with_probabilities == question_count)


def _list_point_questions(dialect: Dialect, scene: ProbeScene) -> tuple[list[Question], list[list[Label]]]:
    """Return the questions about the scene's points, as PQPP asks them, and the true labels for each question."""
    questions: list[Question] = []
    labels: list[list[Label]] = []
    for drawn in scene.objects:
        first, points = dialect.ask_boxes(drawn.expression), [point for point, _ in drawn.points]
        turns = (*first.turns, Turn("assistant", dialect.format_boxes([drawn.box], scene.size)))
        point_questions = dialect.ask_points(turns, drawn.box, points, scene.size)
        questions += point_questions
        true_labels: list[Label] = [label for _, label in drawn.points]
        if point_questions:
            labels += [[label] for label in true_labels] if len(point_questions) == len(points) else [true_labels]
    return questions, labels


def _count_right(dialect: Dialect, question: Question, reply: Reply, labels: Sequence[Label]) -> int:
    try:
        answers = dialect.parse_labels(question, reply)
    except ReplyError:
        return 0
    return sum(answer == label for (answer, _), label in zip(answers, labels, strict=False))
