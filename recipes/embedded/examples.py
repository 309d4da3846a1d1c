"""What the language model is taught, as token sequences with their answers marked.

Two curricula over the same scenes. The base MLLM learns the world in words of its own: locate, inside, what, list, any,
count. The adapter learns the dialogue of protocol/, by running that dialogue on true answers. Both pack sequences that
begin alike into tries (mllm/packing.py), so that every shared turn is computed once and no answer can be copied from a
neighbouring one.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import numpy.typing as npt

from recipes.embedded.architecture import CELLS, GRID, vocabulary
from sam4mllm_tool.embedded.expressions import PLURALS, Expression, Kind, noun_groups, sample_expressions
from sam4mllm_tool.embedded.scenes import COLOURS, SHAPES, Scene
from sam4mllm_tool.models.mllm.prefix_tree import PrefixTree, build_prefix_tree
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, Exchange, Grid, PoissonDisk, TrueObject, build_true_dialogue
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Label, Mask, Point, PointPrompt, Size, Turn

_IDS = {word: i for i, word in enumerate(vocabulary())}
_PIECES = re.compile(r"<\w+>|</s>|\w+|[^\w\s]")
_PICTURE = [_IDS["<s>"], *[_IDS["<image>"]] * GRID**2]
PICTURE = len(_PICTURE)
"""How many tokens every example begins with."""
_OPEN = _IDS["["]
_BOX = 6
"""Tokens of a written box."""
HARDEST: tuple[Kind, ...] = ("ordinal", "relation", "absent")
"""The kinds learnt last, drawn twice as often as the others."""
TASKS = ("locate", "inside", "what", "list", "any", "count", "boxes", "points", "prompt", "whether", "other")


@dataclass(frozen=True)
class Example:
    """Tokens, of which those from `answer` on are supervised.

    looks: for each of the first of those, where in the picture its answer is to be seen: the number of an object, or
    `at_cell`; NOWHERE, also for those that looks does not reach. reads: from where to where in ids the words stand that
    decide which object is meant.
    """

    ids: list[int]
    answer: int
    task: str
    looks: tuple[int, ...] = ()
    reads: tuple[int, int] = (0, 0)


NOWHERE = -1


def at_cell(point: Point, size: Size) -> int:
    """The cell of all patches' cells that a point falls in, as a look: -2 for the first, -3 for the second, row by row."""
    side_in_cells = GRID * CELLS
    column, row = (min(side_in_cells - 1, int(v * side_in_cells / side)) for v, side in zip(point, size, strict=True))
    return -2 - (row * side_in_cells + column)


def encode(text: str) -> list[int]:
    """As the tokenizer of architecture.py encodes; a test holds the two together."""
    return [_IDS.get(piece, _IDS["<unk>"]) for piece in _PIECES.findall(text.lower())]


def example(turns: Sequence[Turn], reply: str, task: str, looks: tuple[int, ...] = ()) -> Example:
    """A conversation about the picture and its last reply, as the chat template lays it out."""
    ids = list(_PICTURE)
    for turn in turns:
        ids += [_IDS[f"<{turn.role}>"], *encode(turn.text)]
        if turn.role == "assistant":
            ids.append(_IDS["</s>"])
    ids.append(_IDS["<assistant>"])
    return Example([*ids, *encode(reply), _IDS["</s>"]], len(ids), task, looks)


def _ask(text: str, reply: str, task: str, looks: tuple[int, ...] = ()) -> Example:
    return example((Turn("user", text),), reply, task, looks)


# The base's curriculum ----------------------------------------------------------------------------------------------


def base_examples(scene: Scene, rng: Random) -> Iterator[Example]:
    """The world in its own words."""
    size = Size(*scene.instances.shape[::-1])
    if rng.random() < 0.3:
        order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].centre[0])
        inventory = (scene.objects[i] for i in order)
        listed = (f"{o.size} {o.colour} {o.shape} {EMBEDDED.encode_box(o.box, size)}" for o in inventory)
        yield _ask("list", " ".join(listed), "list", tuple(i for i in order for _ in range(3 + _BOX)))
    yield from _what(scene, rng, size)
    yield from _existence(scene, rng)
    yield from _by_colour(scene, rng, size)
    for expression in sample_expressions(scene, 6, rng, twice=HARDEST):
        boxes = [scene.objects[i].box for i in expression.targets]
        located = _locate(scene, expression.text, expression.targets, size)
        question, told = f"locate {expression.text}", _written(scene, expression.targets, size)
        yield located
        if not boxes:
            continue
        chosen = rng.randrange(len(boxes))
        written, mask = EMBEDDED.encode_box(boxes[chosen], size), scene.mask(expression.targets[chosen])
        for point in _points_in(boxes[chosen], rng, 8):
            point = EMBEDDED.snap_point(point, size)
            turns = (
                Turn("user", question),
                Turn("assistant", told),
                Turn("user", f"inside {written} {EMBEDDED.encode_point(point, size)}"),
            )
            yield example(turns, "inside" if label_point(mask, point) else "outside", "inside", (at_cell(point, size),))


