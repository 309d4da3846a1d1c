"""Draw expressions so that rare kinds come up as often as common ones."""

from collections.abc import Iterable, Sequence
from random import Random
from typing import Protocol, TypeVar

__all__ = ["sample_kinds_evenly"]


class _WithKind(Protocol):
    @property
    def kind(self) -> str: ...


E = TypeVar("E", bound=_WithKind)


def sample_kinds_evenly(expressions: Iterable[E], count: int, rng: Random, twice: Sequence[str] = ()) -> list[E]:
    """Draw different expressions, kinds evenly among those that there are.

    Args:
        expressions: What to draw from.
        count: Most expressions.
        rng: Source of randomness.
        twice: Kinds that are drawn twice as often.
    """
    by_kind: dict[str, list[E]] = {}
    for expression in expressions:
        by_kind.setdefault(expression.kind, []).append(expression)
    chosen: list[E] = []
    while by_kind and len(chosen) < count:
        kind = rng.choice(sorted([*by_kind, *(kind for kind in twice if kind in by_kind)]))
        chosen.append(by_kind[kind].pop(rng.randrange(len(by_kind[kind]))))
        if not by_kind[kind]:
            del by_kind[kind]
    return chosen
