"""Turn samples into training conversations by running the dialogues of `protocol` on true answers."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any

from sam4mllm_tool.data.ppg_targets import PointGroup, select_point_groups
from sam4mllm_tool.data.reader import load_sample_image
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import ConversationKind, TrainingConversation
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError
from sam4mllm_tool.protocol import PPG, PQPP, Dialect, Exchange, PoissonDisk, TrueObject, build_true_dialogue
from sam4mllm_tool.types import Image, Segmenter, Turn

__all__ = ["Recipe", "SampleConversations", "compose_conversations"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How samples become training conversations. The defaults are the paper's.

    Attributes:
        dialect: How boxes and points are written.
        pqpp: Share of the samples that get a PQPP conversation, in [0, 1].
        ppg: Share of the samples that get a PPG conversation, in [0, 1].
        point_mean: Mean number of points per box in PQPP; the points are a Poisson disk sample.
        point_deviation: Standard deviation of that number.
        point_least: Minimum of that number.
        point_most: Maximum of that number.
        groups: Groups of points that PPG tries per object.
        keep: Groups that PPG keeps per object, the best by IoU.
        on: Points on the object in a group.
        off: Points off the object in a group.
        references: Maximum number of samples per line of an image.
        tokens: Maximum number of tokens of text per line, as estimated.
        vqa: Share of the images that come from datasets without masks, in [0, 1).
        segmenter: Spec of the segmenter that PPG tries its points on.
        seed: Seed of all random choices.
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
        """Build a recipe from the settings of a file or of flags. Raises DataError for unknown or invalid settings."""
        known = [setting.name for setting in fields(cls) if setting.name != "dialect"]
        if unknown := sorted(set(settings) - set(known)):
            raise DataError(f"a recipe has no setting {', '.join(unknown)}; its settings are {', '.join(known)}")
        try:
            return cls(dialect=dialect, **settings)
        except (TypeError, ValueError) as error:
            raise DataError(f"the recipe is not valid: {error}") from error

    def __post_init__(self) -> None:
        for name in ("pqpp", "ppg"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.vqa < 1:
            raise ValueError(f"expected vqa in [0, 1), got {self.vqa}")
        for name in ("groups", "keep", "references", "tokens", "on", "point_least", "point_most"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if self.off < 0:
            raise ValueError(f"expected off of at least 0, got {self.off}")
        if self.point_least > self.point_most:
            raise ValueError(f"expected point_least of at most point_most, {self.point_most}, got {self.point_least}")
        if not math.isfinite(self.point_mean) or not 0 <= self.point_deviation < math.inf:
            values = f"{self.point_mean} and {self.point_deviation}"
            raise ValueError(f"expected a finite point_mean and point_deviation of at least 0, got {values}")


@dataclass
class SampleConversations:
    """The conversations made of an image's samples, and the samples that were dropped: by reason, and each in full."""

    conversations: list[TrainingConversation] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_samples: list[str] = field(default_factory=list)

    def drop(self, reason: str, sample: Sample) -> None:
        """Count a sample that can't be used."""
        self.dropped[reason] += 1
        self.dropped_samples.append(f"{sample.source} {sample.id}: {reason}")


def compose_conversations(samples: Sequence[Sample], recipe: Recipe, segmenter: Segmenter | None) -> SampleConversations:
    """Make the training conversations of one image's samples.

    The result depends on the recipe's seed and the samples alone. A sample that can't be used is dropped and counted.

    Args:
        samples: Samples that share an image.
        recipe: What to make of them.
        segmenter: Tries PPG's points; required where the recipe asks for PPG.

    Returns:
        The conversations in the order of the samples.
    """
    result = SampleConversations()
    image: Image | None = None
    for sample in samples:
        rng = Random(f"{recipe.seed}-{sample.source}-{sample.id}")
        wanted = {kind: rng.random() < share for kind, share in (("pqpp", recipe.pqpp), ("ppg", recipe.ppg))}
        if sample.turns:
            result.conversations.append(TrainingConversation(sample.turns, kind="vqa", sample=sample.id))
            continue
        try:
            truth = _true_objects(sample)
            if wanted["pqpp"]:
                result.conversations.append(_compose_pqpp(sample, truth, recipe, rng))
            if wanted["ppg"]:
                if truth and image is None:
                    image = load_sample_image(sample)
                chosen = [_choose_points(target, recipe, rng, segmenter, image) for target in truth]
                result.conversations += _compose_ppg(sample, truth, chosen, recipe)
        except (DataError, ImageError, ExpressionError) as error:
            result.drop(str(error), sample)
    return result


def _true_objects(sample: Sample) -> list[TrueObject]:
    truth = [TrueObject(mask, box) for mask, box in zip(sample.masks(), sample.boxes, strict=True)]
    if any(not target.mask.any() for target in truth):
        raise DataError("a mask is empty")
    return truth


def _compose_pqpp(sample: Sample, truth: Sequence[TrueObject], recipe: Recipe, rng: Random) -> TrainingConversation:
    sampler = PoissonDisk(
        seed=rng.getrandbits(30),
        mean=recipe.point_mean,
        deviation=recipe.point_deviation,
        least=recipe.point_least,
        most=recipe.point_most,
    )
    dialogue = PQPP.start(sample.expression, sample.size, dialect=recipe.dialect, sampler=sampler)
    return _join_exchanges(build_true_dialogue(dialogue, truth), "pqpp", sample)


def _choose_points(
    target: TrueObject, recipe: Recipe, rng: Random, segmenter: Segmenter | None, image: Image | None
) -> list[PointGroup]:
    """Return the best groups of points for an object, best first, at least one."""
    if segmenter is None or image is None:
        raise ValueError("PPG needs a segmenter to try its points on")
    counts = {"groups": recipe.groups, "keep": recipe.keep, "on": recipe.on, "off": recipe.off}
    groups = select_point_groups(image, target.mask, target.box, segmenter, recipe.dialect, rng, **counts)
    if not groups:
        raise DataError("an object leaves no room for PPG's points")
    return groups


def _compose_ppg(
    sample: Sample, truth: Sequence[TrueObject], choices: Sequence[Sequence[PointGroup]], recipe: Recipe
) -> Iterator[TrainingConversation]:
    """Yield one conversation per group that was kept, each about all objects of the sample."""
    for number in range(max(map(len, choices), default=1)):
        chosen = [groups[min(number, len(groups) - 1)] for groups in choices]
        targets = [replace(target, points=group.points) for target, group in zip(truth, chosen, strict=True)]
        dialogue = PPG.start(sample.expression, sample.size, dialect=recipe.dialect, on=recipe.on, off=recipe.off)
        mean_iou = sum(group.iou for group in chosen) / len(chosen) if chosen else None
        yield replace(_join_exchanges(build_true_dialogue(dialogue, targets), "ppg", sample), iou=mean_iou)


def _join_exchanges(history: Sequence[Exchange], kind: ConversationKind, sample: Sample) -> TrainingConversation:
    """Join a dialogue's exchanges: a single continuation of the first one follows it, several become its branches."""
    first, *others = history
    turns = (*first.question.turns, Turn("assistant", first.reply.text))
    branches = [(*other.question.turns[len(turns) :], Turn("assistant", other.reply.text)) for other in others]
    if len(branches) == 1:
        return TrainingConversation((*turns, *branches[0]), kind=kind, sample=sample.id)
    return TrainingConversation(turns, tuple(branches), kind=kind, sample=sample.id)
