"""Guess the tokens of a reply that earlier replies had in the same place, so that a model checks them instead of writing them.

Replies of one dialect differ in their numbers and share the rest: brackets, commas, keys, the end. A guess that the model
confirms saves a pass for each of its tokens; one that it doesn't confirm is dropped, so that no reply changes.
"""

from collections import deque
from collections.abc import Callable, Sequence

__all__ = ["ReplyDrafts"]

_KEPT_REPLIES = 8
_LONGEST_DRAFT = 24


class ReplyDrafts:
    """What the latest replies of one model looked like.

    Args:
        decode: Returns the text of a token.
    """

    def __init__(self, decode: Callable[[int], str]) -> None:
        self._decode = decode
        self._is_number: dict[int, bool] = {}
        self._replies: deque[tuple[int, ...]] = deque(maxlen=_KEPT_REPLIES)

    def add(self, reply: Sequence[int]) -> None:
        """Remember a whole reply, its end token included."""
        reply = tuple(reply)
        if reply in self._replies:
            self._replies.remove(reply)
        self._replies.appendleft(reply)

    def propose(self, begun: Sequence[int]) -> tuple[int, ...]:
        """Return what may follow the beginning of a reply, up to the next number; empty if no earlier reply began alike."""
        shape = self._shape(begun)
        for reply in self._replies:
            if (start := self._align(reply, shape)) is not None:
                end = start
                while end < len(reply) and end - start < _LONGEST_DRAFT and not self._numeric(reply[end]):
                    end += 1
                if end > start:
                    return reply[start:end]
        return ()

    def _shape(self, ids: Sequence[int]) -> list[int | None]:
        """The tokens with each run of numbers as one None."""
        shape: list[int | None] = []
        for token in ids:
            kind = None if self._numeric(token) else token
            if kind is not None or not shape or shape[-1] is not None:
                shape.append(kind)
        return shape

    def _align(self, reply: Sequence[int], shape: Sequence[int | None]) -> int | None:
        """Return where a reply goes on after a beginning of this shape, with its last number complete."""
        at = 0
        for kind in shape:
            if at == len(reply) or (None if self._numeric(reply[at]) else reply[at]) != kind:
                return None
            at += 1
            while kind is None and at < len(reply) and self._numeric(reply[at]):
                at += 1
        return at

    def _numeric(self, token: int) -> bool:
        if token not in self._is_number:
            self._is_number[token] = self._decode(token).strip().isdecimal()
        return self._is_number[token]