def _written(scene: Scene, targets: Sequence[int], size: Size) -> str:
    return " ".join(EMBEDDED.encode_box(scene.objects[i].box, size) for i in targets) or "nothing"


def _locate(scene: Scene, expression: str, targets: Sequence[int], size: Size) -> Example:
    looks = tuple(i for i in targets for _ in range(_BOX))
    located = _ask(f"locate {expression}", _written(scene, targets, size), "locate", looks)
    return replace(located, reads=(PICTURE + 2, located.answer - 1))  # between <user> locate and <assistant>


def _by_colour(scene: Scene, rng: Random, size: Size) -> Iterator[Example]:
    """Colour alone, which in most expressions the shape makes needless, and which is learnt last without these."""
    for colour in rng.sample(sorted({o.colour for o in scene.objects}), k=min(2, len({o.colour for o in scene.objects}))):
        targets = [i for i, o in enumerate(scene.objects) if o.colour == colour]
        targets.sort(key=lambda i: scene.objects[i].centre[0])
        yield _locate(scene, f"the {colour} shape" if len(targets) == 1 else f"all {colour} shapes", targets[:4], size)


def _points_in(box: tuple[float, float, float, float], rng: Random, count: int) -> list[Point]:
    x1, y1, x2, y2 = box
    return [Point(rng.uniform(x1, x2), rng.uniform(y1, y2)) for _ in range(count)]


def _what(scene: Scene, rng: Random, size: Size) -> Iterator[Example]:
    everywhere = (0.0, 0.0, float(size.width), float(size.height))
    for _ in range(4):
        box = rng.choice(scene.objects).box if rng.random() < 0.7 else everywhere
        point = EMBEDDED.snap_point(_points_in(box, rng, 1)[0], size)
        on = int(scene.instances[int(point.y), int(point.x)])
        thing = scene.objects[on - 1]
        told = f"{thing.size} {thing.colour} {thing.shape}" if on else "ground"
        yield _ask(f"what is at {EMBEDDED.encode_point(point, size)}", told, "what", (at_cell(point, size),) * 3)


def _existence(scene: Scene, rng: Random) -> Iterator[Example]:
    for task in ("any", "any", "count"):
        thing = rng.choice(scene.objects)
        colour = rng.choice((thing.colour, thing.colour, rng.choice(list(COLOURS))))
        shape = rng.choice((thing.shape, thing.shape, rng.choice(SHAPES)))
        noun, many, hits = rng.choice(
            (
                (
                    f"{colour} {shape}",
                    f"{colour} {PLURALS[shape]}",
                    [o for o in scene.objects if (o.colour, o.shape) == (colour, shape)],
                ),
                (shape, PLURALS[shape], [o for o in scene.objects if o.shape == shape]),
                (f"{colour} shape", f"{colour} shapes", [o for o in scene.objects if o.colour == colour]),
            )
        )
        if task == "any":
            yield _ask(f"is there any {noun} ?", "yes" if hits else "no", task)
        else:
            yield _ask(f"count the {many}", f"{len(hits):03d}", task)


# The adapter's curriculum -------------------------------------------------------------------------------------------


