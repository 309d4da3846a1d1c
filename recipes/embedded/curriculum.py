"""What the base language model is taught about a scene, as examples in short commands of its own.

The commands are locate, inside, match, what, part, list, parts, is there, count. The adapter's curriculum is in
dialogue_curriculum.py, over the same scenes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from recipes.embedded.packing import BOX_LENGTH, PREFIX_LENGTH, TrainingExample, build_example, encode_cell
from recipes.embedded.patch_targets import encode_region
from sam4mllm_tool.embedded.everyday import (
    EverydayExpression,
    EverydayKind,
    EverydayObject,
    EverydayScene,
    sample_expressions,
)
from sam4mllm_tool.embedded.everyday.expression_templates import split_words
from sam4mllm_tool.embedded.everyday.noun_phrases import list_noun_phrases
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Point, Size, Turn

HARDEST: tuple[EverydayKind, ...] = ("attribute", "ordinal", "relation", "part", "part_whole")
"""The kinds that are drawn twice as often as the others: those that are learnt last, and "the red mug", of which absent kinds
would else bring more than there are, so that it would be answered by "nothing"."""
_UNDECIDABLE = 0.6  # box IoU from which a region's box doesn't tell it from another


def base_examples(scene: EverydayScene, rng: Random) -> Iterator[TrainingExample]:
    """Yield examples in the base's own commands."""
    size = measure_scene(scene)
    if rng.random() < 0.3:
        yield _list_example(scene, size)
    yield from _parts_examples(scene, rng, size)
    yield from what_examples(scene, rng, size)
    yield from _count_examples(scene, rng)
    for number, expression in enumerate(sample_expressions(scene, 16, rng, twice=HARDEST)):
        yield _locate_example(scene, expression, size)
        if expression.targets and number < 4:
            yield from _inside_examples(scene, expression, rng, size)
        if number < 4:
            for box, is_meant in draw_boxes_to_verify(scene, expression, rng, size):
                yield _match_example(scene, expression, (box, is_meant), size)
        elif number < 6:
            yield build_command(f"is there {expression.text} ?", "yes" if expression.targets else "no", "any")


def measure_scene(scene: EverydayScene) -> Size:
    """Return the scene's size."""
    return Size(*scene.instances.shape[::-1])


def build_command(text: str, reply: str, task: str, image_targets: tuple[int, ...] = ()) -> TrainingExample:
    """Build an example of one question without history."""
    return build_example((Turn("user", text),), reply, task, image_targets)


def encode_targets(scene: EverydayScene, targets: Sequence[int]) -> tuple[int, ...]:
    """Return the image targets of the tokens of some regions' boxes."""
    return tuple(encode_region(i, len(scene.objects)) for i in targets for _ in range(BOX_LENGTH))


def _name_object(obj: EverydayObject) -> str:
    return f"{obj.colour} {obj.noun}" if obj.pattern == "plain" else f"{obj.pattern} {obj.colour} {obj.noun}"


def _list_example(scene: EverydayScene, size: Size) -> TrainingExample:
    order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].centre[0])
    texts = [f"{_name_object(scene.objects[i])} {EMBEDDED.encode_box(scene.objects[i].box, size)}" for i in order]
    owners = tuple(i for i, text in zip(order, texts, strict=True) for _ in split_words(text))
    return build_command("list", " ".join(texts), "list", owners)


def _parts_examples(scene: EverydayScene, rng: Random, size: Size) -> Iterator[TrainingExample]:
    """Yield the parts of one object, with their boxes, if it has any."""
    owner = rng.randrange(len(scene.objects))
    parts = [i for i, part in enumerate(scene.object_parts) if part.owner == owner]
    parts = sorted(parts, key=lambda i: scene.object_parts[i].centre[0])[:7]
    if parts:
        texts = [f"{scene.object_parts[i].name} {EMBEDDED.encode_box(scene.object_parts[i].box, size)}" for i in parts]
        targets = tuple(encode_region(len(scene.objects) + i, len(scene.objects)) for i in parts for _ in range(1 + BOX_LENGTH))
        question = f"list parts of {EMBEDDED.encode_box(scene.objects[owner].box, size)}"
        yield build_command(question, " ".join(texts), "parts", targets)


def _inside_examples(
    scene: EverydayScene, expression: EverydayExpression, rng: Random, size: Size
) -> Iterator[TrainingExample]:
    target = expression.targets[rng.randrange(len(expression.targets))]
    box, mask = scene.regions[target].box, scene.mask(target)
    located = Turn("user", f"locate {expression.text}"), Turn("assistant", format_boxes(scene, expression.targets, size))
    for point in draw_points(box, rng, 5):
        point = EMBEDDED.snap_point(point, size)
        question = f"inside {EMBEDDED.encode_box(box, size)} {EMBEDDED.encode_point(point, size)}"
        reply = "inside" if label_point(mask, point) else "outside"
        example = build_example((*located, Turn("user", question)), reply, "inside", (encode_cell(point, size),))
        yield replace(example, region=encode_region(target, len(scene.objects)))


