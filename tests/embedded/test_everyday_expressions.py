"""Expressions about everyday things: each refers to exactly its targets.

What an expression refers to is derived here independently, from its words and what the scene holds.
"""

import re
from collections import Counter
from functools import cache
from random import Random

import pytest

from sam4mllm_tool.drawn_things.recipe import COLOURS, load_recipes
from sam4mllm_tool.embedded.everyday import (
    ABSENT_KINDS,
    KINDS,
    SINGLE_OBJECT_KINDS,
    TEST_SEEDS,
    EverydayExpression,
    EverydayScene,
    draw_scene,
    list_expressions,
    list_vocabulary,
    sample_expressions,
)
from sam4mllm_tool.embedded.everyday.ambiguity import count_ambiguity
from sam4mllm_tool.embedded.everyday.expression_templates import HELD_OUT, load_phrases, split_words

SIDE = 192
SEEDS = (*range(25), *range(TEST_SEEDS, TEST_SEEDS + 25))


@cache
def scenes() -> tuple[EverydayScene, ...]:
    return tuple(draw_scene(seed, SIDE) for seed in SEEDS)


@cache
def cases() -> tuple[tuple[EverydayScene, EverydayExpression], ...]:
    return tuple((scene, expression) for scene in scenes() for expression in list_expressions(scene, held_out=True))


def of_kind(kind: str) -> list[tuple[EverydayScene, EverydayExpression]]:
    return [(scene, expression) for scene, expression in cases() if expression.kind == kind]


# A reader of expressions --------------------------------------------------------------------------------------------

CATEGORIES = {"animal": "animals", "fruit": "fruits", "vehicle": "vehicles"}
SINGULARS = {recipe.plural: noun for noun, recipe in load_recipes().items()} | {v: k for k, v in CATEGORIES.items()}
NOUNS = sorted({*load_recipes(), *SINGULARS, *CATEGORIES}, key=len, reverse=True)
PARTS = {part for recipe in load_recipes().values() for part in recipe.parts}
IRREGULAR = {
    "lenses": "lens", "leaves": "leaf", "bodies": "body", "canopies": "canopy", "cherries": "cherry", "waxes": "wax"
}  # fmt: skip
MANY = IRREGULAR | {f"{part}s": part for part in PARTS if not part.endswith("s") and part not in IRREGULAR.values()}
NP = rf"((?:(?:striped|dotted) )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(NOUNS)}))"
PART = rf"({'|'.join(sorted({*PARTS, *MANY}, key=len, reverse=True))})"
AXES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
EXTREMES = {
    "leftmost": "left", "furthest to the left": "left", "rightmost": "right", "furthest to the right": "right",
    "topmost": "top", "highest": "top", "bottommost": "bottom", "lowest": "bottom",
}  # fmt: skip
DIRECTIONS = {
    "left of": "left", "to the left of": "left", "right of": "right", "to the right of": "right",
    "above": "top", "higher than": "top", "below": "bottom", "lower than": "bottom",
}  # fmt: skip
RELATIONS = {
    "on": "on", "on top of": "on", "that stands on": "on", "in": "in", "inside": "in", "behind": "behind",
    "partly hidden by": "behind", "next to": "next to", "beside": "next to", "across": "across", "crossing": "across",
}  # fmt: skip
CONVERSES = {"under": "on", "in front of": "behind", "around": "in"}
RANKS = {"second": 1, "third": 2, "fourth": 3, "fifth": 4}


def named(scene: EverydayScene, text: str) -> set[int]:
    noun = next(noun for noun in NOUNS if text == noun or text.endswith(f" {noun}"))
    words = set(text.removesuffix(noun).split())
    noun = noun if noun in load_recipes() or noun in CATEGORIES else SINGULARS[noun]
    return {
        i
        for i, item in enumerate(scene.objects)
        if noun in (item.noun, item.recipe.category) and words <= {item.colour, item.pattern}
    }


def parts_of(scene: EverydayScene, owner: int | None, text: str) -> set[int]:
    names = {text, MANY.get(text, text)}
    return {
        i
        for i, part in enumerate(scene.object_parts, start=len(scene.objects))
        if part.name in names and owner in (None, part.owner)
    }


def along(scene: EverydayScene, index: int, side: str) -> float:
    x, y = scene.regions[index].centre
    return x * AXES[side][0] + y * AXES[side][1]


