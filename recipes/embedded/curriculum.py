"""What the language model is taught about a scene, as examples.

There are two curricula over the same scenes. The base MLLM learns the scenes in short commands of its own: locate, inside,
what, list, any, count. The adapter learns the dialogue of protocol/, by running that dialogue on true answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

import numpy as np
import numpy.typing as npt

from recipes.embedded.packing import BOX_LENGTH, PREFIX_LENGTH, TrainingExample, build_example, encode_cell, encode_text
from sam4mllm_tool.embedded.expressions import PLURALS, Expression, Kind, group_by_noun, sample_expressions
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, Scene
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, Exchange, Grid, PoissonDisk, TrueObject, build_true_dialogue
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Label, Mask, Point, PointPrompt, Size, Turn

HARDEST: tuple[Kind, ...] = ("ordinal", "relation", "absent")
"""The kinds that are learnt last, drawn twice as often as the others."""


# The base's curriculum ----------------------------------------------------------------------------------------------


def base_examples(scene: Scene, rng: Random) -> Iterator[TrainingExample]:
    """Yield examples in the base's own commands."""
    size = Size(*scene.instances.shape[::-1])
    if rng.random() < 0.3:
        yield _list_example(scene, size)
    yield from _what_examples(scene, rng, size)
    yield from _existence_examples(scene, rng)
    yield from _colour_examples(scene, rng, size)
    for expression in sample_expressions(scene, 6, rng, twice=HARDEST):
        yield _locate_example(scene, expression.text, expression.targets, size)
        if expression.targets:
            yield from _inside_examples(scene, expression, rng, size)


def _build_command(text: str, reply: str, task: str, image_targets: tuple[int, ...] = ()) -> TrainingExample:
    return build_example((Turn("user", text),), reply, task, image_targets)


def _list_example(scene: Scene, size: Size) -> TrainingExample:
    order = _sort_by_x(scene, range(len(scene.objects)))
    objects = (scene.objects[i] for i in order)
    listed = (f"{o.size} {o.colour} {o.shape} {EMBEDDED.encode_box(o.box, size)}" for o in objects)
    return _build_command("list", " ".join(listed), "list", tuple(i for i in order for _ in range(3 + BOX_LENGTH)))


def _inside_examples(scene: Scene, expression: Expression, rng: Random, size: Size) -> Iterator[TrainingExample]:
    target = expression.targets[rng.randrange(len(expression.targets))]
    box, mask = scene.objects[target].box, scene.mask(target)
    located = Turn("user", f"locate {expression.text}"), Turn("assistant", _format_boxes(scene, expression.targets, size))
    for point in _draw_points(box, rng, 8):
        point = EMBEDDED.snap_point(point, size)
        question = f"inside {EMBEDDED.encode_box(box, size)} {EMBEDDED.encode_point(point, size)}"
        reply = "inside" if label_point(mask, point) else "outside"
        yield build_example((*located, Turn("user", question)), reply, "inside", (encode_cell(point, size),))


def _format_boxes(scene: Scene, targets: Sequence[int], size: Size) -> str:
    return " ".join(EMBEDDED.encode_box(scene.objects[i].box, size) for i in targets) or "nothing"


def _locate_example(scene: Scene, expression: str, targets: Sequence[int], size: Size) -> TrainingExample:
    image_targets = tuple(i for i in targets for _ in range(BOX_LENGTH))
    example = _build_command(f"locate {expression}", _format_boxes(scene, targets, size), "locate", image_targets)
    return replace(example, word_span=(PREFIX_LENGTH + 2, example.answer_start - 1))  # between <user> locate and <assistant>


def _colour_examples(scene: Scene, rng: Random, size: Size) -> Iterator[TrainingExample]:
    """Yield expressions by colour alone: in most others the shape is enough, so that colour would be learnt last."""
    colours = sorted({o.colour for o in scene.objects})
    for colour in rng.sample(colours, k=min(2, len(colours))):
        targets = _sort_by_x(scene, [i for i, o in enumerate(scene.objects) if o.colour == colour])
        yield _locate_example(scene, _describe_colour(colour, len(targets)), targets[:4], size)


def _describe_colour(colour: str, count: int) -> str:
    return f"the {colour} shape" if count == 1 else f"all {colour} shapes"


def _sort_by_x(scene: Scene, indices: Sequence[int]) -> list[int]:
    return sorted(indices, key=lambda i: scene.objects[i].centre[0])


def _draw_points(box: tuple[float, float, float, float], rng: Random, count: int) -> list[Point]:
    x1, y1, x2, y2 = box
    return [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(count)]


