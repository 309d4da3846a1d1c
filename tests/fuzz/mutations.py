"""Random damage to text, JSON and bytes, from a seeded generator."""

import copy
import json
import random
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_json_text", "mutate_text", "random_text"]

_PIECES = (
    *"0123456789.,;:-+[](){}<>\"'/\\=|%&*^~_ \n\t\0",
    *("none", "no object", "Yes", "No", "yes", "no", "<box>", "</box>", "<loc0012>", "<think>", "</think>", "```json", "```"),
    *('"bbox_2d"', '"point_2d"', '"box_2d"', '"label"', "null", "NaN", "Infinity", "1e999", "-0", "9" * 30, "on", "off", "and"),
    *("the", "ring", "rings", "left of", "except", "second", "not", "it", "<point x='1' y=\"2\">", "</point>", "{x1}", "{0.a}"),
    *("\u202e", "\u200b", "\ud800", "\U000e0041", "é", "٣", "½", "🟥", "\ufeff", "\x1b[31m", "<|im_start|>", "<image>"),
)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "x",
    "9" * 400, "\ud800", [], [[]], {}, {"": None}, [0] * 50,
)  # fmt: skip


def random_text(rng: random.Random, longest: int = 60) -> str:
    """Return pieces of what models and people write, in no order."""
    return "".join(rng.choices(_PIECES, k=rng.randrange(longest)))


def mutate_text(rng: random.Random, text: str) -> str:
    """Cut, repeat, replace or insert parts of a text."""
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(12))
        kind = rng.randrange(5)
        middle = (
            "",
            random_text(rng, 6),
            text[start:end] * rng.randrange(2, 6),
            rng.choice(_PIECES),
            text[start:end][::-1],
        )[kind]
        text = text[:start] + middle + text[end:]
    return text * rng.randrange(50, 400) if rng.random() < 0.01 else text


def mutate_json(rng: random.Random, value: Any) -> Any:
    """Return plain JSON with one to three values replaced, left out, doubled or wrapped, at any depth."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.randrange(1, 4)):
        value = _mutate_once(rng, value)
    return value


def _mutate_once(rng: random.Random, value: Any) -> Any:
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if keys and rng.random() < 0.85:
        key = rng.choice(keys)
        kind = rng.randrange(12)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, list):
            value.insert(key, value[key])
        else:
            value[key] = _mutate_once(rng, value[key])
        return value
    kind = rng.randrange(6)
    if kind == 0:
        return [_copy(value) for _ in range(rng.randrange(3))]
    if kind == 1 and isinstance(value, str):
        return mutate_text(rng, value)
    if kind == 2 and isinstance(value, int | float) and not isinstance(value, bool):
        return rng.choice((value + 1, value - 1, -value, value * 10**6, float(value)))
    if kind == 3:
        return _nest(rng.choice((3, 50, 3000)))
    return _copy(rng.choice(_VALUES))  # what is in place may be changed once more


def _nest(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


def mutate_json_text(rng: random.Random, value: Any) -> str:
    """Return the text of mutated JSON, one in four damaged as text too."""
    try:
        text = json.dumps(mutate_json(rng, value))
    except RecursionError:
        text = "[" * 5000
    return mutate_text(rng, text) if rng.random() < 0.25 else text


def mutate_bytes(rng: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat, overwrite or insert some bytes, more often near the start, where headers are."""
    damaged = bytearray(content)
    for _ in range(rng.randrange(1, 8)):
        if not damaged:
            break
        place = rng.randrange(len(damaged)) if rng.random() < 0.5 else rng.randrange(min(128, len(damaged)))
        length = rng.randrange(1, 9)
        kind = rng.randrange(6)
        if kind == 0:
            damaged[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            damaged[place : place + length] = rng.randbytes(length)
        elif kind == 2:
            damaged[place : place + length] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 3:
            del damaged[place : place + rng.choice((1, length, 500))]
        elif kind == 4:
            damaged[place:place] = damaged[place : place + rng.choice((length, 64))] * rng.randrange(1, 20)
        else:
            del damaged[place:]
    return bytes(damaged)


def _copy(value: Any) -> Any:
    """Copy a value; one that is nested too deep for that is shared."""
    try:
        return copy.deepcopy(value)
    except RecursionError:
        return value