def related(scene: EverydayScene, first: int, relation: str, second: int) -> bool:
    holds = scene.relations.get((first, relation, second), False)
    assert holds is not None, "people could disagree"
    return holds


def words(table: dict[str, str]) -> str:
    return "|".join(sorted(table, key=len, reverse=True))


def read(scene: EverydayScene, text: str) -> set[int]:
    """Return the regions that a reader would take the expression to mean."""
    for noun, phrases in load_phrases().items():
        if text in phrases:
            return named(scene, noun)
    readers = (_read_place, _read_negation, _read_whole, _read_part, _read_relation, _read_names)
    for reader in readers:
        if (meant := reader(scene, text)) is not None:
            return meant
    raise AssertionError(f"{text!r} has no known form")


def _read_place(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"the (biggest|smallest) {NP}", text):
        order = sorted(named(scene, match[2]), key=lambda i: scene.objects[i].size)
        return {order[-1] if match[1] == "biggest" else order[0]}
    match = re.fullmatch(rf"the ({words(EXTREMES)}) {NP}", text)
    if match or (match := re.fullmatch(rf"the {NP} ({words(EXTREMES)})", text)):
        extreme, noun = sorted(match.groups(), key=lambda group: group not in EXTREMES)
        return {max(named(scene, noun), key=lambda i: along(scene, i, EXTREMES[extreme]))}
    if match := re.fullmatch(rf"the ({'|'.join(RANKS)}) {NP} from the ({'|'.join(AXES)})", text):
        order = sorted(named(scene, match[2]), key=lambda i: -along(scene, i, match[3]))
        return set(order[RANKS[match[1]] :][:1])
    return None


def _read_negation(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"the {NP} that (?:is not|isn't) ({'|'.join(COLOURS)})", text):
        return {i for i in named(scene, match[1]) if scene.objects[i].colour != match[2]}
    if match := re.fullmatch(rf"the {NP} that is not ({words(RELATIONS)}) the {NP}", text):
        (anchor,) = named(scene, match[3])
        return {i for i in named(scene, match[1]) if not related(scene, i, RELATIONS[match[2]], anchor)}
    return None


def _read_whole(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"the whole {NP}|the {NP} as a whole|the {NP} with its {PART}", text):
        return named(scene, match[1] or match[2] or match[3])
    if match := re.fullmatch(rf"the {NP} without its {PART}", text):
        (owner,) = named(scene, match[1])
        return {
            i
            for i, part in enumerate(scene.object_parts, start=len(scene.objects))
            if part.owner == owner and part.name not in (match[2], MANY.get(match[2]))
        }
    return None


def _read_part(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"the {PART} without the {PART}", text):
        return parts_of(scene, None, match[1])
    if match := re.fullmatch(rf"the (left|right) {PART} of the {NP}", text):
        (owner,) = named(scene, match[3])
        return {max(parts_of(scene, owner, match[2]), key=lambda i: along(scene, i, match[1]))}
    if match := re.fullmatch(rf"(?:only |just )?the {PART} (?:of|in) the {NP}(?: without the {PART})?", text):
        owners = named(scene, match[2])
        return {i for owner in owners for i in parts_of(scene, owner, match[1])}
    return None


def _read_relation(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"the {NP} with the {NP} (on|in) it", text):
        (anchor,) = named(scene, match[2])
        return {i for i in named(scene, match[1]) - {anchor} if related(scene, anchor, match[3], i)}
    if not (match := re.fullmatch(rf"the {NP} ({words(DIRECTIONS | RELATIONS | CONVERSES)}) the {NP}", text)):
        return None
    relation, anchors = match[2], named(scene, match[3])
    if not anchors:
        return set()
    (anchor,) = anchors
    others = named(scene, match[1]) - {anchor}
    if side := DIRECTIONS.get(relation):
        return {i for i in others if along(scene, i, side) > along(scene, anchor, side)}
    if relation in CONVERSES:
        return {i for i in others if related(scene, anchor, CONVERSES[relation], i)}
    return {i for i in others if scene.relations.get((i, RELATIONS[relation], anchor))}


def _read_names(scene: EverydayScene, text: str) -> set[int] | None:
    if match := re.fullmatch(rf"all ({'|'.join(COLOURS)}) objects", text):
        return {i for i, item in enumerate(scene.objects) if item.colour == match[1]}
    if match := re.fullmatch(rf"(?:all|the|all the|every|both|both of the|(?:the|all) (two|three|four|five)) {NP}", text):
        meant = named(scene, match[2]) or parts_of(scene, None, match[2])
        assert not match[1] or len(meant) in (0, ("two", "three", "four", "five").index(match[1]) + 2)
        return meant
    match = re.fullmatch(rf"the {PART}", text)
    return parts_of(scene, None, match[1]) if match else None