def _what_examples(scene: Scene, rng: Random, size: Size) -> Iterator[TrainingExample]:
    whole_image = (0.0, 0.0, float(size.width), float(size.height))
    for _ in range(4):
        box = rng.choice(scene.objects).box if rng.random() < 0.7 else whole_image
        point = EMBEDDED.snap_point(_draw_points(box, rng, 1)[0], size)
        instance = int(scene.instances[int(point.y), int(point.x)])
        shape = scene.objects[instance - 1]
        reply = f"{shape.size} {shape.colour} {shape.shape}" if instance else "ground"
        yield _build_command(f"what is at {EMBEDDED.encode_point(point, size)}", reply, "what", (encode_cell(point, size),) * 3)


def _existence_examples(scene: Scene, rng: Random) -> Iterator[TrainingExample]:
    for task in ("any", "any", "count"):
        object_ = rng.choice(scene.objects)
        colour = rng.choice((object_.colour, object_.colour, rng.choice(list(COLOURS))))
        shape = rng.choice((object_.shape, object_.shape, rng.choice(SHAPES)))
        noun, plural, colour, shape = rng.choice(
            (
                (f"{colour} {shape}", f"{colour} {PLURALS[shape]}", colour, shape),
                (shape, PLURALS[shape], "", shape),
                (f"{colour} shape", f"{colour} shapes", colour, ""),
            )
        )
        count = sum(colour in ("", o.colour) and shape in ("", o.shape) for o in scene.objects)
        if task == "any":
            yield _build_command(f"is there any {noun} ?", "yes" if count else "no", task)
        else:
            yield _build_command(f"count the {plural}", f"{count:03d}", task)


# The adapter's curriculum -------------------------------------------------------------------------------------------


def dialogue_examples(scene: Scene, rng: Random) -> Iterator[TrainingExample]:
    """Yield PQPP and PPG as protocol/ leads them, and the additional questions: is it meant, what else is, what is there."""
    size = Size(*scene.instances.shape[::-1])
    yield from list(_what_examples(scene, rng, size))[:3]
    for number, expression in enumerate(sample_expressions(scene, 7, rng, twice=HARDEST)):
        if number < 3:
            yield from _pqpp_examples(scene, expression, rng, size)
        if number == 6:
            yield _ppg_example(scene, expression, size)
        if number < 5:
            yield from _verification_examples(scene, expression, rng, size)
        if number < 2 or expression.kind == "plural":
            left_out = _choose_left_out(scene, expression.targets, rng)
            yield _other_example(scene, expression.text, expression.targets, left_out, size)
    colour = rng.choice(sorted({o.colour for o in scene.objects}))
    targets = tuple(i for i, o in enumerate(scene.objects) if o.colour == colour)
    by_colour = Expression(_describe_colour(colour, len(targets)), "plural", targets)  # see `_colour_examples`
    yield from _verification_examples(scene, by_colour, rng, size)
    noun, members = rng.choice(sorted(group_by_noun(scene.objects).items()))
    if len(members) in (2, 3):
        members = _sort_by_x(scene, members)
        yield _other_example(scene, f"the {noun}", members, [rng.choice(members)], size)


def _pqpp_examples(scene: Scene, expression: Expression, rng: Random, size: Size) -> Iterator[TrainingExample]:
    truth = [TrueObject(scene.mask(i), scene.objects[i].box) for i in expression.targets]
    sampler = Grid() if rng.random() < 0.3 else PoissonDisk(seed=rng.getrandbits(30))
    dialogue = PQPP.start(expression.text, size, dialect=EMBEDDED, sampler=sampler)
    history = build_true_dialogue(dialogue, truth)
    dialogue = dialogue.answer([history[0].reply])
    boxes = _exchange_example(history[0], "boxes", tuple(i for i in expression.targets for _ in range(BOX_LENGTH)))
    yield _mark_expression(boxes, expression.text)
    points = [point for group in dialogue.points for point in group]
    exchanges = list(zip(history[1:], points, strict=True))
    for exchange, point in rng.sample(exchanges, min(6, len(exchanges))):
        yield _exchange_example(exchange, "points", (encode_cell(point, size),))


def _ppg_example(scene: Scene, expression: Expression, size: Size) -> TrainingExample:
    masks = [(scene.mask(i), scene.objects[i].box) for i in expression.targets]
    truth = [TrueObject(mask, box, select_informative_points(mask, box)) for mask, box in masks]
    return _exchange_example(build_true_dialogue(PPG.start(expression.text, size, dialect=EMBEDDED), truth)[0], "prompt")


def _mark_expression(example: TrainingExample, expression: str) -> TrainingExample:
    """Set the word span to the expression's words, which are the last before <assistant>."""
    end = example.answer_start - 1
    return replace(example, word_span=(end - len(encode_text(expression)), end))


