"""What the adapter is taught: the dialogue of protocol/, run on true answers, and the additional questions of its dialect."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from recipes.embedded.curriculum import (
    HARDEST,
    draw_boxes_to_verify,
    encode_targets,
    find_region,
    measure_scene,
    rank_distractors,
    what_examples,
)
from recipes.embedded.packing import TrainingExample, build_example, encode_cell, encode_text
from recipes.embedded.patch_targets import encode_region
from recipes.embedded.point_placement import select_informative_points
from sam4mllm_tool.embedded.everyday import EverydayExpression, EverydayScene, sample_expressions
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, Exchange, Grid, PoissonDisk, TrueObject, build_true_dialogue
from sam4mllm_tool.types import Box, Size


def dialogue_examples(scene: EverydayScene, rng: Random) -> Iterator[TrainingExample]:
    """Yield PQPP and PPG as protocol/ leads them, and the additional questions: is it meant, what else is, what is there."""
    size = measure_scene(scene)
    yield from [example for example in what_examples(scene, rng, size) if len(example.image_targets) == 3][:2]
    for number, expression in enumerate(sample_expressions(scene, 8, rng, twice=HARDEST)):
        if number < 4:
            yield from _pqpp_examples(scene, expression, rng, size)
        if number == 7:
            yield _ppg_example(scene, expression, size)
        if number < 5:
            yield from _verification_examples(scene, expression, rng, size)
        if number < 2 or expression.kind in ("plural", "count"):
            yield _other_example(scene, expression, _choose_left_out(scene, expression, rng), size)


def _pqpp_examples(scene: EverydayScene, expression: EverydayExpression, rng: Random, size: Size) -> Iterator[TrainingExample]:
    truth = [TrueObject(scene.mask(i), scene.regions[i].box) for i in expression.targets]
    sampler = Grid() if rng.random() < 0.3 else PoissonDisk(seed=rng.getrandbits(30))
    dialogue = PQPP.start(expression.text, size, dialect=EMBEDDED, sampler=sampler)
    history = build_true_dialogue(dialogue, truth)
    dialogue = dialogue.answer([history[0].reply])
    targets = tuple({EMBEDDED.snap_box(scene.regions[i].box, size): i for i in reversed(expression.targets)}.values())[::-1]
    yield _mark_expression(_exchange_example(history[0], "boxes", encode_targets(scene, targets)), expression.text)
    points = [(point, target) for group, target in zip(dialogue.points, targets, strict=True) for point in group]
    exchanges = list(zip(history[1:], points, strict=True))
    for exchange, (point, target) in rng.sample(exchanges, min(7, len(exchanges))):
        example = _exchange_example(exchange, "points", (encode_cell(point, size),))
        yield replace(example, region=encode_region(target, len(scene.objects)))


def _ppg_example(scene: EverydayScene, expression: EverydayExpression, size: Size) -> TrainingExample:
    masks = [(scene.mask(i), scene.regions[i].box) for i in expression.targets]
    truth = [TrueObject(mask, box, select_informative_points(mask, box)) for mask, box in masks]
    return _exchange_example(build_true_dialogue(PPG.start(expression.text, size, dialect=EMBEDDED), truth)[0], "prompt")


def _mark_expression(example: TrainingExample, expression: str) -> TrainingExample:
    """Set the word span to the expression's words, which are the last before <assistant>."""
    end = example.answer_start - 1
    return replace(example, word_span=(end - len(encode_text(expression)), end))


def _verification_examples(
    scene: EverydayScene, expression: EverydayExpression, rng: Random, size: Size
) -> Iterator[TrainingExample]:
    """Yield the question whether a box is what is meant."""
    for box, is_meant in draw_boxes_to_verify(scene, expression, rng, size):
        question = EMBEDDED.ask_verification(expression.text, box, size)
        assert question is not None
        reply = EMBEDDED.format_labels([1 if is_meant else 0])
        example = build_example(question.turns, reply, "whether", (find_region(scene, box),))
        yield _mark_expression(example, expression.text)


def _choose_left_out(scene: EverydayScene, expression: EverydayExpression, rng: Random) -> list[int]:
    """Choose one region that nearly fits, or some of those that are meant."""
    wrong, targets = rank_distractors(scene, expression, rng), expression.targets
    if not targets or (wrong and rng.random() < (0.7 if len(targets) == 1 else 0.2)):
        return wrong[:1]
    kept = rng.sample(range(len(targets)), rng.randint(1, len(targets)))
    return [targets[i] for i in sorted(kept)]


def _other_example(
    scene: EverydayScene, expression: EverydayExpression, left_out: Sequence[int], size: Size
) -> TrainingExample:
    """Build the question what else is meant besides the regions that are left out."""
    remaining = [i for i in expression.targets if i not in left_out]
    question = EMBEDDED.ask_other_boxes(expression.text, _list_boxes(scene, left_out), size)
    assert question is not None
    reply = EMBEDDED.format_boxes(_list_boxes(scene, remaining), size)
    example = build_example(question.turns, reply, "other", encode_targets(scene, remaining))
    return _mark_expression(example, expression.text)


def _list_boxes(scene: EverydayScene, regions: Sequence[int]) -> list[Box]:
    return [scene.regions[i].box for i in regions]


def _exchange_example(exchange: Exchange, task: str, image_targets: tuple[int, ...] = ()) -> TrainingExample:
    return build_example(exchange.question.turns, exchange.reply.text, task, image_targets)
