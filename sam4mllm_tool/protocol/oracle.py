"""The answers a perfect model would give: what training dialogues are made of, by running the dialogue itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from sam4mllm_tool.protocol.dialogues import PPG, PQPP, BoxOnly, Exchange
from sam4mllm_tool.types import Box, Label, Labels, Mask, ObjectPrompt, Point, PointPrompt, Reply


@dataclass(frozen=True, eq=False)
class TrueObject:
    """An object as annotated. points: what PPG is taught to write; not needed for the other dialogues."""

    mask: Mask
    box: Box
    points: tuple[PointPrompt, ...] = ()


def label_at(mask: Mask, point: Point) -> Label:
    """1 if the pixel that the point falls in is on the mask, else 0; points outside count as the nearest pixel."""
    height, width = mask.shape
    return 1 if mask[max(0, min(height - 1, int(point.y))), max(0, min(width - 1, int(point.x)))] else 0


def true_replies(dialogue: BoxOnly | PPG | PQPP, objects: Sequence[TrueObject]) -> list[Reply]:
    """The perfect reply to each pending question; objects in the order in which they are to be named.

    Objects whose boxes are written alike can't be told apart by their boxes: PQPP and BoxOnly name them as one.
    """
    if isinstance(dialogue, PPG):
        prompts = [ObjectPrompt(thing.box, thing.points) for thing in objects]
        return [Reply(dialogue.dialect.tell_prompt(prompts, dialogue.size))]
    objects = _told_apart(dialogue, objects)
    if dialogue.boxes is None:
        return [Reply(dialogue.dialect.tell_boxes([thing.box for thing in objects], dialogue.size))]
    if isinstance(dialogue, BoxOnly):
        return []
    labels = (label_at(thing.mask, point) for thing, points in zip(objects, dialogue.points, strict=True) for point in points)
    counts = (question.answer.count for question in dialogue.pending if isinstance(question.answer, Labels))
    return [Reply(dialogue.dialect.tell_labels([next(labels) for _ in range(count)])) for count in counts]


def _told_apart(dialogue: BoxOnly | PQPP, objects: Sequence[TrueObject]) -> Sequence[TrueObject]:
    by_box: dict[Box, TrueObject] = {}
    for thing in objects:
        box = dialogue.dialect.snap_box(thing.box, dialogue.size)
        known = by_box.get(box)
        by_box[box] = TrueObject(known.mask | thing.mask, known.box) if known else thing
    return tuple(by_box.values())


def true_dialogue(dialogue: BoxOnly | PPG | PQPP, objects: Sequence[TrueObject]) -> tuple[Exchange, ...]:
    """Every question of the dialogue with its perfect reply."""
    while dialogue.pending:
        dialogue = dialogue.answer(true_replies(dialogue, objects))
    return dialogue.history