def dialogue_examples(scene: Scene, rng: Random) -> Iterator[Example]:
    """PQPP and PPG as protocol/ leads them, and what is asked beside: for another, whether it is meant, what is there."""
    size = Size(*scene.instances.shape[::-1])
    yield from list(_what(scene, rng, size))[:3]
    for number, expression in enumerate(sample_expressions(scene, 7, rng, twice=HARDEST)):
        if number < 3:
            yield from _two_rounds(scene, expression, rng, size)
        if number == 6:
            truth = [_with_points(scene, i) for i in expression.targets]
            history = build_true_dialogue(PPG.start(expression.text, size, dialect=EMBEDDED), truth)
            yield _exchange(history[0], "prompt")
        if number < 5:
            yield from _whether(scene, expression, rng, size)
        if number < 2 or expression.kind == "plural":
            yield _other(scene, expression.text, expression.targets, _left_out(scene, expression.targets, rng), size)
    colour = rng.choice(sorted({thing.colour for thing in scene.objects}))
    targets = tuple(i for i, thing in enumerate(scene.objects) if thing.colour == colour)
    text = f"the {colour} shape" if len(targets) == 1 else f"all {colour} shapes"  # colour alone is learnt last
    yield from _whether(scene, Expression(text, "plural", targets), rng, size)
    noun, members = rng.choice(sorted(noun_groups(scene.objects).items()))
    if len(members) in (2, 3):
        members = sorted(members, key=lambda i: scene.objects[i].centre[0])
        yield _other(scene, f"the {noun}", members, [rng.choice(members)], size)


def _two_rounds(scene: Scene, expression: Expression, rng: Random, size: Size) -> Iterator[Example]:
    truth = [TrueObject(scene.mask(i), scene.objects[i].box) for i in expression.targets]
    sampler = Grid() if rng.random() < 0.3 else PoissonDisk(seed=rng.getrandbits(30))
    dialogue = PQPP.start(expression.text, size, dialect=EMBEDDED, sampler=sampler)
    history = build_true_dialogue(dialogue, truth)
    dialogue = dialogue.answer([history[0].reply])
    asked = _exchange(history[0], "boxes", tuple(i for i in expression.targets for _ in range(_BOX)))
    yield _reading(asked, expression.text)
    points = [point for group in dialogue.points for point in group]
    told = list(zip(history[1:], points, strict=True))
    for one, point in rng.sample(told, min(6, len(told))):
        yield _exchange(one, "points", (at_cell(point, size),))


def _reading(asked: Example, expression: str) -> Example:
    """With the words that decide: those of the expression, the last before <assistant>."""
    return replace(asked, reads=(asked.answer - 1 - len(encode(expression)), asked.answer - 1))


def _like(scene: Scene, targets: Sequence[int], rng: Random) -> list[int]:
    """The objects in the order in which they are likely to be mistaken for those meant: mostly those of their looks first."""
    meant = [scene.objects[i] for i in targets]
    weights = {
        i: rng.random() + any((thing.colour == o.colour) + (thing.shape == o.shape) for o in meant)
        for i, thing in enumerate(scene.objects)
    }
    return sorted(weights, key=lambda i: -weights[i])


def _whether(scene: Scene, expression: Expression, rng: Random, size: Size) -> Iterator[Example]:
    """Of one object meant and of some that could be mistaken for it, boxes a little rough now and then."""
    wrong = [i for i in _like(scene, expression.targets, rng) if i not in expression.targets]
    for index in [*rng.sample(expression.targets, min(1, len(expression.targets))), *wrong[: rng.choice((1, 2, 2))]]:
        box = scene.objects[index].box
        if rng.random() < 0.3:
            box = _rough(box, rng, size)
        question = EMBEDDED.ask_verification(expression.text, box, size)
        assert question is not None
        told = EMBEDDED.format_labels([1 if index in expression.targets else 0])
        yield _reading(example(question.turns, told, "whether", (index,)), expression.text)


def _rough(box: tuple[float, float, float, float], rng: Random, size: Size) -> Box:
    x1, y1, x2, y2 = box
    dx, dy = 0.08 * (x2 - x1), 0.08 * (y2 - y1)
    moved = (x1 + rng.gauss(0, dx), y1 + rng.gauss(0, dy), x2 + rng.gauss(0, dx), y2 + rng.gauss(0, dy))
    return Box(*(min(max(v, 0), side) for v, side in zip(moved, (*size, *size), strict=True)))


def _left_out(scene: Scene, targets: Sequence[int], rng: Random) -> list[int]:
    """One that is not meant, but could be mistaken for it; or some of those that are meant, as far as there are any."""
    wrong = [i for i in _like(scene, targets, rng) if i not in targets]
    if (wrong and rng.random() < (0.7 if len(targets) == 1 else 0.2)) or not targets:
        return wrong[:1]
    return sorted(rng.sample(targets, rng.randint(1, len(targets))), key=lambda i: scene.objects[i].centre[0])


