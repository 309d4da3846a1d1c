"""Build the replies of a perfect model from true masks. Training dialogues come from here, by running the dialogue itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from sam4mllm_tool.protocol.dialogues import PPG, PQPP, BoxOnly
from sam4mllm_tool.protocol.exchanges import Exchange
from sam4mllm_tool.types import Box, Label, Labels, Mask, ObjectPrompt, Point, PointPrompt, Reply

__all__ = ["TrueObject", "build_true_dialogue", "build_true_replies", "label_point"]


@dataclass(frozen=True, eq=False)
class TrueObject:
    """An annotated object.

    Args:
        mask: (H, W) bool on the image.
        box: Its box, in pixels.
        points: The points that PPG is taught to write; other dialogues don't need them.
    """

    mask: Mask
    box: Box
    points: tuple[PointPrompt, ...] = ()


def label_point(mask: Mask, point: Point) -> Label:
    """Return 1 if the pixel under the point is in the (H, W) mask, else 0; points outside count as the nearest pixel."""
    height, width = mask.shape
    return 1 if mask[max(0, min(height - 1, int(point.y))), max(0, min(width - 1, int(point.x)))] else 0


def build_true_replies(dialogue: BoxOnly | PPG | PQPP, objects: Sequence[TrueObject]) -> list[Reply]:
    """Return the perfect reply to each pending question.

    Args:
        dialogue: Any state of a dialogue.
        objects: In the order in which they are to be named. Objects whose boxes are written with the same numbers can't be
            told apart by their boxes, so PQPP and BoxOnly name them as one.
    """
    if isinstance(dialogue, PPG):
        prompts = [ObjectPrompt(annotated.box, annotated.points) for annotated in objects]
        return [Reply(dialogue.dialect.format_prompts(prompts, dialogue.size))]
    objects = _merge_equal_boxes(dialogue, objects)
    if isinstance(dialogue, PQPP) and dialogue.boxes is not None:
        return _build_label_replies(dialogue, objects)
    boxes = [annotated.box for annotated in objects]
    return [Reply(dialogue.dialect.format_boxes(boxes, dialogue.size))] if dialogue.pending else []


def build_true_dialogue(dialogue: BoxOnly | PPG | PQPP, objects: Sequence[TrueObject]) -> tuple[Exchange, ...]:
    """Return every question of the dialogue with its perfect reply."""
    while dialogue.pending:
        dialogue = dialogue.answer(build_true_replies(dialogue, objects))
    return dialogue.history


def _build_label_replies(dialogue: PQPP, objects: Sequence[TrueObject]) -> list[Reply]:
    groups = zip(objects, dialogue.points, strict=True)
    labels = (label_point(annotated.mask, point) for annotated, points in groups for point in points)
    counts = (question.answer.count for question in dialogue.pending if isinstance(question.answer, Labels))
    return [Reply(dialogue.dialect.format_labels([next(labels) for _ in range(count)])) for count in counts]


def _merge_equal_boxes(dialogue: BoxOnly | PQPP, objects: Sequence[TrueObject]) -> Sequence[TrueObject]:
    by_box: dict[Box, TrueObject] = {}
    for annotated in objects:
        box = dialogue.dialect.snap_box(annotated.box, dialogue.size)
        known = by_box.get(box)
        by_box[box] = TrueObject(known.mask | annotated.mask, known.box) if known else annotated
    return tuple(by_box.values())
