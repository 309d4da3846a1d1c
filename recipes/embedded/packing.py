"""Training examples and their packing: token sequences with the same beginning share those tokens in one prefix tree.

The tree computes every shared turn once, and no answer can be copied from a neighbouring branch.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recipes.embedded.architecture import CELLS, GRID, build_vocabulary
from sam4mllm_tool.models.mllm.prefix_tree import PrefixTree, build_prefix_tree
from sam4mllm_tool.types import Point, Size, Turn

_TOKEN_IDS = {word: i for i, word in enumerate(build_vocabulary())}
_TOKEN_PATTERN = re.compile(r"<\w+>|</s>|\w+|[^\w\s]")
_PREFIX = [_TOKEN_IDS["<s>"], *[_TOKEN_IDS["<image>"]] * GRID**2]
PREFIX_LENGTH = len(_PREFIX)
"""Number of tokens, for the image, that every example begins with."""
BOX_LENGTH = 6
"""Number of tokens of a box."""
TASKS = ("locate", "inside", "match", "what", "list", "parts", "any", "count", "boxes", "points", "prompt", "whether", "other")
NOWHERE = -1
"""The image target of a token whose answer is not visible at one place."""
_BOX_START = _TOKEN_IDS["["]


@dataclass(frozen=True)
class TrainingExample:
    """Tokens of which the answer is learnt.

    Attributes:
        ids: The tokens.
        answer_start: Where the answer begins.
        task: One of `TASKS`.
        image_targets: For the first tokens of the answer, where in the image the answer is visible: an `encode_region`, an
            `encode_cell`, or NOWHERE, which also holds for the other tokens.
        word_span: Start and end in ids of the words that decide which object is meant; (0, 0) for none.
        region: The `encode_region` that a question about a point is about, NOWHERE for others.
    """

    ids: list[int]
    answer_start: int
    task: str
    image_targets: tuple[int, ...] = ()
    word_span: tuple[int, int] = (0, 0)
    region: int = NOWHERE


def encode_cell(point: Point, size: Size) -> int:
    """Encode the patch cell that a point falls in as an image target: -2 for the first, -3 for the next, row by row."""
    cells = GRID * CELLS
    column, row = (min(cells - 1, int(v * cells / side)) for v, side in zip(point, size, strict=True))
    return -2 - (row * cells + column)


def encode_text(text: str) -> list[int]:
    """Encode as the tokenizer of architecture.py does; a test compares the two."""
    return [_TOKEN_IDS.get(token, _TOKEN_IDS["<unk>"]) for token in _TOKEN_PATTERN.findall(text.lower())]


def build_example(turns: Sequence[Turn], reply: str, task: str, image_targets: tuple[int, ...] = ()) -> TrainingExample:
    """Build the example of a conversation about the image and its last reply, in the layout of the chat template."""
    ids = list(_PREFIX)
    for turn in turns:
        ids += [_TOKEN_IDS[f"<{turn.role}>"], *encode_text(turn.text)]
        if turn.role == "assistant":
            ids.append(_TOKEN_IDS["</s>"])
    ids.append(_TOKEN_IDS["<assistant>"])
    return TrainingExample([*ids, *encode_text(reply), _TOKEN_IDS["</s>"]], len(ids), task, image_targets)


@dataclass(frozen=True, eq=False)
class ExampleRow:
    """Some of a scene's examples as one prefix tree, without the tokens of the image.

    Attributes:
        tree: The tree.
        nodes: (k,) the nodes from which tokens are predicted.
        targets: (k,) the tokens to predict.
        tasks: (k,) indices into `TASKS`.
        image_targets: (k,) see `TrainingExample`.
        regions: (k,) see `TrainingExample`.
        word_targets: (k,) the nodes of the words that decide which object the token is about, where it matters.
    """

    tree: PrefixTree
    nodes: list[int]
    targets: list[int]
    tasks: list[int]
    image_targets: list[int]
    regions: list[int]
    word_targets: list[tuple[int, ...]]


def pack_examples(examples: Sequence[TrainingExample], width: int, max_rows: int) -> list[ExampleRow]:
    """Pack the examples, in their order, into rows.

    Args:
        examples: Of one scene. An example longer than a row is left out.
        width: Most tokens per row.
        max_rows: Most rows; further examples are dropped.
    """
    groups: list[list[TrainingExample]] = []
    used = width
    for example in examples:
        length = len(example.ids) - PREFIX_LENGTH
        new = length - (_count_shared(groups[-1][-1].ids, example.ids) - PREFIX_LENGTH if groups else 0)
        if length > width:
            continue
        if used + new > width:
            if len(groups) == max_rows:
                break
            groups.append([])
            used, new = 0, length
        used += new
        groups[-1].append(example)
    return [_build_row(group) for group in groups]


def _build_row(examples: Sequence[TrainingExample]) -> ExampleRow:
    tree = build_prefix_tree([example.ids[PREFIX_LENGTH:] for example in examples])
    row = ExampleRow(tree, [], [], [], [], [], [])
    for example, path in zip(examples, tree.paths, strict=True):
        for position in range(example.answer_start, len(example.ids)):
            place = position - example.answer_start
            row.nodes.append(path[position - 1 - PREFIX_LENGTH])
            row.targets.append(example.ids[position])
            row.tasks.append(TASKS.index(example.task))
            row.image_targets.append(example.image_targets[place] if place < len(example.image_targets) else NOWHERE)
            row.regions.append(example.region)
            first, end = (index - PREFIX_LENGTH for index in example.word_span)
            from_words = example.task in ("match", "whether") or _BOX_START in (
                example.ids[position],
                example.ids[position - 1],
            )
            row.word_targets.append(path[first:end] if from_words and end > 0 else ())
    return row


def _count_shared(a: list[int], b: list[int]) -> int:
    """Return the length of the common prefix."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