# Expressions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_mean_exactly_their_targets(kind: str) -> None:
    assert len(of_kind(kind)) > 40
    wrong = [(scene.seed, e.text) for scene, e in of_kind(kind) if read(scene, e.text) != set(e.targets)]
    assert not wrong


def test_every_kind_has_its_number_of_targets() -> None:
    for _, expression in cases():
        if expression.kind in ABSENT_KINDS:
            assert not expression.targets
        elif expression.kind in SINGLE_OBJECT_KINDS:
            assert len(expression.targets) == 1
        elif expression.kind in ("plural", "count"):
            assert len(expression.targets) > 1
        else:
            assert expression.targets


def test_colours_name_no_object_that_has_them_as_a_second_colour() -> None:
    """A red mug with blue stripes is not meant by "the blue mug", so that is not said where another mug is blue."""
    for scene, expression in cases():
        for colour in set(split_words(expression.text)) & set(COLOURS):
            for item in scene.objects:
                if expression.text == f"the {colour} {item.noun}":
                    assert item.second != colour or item.colour == colour


def test_positions_are_never_too_close_to_call() -> None:
    for scene, expression in of_kind("position"):
        side = next(EXTREMES[extreme] for extreme in EXTREMES if extreme in expression.text)
        noun = re.sub("|".join(EXTREMES), "", expression.text).removeprefix("the ").strip()
        (target,) = expression.targets
        rivals = named(scene, noun) - {target}
        assert rivals, f"{expression.text!r} fits only one object without its extreme"
        assert all(along(scene, target, side) - along(scene, i, side) > 0.05 for i in rivals)


def test_hard_absence_names_what_is_there() -> None:
    """Its object is in the scene, so that refusing takes more than not finding the object; an easy one's never is."""
    for scene, expression in cases():
        if expression.kind == "absent_hard":
            assert any(
                re.search(rf"\b{item.noun}|{item.recipe.category or item.noun}", expression.text) for item in scene.objects
            )
        if expression.kind == "absent_easy":
            noun = re.match(rf"(?:the|all|both|all the) {NP}$", expression.text)
            assert not noun or not named(scene, noun[1].split()[-1] if noun[1].split()[-1] in NOUNS else noun[1])


def test_every_word_is_in_the_vocabulary() -> None:
    vocabulary = set(list_vocabulary())
    assert len(vocabulary) < 800
    assert {word for _, expression in cases() for word in split_words(expression.text)} <= vocabulary


def test_held_out_descriptions_are_left_out_of_training_scenes_and_use_only_known_words() -> None:
    known = {word for phrases in load_phrases().values() for text in phrases[:-HELD_OUT] for word in split_words(text)}
    held_out = {text for phrases in load_phrases().values() for text in phrases[-HELD_OUT:]}
    assert all(set(split_words(text)) <= known for text in held_out)
    for scene in scenes():
        texts = {expression.text for expression in list_expressions(scene)}
        assert bool(texts & held_out) <= (scene.seed >= TEST_SEEDS)


def test_every_object_has_eight_different_descriptions() -> None:
    assert set(load_phrases()) == set(load_recipes())
    texts = [text for phrases in load_phrases().values() for text in phrases]
    assert len(set(texts)) == len(texts) == 8 * len(load_recipes())
    for noun, phrases in load_phrases().items():
        assert not any(re.search(rf"\b{noun}\b", text) for text in phrases)


def test_sampled_expressions_are_different_and_balanced() -> None:
    kinds: Counter[str] = Counter()
    for scene in scenes():
        chosen = sample_expressions(scene, 7, Random(scene.seed), held_out=True)
        assert chosen == sample_expressions(scene, 7, Random(scene.seed), held_out=True)
        assert len({e.text for e in chosen}) == len(chosen) <= 7
        kinds.update(e.kind for e in chosen)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 0.2 * max(kinds.values())


def test_the_box_of_at_least_a_third_of_the_targets_leaves_open_what_is_meant() -> None:
    reasons = count_ambiguity(range(30), per_scene=5)
    assert set(reasons) == {"clear", "part and whole", "crowded", "sparse"}
    assert reasons["part and whole"] + reasons["crowded"] > reasons.total() / 3