def _sort_by_similarity(scene: Scene, targets: Sequence[int], rng: Random) -> list[int]:
    """Return all objects, those that share a colour or a shape with a target mostly first."""
    meant = [scene.objects[i] for i in targets]
    weights = {
        i: rng.random() + any((o.colour == target.colour) + (o.shape == target.shape) for target in meant)
        for i, o in enumerate(scene.objects)
    }
    return sorted(weights, key=lambda i: -weights[i])


def _verification_examples(scene: Scene, expression: Expression, rng: Random, size: Size) -> Iterator[TrainingExample]:
    """Yield the question whether a box is what is meant, for one target and for some similar objects."""
    wrong = [i for i in _sort_by_similarity(scene, expression.targets, rng) if i not in expression.targets]
    for index in [*rng.sample(expression.targets, min(1, len(expression.targets))), *wrong[: rng.choice((1, 2, 2))]]:
        box = scene.objects[index].box
        if rng.random() < 0.3:
            box = _jitter(box, rng, size)
        question = EMBEDDED.ask_verification(expression.text, box, size)
        assert question is not None
        reply = EMBEDDED.format_labels([1 if index in expression.targets else 0])
        yield _mark_expression(build_example(question.turns, reply, "whether", (index,)), expression.text)


def _jitter(box: Box, rng: Random, size: Size) -> Box:
    dx, dy = 0.08 * box.width, 0.08 * box.height
    x1, y1, x2, y2 = box
    return Box(x1 + rng.gauss(0, dx), y1 + rng.gauss(0, dy), x2 + rng.gauss(0, dx), y2 + rng.gauss(0, dy)).clip(size)


def _choose_left_out(scene: Scene, targets: Sequence[int], rng: Random) -> list[int]:
    """Choose one similar object that is not meant, or some of those that are."""
    wrong = [i for i in _sort_by_similarity(scene, targets, rng) if i not in targets]
    if (wrong and rng.random() < (0.7 if len(targets) == 1 else 0.2)) or not targets:
        return wrong[:1]
    return _sort_by_x(scene, rng.sample(targets, rng.randint(1, len(targets))))


def _other_example(scene: Scene, text: str, targets: Sequence[int], left_out: Sequence[int], size: Size) -> TrainingExample:
    """Build the question what else is meant besides the objects that are left out."""
    remaining = [i for i in targets if i not in left_out]
    question = EMBEDDED.ask_other_boxes(text, [scene.objects[i].box for i in left_out], size)
    assert question is not None
    reply = EMBEDDED.format_boxes([scene.objects[i].box for i in remaining], size)
    image_targets = tuple(i for i in remaining for _ in range(BOX_LENGTH))
    return _mark_expression(build_example(question.turns, reply, "other", image_targets), text)


def _exchange_example(exchange: Exchange, task: str, image_targets: tuple[int, ...] = ()) -> TrainingExample:
    return build_example(exchange.question.turns, exchange.reply.text, task, image_targets)


# Points -------------------------------------------------------------------------------------------------------------


def select_informative_points(mask: Mask, box: Box) -> tuple[PointPrompt, ...]:
    """Select two points deep inside the object and far from each other, and one deep in the rest of the box."""
    x1, y1, x2, y2 = map(int, box)
    inside = mask[y1:y2, x1:x2]
    if inside.all():  # nothing else in the box: look just outside it
        y1, y2, x1, x2 = max(0, y1 - 2), y2 + 2, max(0, x1 - 2), x2 + 2
        inside = mask[y1:y2, x1:x2]
    on, off = compute_depth(inside), compute_depth(~inside)
    first = np.unravel_index(on.argmax(), on.shape)
    ys, xs = np.nonzero(on >= 0.6 * on.max())
    far = ((ys - first[0]) ** 2 + (xs - first[1]) ** 2).argmax()
    last = np.unravel_index(off.argmax(), off.shape)
    points: list[tuple[int, int, Label]] = [
        (int(first[1]), int(first[0]), 1),
        (int(xs[far]), int(ys[far]), 1),
        (int(last[1]), int(last[0]), 0),
    ]
    return tuple(PointPrompt(x1 + x + 0.5, y1 + y + 0.5, label) for x, y, label in points)


def compute_depth(mask: Mask) -> npt.NDArray[np.int64]:
    """Count the erosions that each pixel of the mask survives; pixels outside the array count as the mask's own."""
    remaining, depth = mask.copy(), mask.astype(np.int64)
    while remaining.any():
        padded = np.pad(remaining, 1, mode="edge")
        remaining = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & remaining
        if remaining.all():
            break
        depth += remaining
    return depth
