"""Makes lessons of pictures, in this process or in several, in the order of the pictures either way."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sam4mllm_tool.data.conversations import Recipe, converse
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import Conversation, Lesson
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.types import Segmenter

__all__ = ["Made", "Picture", "estimate_tokens", "make_all"]

Picture = list[Sample] | None
"""The samples of one picture; None for one that is held out, which is only counted."""

_CHUNK = 8
"""Pictures that travel to another process at once."""
_PIECES = re.compile(r"\d|[^\W\d]{1,4}|[^\w\s]")


@dataclass
class Made:
    """What became of a picture: lessons as lines of JSON, and counts. where: each drop in full."""

    lines: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    where: list[str] = field(default_factory=list)


def make_all(pictures: Iterator[Picture], out: Path, recipe: Recipe, processes: int) -> Iterator[Made]:
    """One `Made` a picture, in order. out: the folder that paths start from.

    Raises what loading the segmenter raises, and BackendError where a process dies.
    """
    if processes <= 1:
        maker = _Maker(out, recipe)
        yield from map(maker.make, pictures)
        return
    chunks = iter(lambda: list(islice(pictures, _CHUNK)), [])
    for chunk in map_in_processes(_make, chunks, processes, prepare=_prepare, given=(out, recipe), task="build"):
        yield from chunk


class _Maker:
    """What a process keeps from picture to picture."""

    def __init__(self, out: Path, recipe: Recipe) -> None:
        self.out, self.recipe = out.resolve(), recipe
        self.segmenter: Segmenter | None = None
        if recipe.ppg:
            from sam4mllm_tool.models.segmenter import load_segmenter

            self.segmenter = load_segmenter(recipe.segmenter)

    def make(self, picture: Picture) -> Made:
        made = Made()
        if picture is None:
            made.counts["held out"] += 1
            return made
        told = converse(picture, self.recipe, self.segmenter)
        made.dropped, made.where = told.dropped, told.where
        first = picture[0]
        image = os.path.relpath(first.image_path.resolve(), self.out)
        for conversations in _lessons(told.conversations, self.recipe):
            name = f"{first.source}:{conversations[0].sample}:{conversations[0].kind}"
            made.lines.append(Lesson(name, image, tuple(conversations), first.image_id).to_json())
            made.counts["lessons"] += 1
        for one in told.conversations:
            made.counts[one.kind] += 1
            made.counts["branches"] += len(one.branches)
        made.counts["vqa pictures" if first.turns else "pictures"] += 1
        made.counts["samples"] += len(picture)
        made.counts["absent"] += sum(not sample.boxes and not sample.turns for sample in picture)
        return made


_asked: tuple[Path, Recipe] | None = None
_maker: _Maker | None = None


def _prepare(out: Path, recipe: Recipe) -> None:
    global _asked
    _asked = out, recipe


def _make(pictures: Sequence[Picture]) -> list[Made]:
    """Makes the maker at first: what goes wrong then is raised where it is waited for."""
    global _maker
    if _maker is None:
        assert _asked is not None
        if _asked[1].ppg:
            import torch

            torch.set_num_threads(1)  # the processes share the cores
        _maker = _Maker(*_asked)
    return [_maker.make(picture) for picture in pictures]


def _lessons(conversations: Sequence[Conversation], recipe: Recipe) -> Iterator[list[Conversation]]:
    """The conversations of a picture in lessons of at most so many samples and, by estimate, tokens."""
    lesson: list[Conversation] = []
    used = 0
    for one in conversations:
        tokens = sum(estimate_tokens(turn.text) for turns in (one.turns, *one.branches) for turn in turns)
        samples = {other.sample for other in lesson} | {one.sample}
        if lesson and (used + tokens > recipe.tokens or len(samples) > recipe.references):
            yield lesson
            lesson, used = [], 0
        lesson.append(one)
        used += tokens
    if lesson:
        yield lesson


def estimate_tokens(text: str) -> int:
    """About how many tokens a text takes: a digit, a sign, four letters are one each. Training counts exactly."""
    return len(_PIECES.findall(text))
