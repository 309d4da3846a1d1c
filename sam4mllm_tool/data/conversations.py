"""From a sample to the conversations that teach it, by running the dialogue of protocol/ on true answers."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any

from sam4mllm_tool.data.point_groups import best_groups
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import Conversation, Kind
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.protocol import PPG, PQPP, Dialect, Exchange, PoissonDisk, TrueObject, build_true_dialogue
from sam4mllm_tool.types import Image, Segmenter, Turn

__all__ = ["Recipe", "converse"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How samples become conversations; the defaults are the paper's.

    pqpp, ppg: the share of samples that get a conversation of each kind, from 0 to 1. Points: N(point_mean,
    point_deviation), clipped to point_least..point_most, Poisson-disk. PPG: the `keep` best of `groups` groups of `on`
    points on the object and `off` beside it. references: how many samples of an image a lesson may hold, and tokens, by
    estimate, of text. vqa: the share of pictures that come from the sets without masks.
    segmenter: the spec of the one that PPG's points are tried on.
    """

    dialect: Dialect
    pqpp: float = 1.0
    ppg: float = 1.0
    point_mean: float = 10.0
    point_deviation: float = 4.0
    point_least: int = 1
    point_most: int = 20
    groups: int = 64
    keep: int = 1
    on: int = 2
    off: int = 1
    references: int = 5
    tokens: int = 1536
    vqa: float = 0.0
    segmenter: str = "embedded"
    seed: int = 0

    @classmethod
    def of(cls, dialect: Dialect, settings: Mapping[str, Any]) -> "Recipe":
        """As a file or flags tell it. Raises DataError for a setting that there is not, or that can't be."""
        known = [setting.name for setting in fields(cls) if setting.name != "dialect"]
        if unknown := sorted(set(settings) - set(known)):
            raise DataError(f"a recipe has no {', '.join(unknown)}; it has {', '.join(known)}")
        try:
            return cls(dialect=dialect, **settings)
        except (TypeError, ValueError) as error:
            raise DataError(f"the recipe can't be followed: {error}") from error

    def __post_init__(self) -> None:
        for name in ("pqpp", "ppg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} as a share from 0 to 1, got {getattr(self, name)}")
        if not 0 <= self.vqa < 1:
            raise ValueError(f"expected vqa as a share of the pictures from 0 to below 1, got {self.vqa}")
        for name in ("groups", "keep", "references", "tokens", "on", "point_least", "point_most"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.off < 0:
            raise ValueError(f"expected off of at least 0, got {self.off}")
        if self.point_least > self.point_most:
            raise ValueError(f"expected point_least of at most point_most, {self.point_most}, got {self.point_least}")
        if not math.isfinite(self.point_mean) or not 0 <= self.point_deviation < math.inf:
            told = f"{self.point_mean} and {self.point_deviation}"
            raise ValueError(f"expected point_mean as a number and point_deviation as one of at least 0, got {told}")


@dataclass
class Told:
    """What became of a picture's samples. dropped: how often something could not be told, by reason."""

    conversations: list[Conversation] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    where: list[str] = field(default_factory=list)

    def drop(self, reason: str, sample: Sample) -> None:
        self.dropped[reason] += 1
        self.where.append(f"{sample.source} {sample.id}: {reason}")


def converse(samples: Sequence[Sample], recipe: Recipe, segmenter: Segmenter | None) -> Told:
    """The conversations of one picture's samples, in their order.

    What happens depends on the recipe's seed and the samples alone. A sample that can't be told is dropped and counted, the
    others go on. segmenter: needed where the recipe asks for PPG.
    """
    told = Told()
    picture: Image | None = None
    for sample in samples:
        rng = Random(f"{recipe.seed}-{sample.source}-{sample.id}")
        wants = {kind: rng.random() < share for kind, share in (("pqpp", recipe.pqpp), ("ppg", recipe.ppg))}
        if sample.turns:
            told.conversations.append(Conversation(sample.turns, kind="vqa", sample=sample.id))
            continue
        try:
            truth = _truth(sample)
            if wants["pqpp"]:
                told.conversations.append(_pqpp(sample, truth, recipe, rng))
            if wants["ppg"]:
                if truth and picture is None:
                    picture = _picture(sample)
                told.conversations += _ppg(sample, truth, recipe, rng, segmenter, picture)
        except (DataError, ImageError, ExpressionError) as error:
            told.drop(str(error), sample)
    return told


def _truth(sample: Sample) -> list[TrueObject]:
    truth = [TrueObject(mask, box) for mask, box in zip(sample.masks(), sample.boxes, strict=True)]
    if any(not thing.mask.any() for thing in truth):
        raise DataError("a mask is empty")
    return truth


def _picture(sample: Sample) -> Image:
    picture = load_image(sample.image_path)
    if picture.size != sample.size:
        raise DataError(f"the picture has {picture.width} x {picture.height} pixels, not {sample.size.width} x "
                        f"{sample.size.height} as annotated")  # fmt: skip
    return picture


def _pqpp(sample: Sample, truth: Sequence[TrueObject], recipe: Recipe, rng: Random) -> Conversation:
    sampler = PoissonDisk(
        seed=rng.getrandbits(30),
        mean=recipe.point_mean,
        deviation=recipe.point_deviation,
        least=recipe.point_least,
        most=recipe.point_most,
    )
    dialogue = PQPP.start(sample.expression, sample.size, dialect=recipe.dialect, sampler=sampler)
    return _conversation(build_true_dialogue(dialogue, truth), "pqpp", sample)


def _ppg(
    sample: Sample,
    truth: Sequence[TrueObject],
    recipe: Recipe,
    rng: Random,
    segmenter: Segmenter | None,
    picture: Image | None,
) -> Iterator[Conversation]:
    """One conversation for each of the groups kept, all objects of the sample in each."""
    choices = []
    for thing in truth:
        if segmenter is None or picture is None:
            raise ValueError("PPG needs a segmenter to try its points on")
        found = best_groups(
            picture, thing.mask, thing.box, segmenter, recipe.dialect, rng,
            groups=recipe.groups, keep=recipe.keep, on=recipe.on, off=recipe.off,
        )  # fmt: skip
        if not found:
            raise DataError("an object leaves no room for PPG's points")
        choices.append(found)
    for number in range(max(map(len, choices), default=1)):
        chosen = [found[min(number, len(found) - 1)] for found in choices]
        things = [replace(thing, points=group.points) for thing, group in zip(truth, chosen, strict=True)]
        dialogue = PPG.start(sample.expression, sample.size, dialect=recipe.dialect, on=recipe.on, off=recipe.off)
        mean_iou = sum(group.iou for group in chosen) / len(chosen) if chosen else None
        yield replace(_conversation(build_true_dialogue(dialogue, things), "ppg", sample), iou=mean_iou)


def _conversation(history: Sequence[Exchange], kind: Kind, sample: Sample) -> Conversation:
    """The exchanges as one conversation: those that go on from the first one follow it, or are its branches if several."""
    first, *others = history
    turns = (*first.question.turns, Turn("assistant", first.reply.text))
    branches = [(*o.question.turns[len(turns) :], Turn("assistant", o.reply.text)) for o in others]
    if len(branches) == 1:
        return Conversation((*turns, *branches[0]), kind=kind, sample=sample.id)
    return Conversation(turns, tuple(branches), kind=kind, sample=sample.id)