def format_boxes(scene: EverydayScene, targets: Sequence[int], size: Size) -> str:
    """Write the boxes of some regions, or "nothing"."""
    return " ".join(EMBEDDED.encode_box(scene.regions[i].box, size) for i in targets) or "nothing"


def _locate_example(scene: EverydayScene, expression: EverydayExpression, size: Size) -> TrainingExample:
    targets = encode_targets(scene, expression.targets)
    example = build_command(f"locate {expression.text}", format_boxes(scene, expression.targets, size), "locate", targets)
    return replace(example, word_span=(PREFIX_LENGTH + 2, example.answer_start - 1))  # between <user> locate and <assistant>


def _match_example(
    scene: EverydayScene, expression: EverydayExpression, candidate: tuple[Box, bool], size: Size
) -> TrainingExample:
    """Build the question whether a box is what an expression means."""
    box, is_meant = candidate
    question = f"match {EMBEDDED.encode_box(box, size)} {expression.text}"
    example = build_command(question, "yes" if is_meant else "no", "match", (find_region(scene, box),))
    return replace(example, word_span=(PREFIX_LENGTH + 2 + BOX_LENGTH, example.answer_start - 1))


def find_region(scene: EverydayScene, box: Box) -> int:
    """Return the image target of the region whose box is most like a box."""
    index = max(range(len(scene.regions)), key=lambda i: box.iou(scene.regions[i].box))
    return encode_region(index, len(scene.objects))


def draw_boxes_to_verify(
    scene: EverydayScene, expression: EverydayExpression, rng: Random, size: Size
) -> Iterator[tuple[Box, bool]]:
    """Yield one box that is meant and one or two that are not: of regions that nearly fit, or displaced ones."""
    targets = [scene.regions[i].box for i in expression.targets]
    if targets:
        yield _shift(rng.choice(targets), rng, size, 0.04 if rng.random() < 0.5 else 0.0), True
    if targets and rng.random() < 0.2:
        displaced = _shift(rng.choice(targets), rng, size, 0.5)
        if max(displaced.iou(box) for box in targets) < 0.35:
            yield displaced, False
    for index in rank_distractors(scene, expression, rng)[: rng.choice((1, 1, 2))]:
        yield _shift(scene.regions[index].box, rng, size, 0.04 if rng.random() < 0.3 else 0.0), False


def rank_distractors(scene: EverydayScene, expression: EverydayExpression, rng: Random) -> list[int]:
    """Return the regions that are not meant, those that the expression names in part mostly first.

    Regions with about the same box as one that is meant are left out: the box is right for both.
    """
    words, targets = set(split_words(expression.text)), [scene.regions[i].box for i in expression.targets]
    scores: dict[int, float] = {}
    for index, region in enumerate(scene.regions):
        if index not in expression.targets and all(region.box.iou(box) < _UNDECIDABLE for box in targets):
            obj = region if isinstance(region, EverydayObject) else scene.objects[region.owner]
            named = {obj.colour, obj.noun.split()[-1]} if obj is region else {getattr(region, "name", ""), obj.noun.split()[-1]}
            scores[index] = rng.random() + len(named & words)
    return sorted(scores, key=lambda i: -scores[i])


def _shift(box: Box, rng: Random, size: Size, share: float) -> Box:
    """Move every edge by a normally distributed share of the box's sides."""
    dx, dy = share * box.width, share * box.height
    x1, x2 = sorted((box.x1 + rng.gauss(0, dx), box.x2 + rng.gauss(0, dx)))
    y1, y2 = sorted((box.y1 + rng.gauss(0, dy), box.y2 + rng.gauss(0, dy)))
    return Box(x1, y1, x2, y2).clip(size)


def draw_points(box: Box, rng: Random, count: int) -> list[Point]:
    """Draw points uniformly in a box."""
    return [Point(rng.uniform(box.x1, box.x2), rng.uniform(box.y1, box.y2)) for _ in range(count)]


def what_examples(scene: EverydayScene, rng: Random, size: Size) -> Iterator[TrainingExample]:
    """Yield what is at a point: the object, and which part of it."""
    whole_image = Box(0, 0, size.width, size.height)
    numbers = {part.number: part.name for part in scene.object_parts}
    for task in ("what", "what", "what", "part", "part"):
        box = rng.choice(scene.objects).box if rng.random() < 0.8 else whole_image
        point = EMBEDDED.snap_point(draw_points(box, rng, 1)[0], size)
        row, column = int(point.y), int(point.x)
        instance, part = int(scene.instances[row, column]), numbers.get(int(scene.parts[row, column]))
        at, cell = EMBEDDED.encode_point(point, size), encode_cell(point, size)
        if task == "what":
            yield build_command(
                f"what is at {at}", _name_object(scene.objects[instance - 1]) if instance else "ground", task, (cell,) * 3
            )
        elif part or not instance:
            yield build_command(f"what part is at {at}", part or "ground", "what", (cell,))


def _count_examples(scene: EverydayScene, rng: Random) -> Iterator[TrainingExample]:
    phrases = [phrase for phrase in list_noun_phrases(scene.objects) if phrase.is_clear]
    for phrase in rng.sample(phrases, min(1, len(phrases))):
        yield build_command(f"count the {phrase.plural}", f"{len(phrase.members):03d}", "count")