def _other(scene: Scene, text: str, meant: Sequence[int], left_out: Sequence[int], size: Size) -> Example:
    remain = [i for i in meant if i not in left_out]
    question = EMBEDDED.ask_other_boxes(text, [scene.objects[i].box for i in left_out], size)
    assert question is not None
    told = EMBEDDED.format_boxes([scene.objects[i].box for i in remain], size)
    return _reading(example(question.turns, told, "other", tuple(i for i in remain for _ in range(_BOX))), text)


def _exchange(exchange: Exchange, task: str, looks: tuple[int, ...] = ()) -> Example:
    return example(exchange.question.turns, exchange.reply.text, task, looks)


def _with_points(scene: Scene, index: int) -> TrueObject:
    mask, box = scene.mask(index), scene.objects[index].box
    return TrueObject(mask, box, telling_points(mask, tuple(int(v) for v in box)))


def telling_points(mask: Mask, box: tuple[int, ...]) -> tuple[PointPrompt, ...]:
    """Two points deep inside the object and apart from each other, one deep in what else the box holds."""
    x1, y1, x2, y2 = box
    inside = mask[y1:y2, x1:x2]
    if inside.all():  # nothing else in the box: look just outside it
        y1, y2, x1, x2 = max(0, y1 - 2), y2 + 2, max(0, x1 - 2), x2 + 2
        inside = mask[y1:y2, x1:x2]
    on, off = depth(inside), depth(~inside)
    first = np.unravel_index(on.argmax(), on.shape)
    ys, xs = np.nonzero(on >= 0.6 * on.max())
    far = ((ys - first[0]) ** 2 + (xs - first[1]) ** 2).argmax()
    places: list[tuple[int, int, Label]] = [(int(first[1]), int(first[0]), 1), (int(xs[far]), int(ys[far]), 1)]
    last = np.unravel_index(off.argmax(), off.shape)
    places.append((int(last[1]), int(last[0]), 0))
    return tuple(PointPrompt(x1 + x + 0.5, y1 + y + 0.5, label) for x, y, label in places)


def depth(mask: Mask) -> npt.NDArray[np.int64]:
    """For each pixel of the mask, how many erosions it survives; what lies outside the array counts as the mask's own."""
    left, total = mask.copy(), mask.astype(np.int64)
    while left.any():
        padded = np.pad(left, 1, mode="edge")
        left = padded[1:-1, :-2] & padded[1:-1, 2:] & padded[:-2, 1:-1] & padded[2:, 1:-1] & left
        if left.all():
            break
        total += left
    return total


# Packing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Row:
    """Some of a scene's examples without the picture, as one trie.

    targets[k] is predicted at nodes[k], is to be seen at looks[k], and which object it is about is to be read at reads[k].
    """

    packed: PrefixTree
    nodes: list[int]
    targets: list[int]
    tasks: list[int]
    looks: list[int]
    reads: list[tuple[int, ...]]


def rows(examples: Sequence[Example], width: int, most: int) -> list[Row]:
    """Packs the examples, in their order, into at most `most` rows of at most `width` tokens; what is left over is dropped.

    Neighbours that begin alike share those tokens within a row. Examples longer than a row are left out.
    """
    groups: list[list[Example]] = []
    used = width
    for one in examples:
        length = len(one.ids) - PICTURE
        fresh = length - (_shared(groups[-1][-1].ids, one.ids) - PICTURE if groups else 0)
        if length > width:
            continue
        if used + fresh > width:
            if len(groups) == most:
                break
            groups.append([])
            used, fresh = 0, length
        used += fresh
        groups[-1].append(one)
    return [_row(group) for group in groups]


def _row(examples: Sequence[Example]) -> Row:
    packed = build_prefix_tree([one.ids[PICTURE:] for one in examples])
    nodes, targets, tasks, looks, reads = [], [], [], [], []
    for one, path in zip(examples, packed.paths, strict=True):
        for position in range(one.answer, len(one.ids)):
            nodes.append(path[position - 1 - PICTURE])
            targets.append(one.ids[position])
            tasks.append(TASKS.index(one.task))
            place = position - one.answer
            looks.append(one.looks[place] if place < len(one.looks) else NOWHERE)
            first, end = (place - PICTURE for place in one.reads)
            by_words = one.task == "whether" or _OPEN in (one.ids[position], one.ids[position - 1])
            reads.append(path[first:end] if by_words and end > 0 else ())
    return Row(packed, nodes, targets, tasks, looks, reads)


def _shared(a: list[int], b: list[int]) -> int:
    """How many first tokens two sequences share."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
