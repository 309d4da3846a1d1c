"""What a trace is: one run on one image, everything that the models were asked and gave, and a person's verdict on the result.

Values only, compared by their content: masks are kept as run lengths, the image is identified by the hash of its pixels.
recording.py makes traces, files.py reads and writes them. Where a JSON key differs from the field's name, it is the key that
the first version of the format had.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NoReturn, TypeAlias, get_args

from pydantic import ConfigDict, Discriminator, Field, PlainSerializer, PlainValidator, Tag
from typing_extensions import deprecated

from sam4mllm_tool.config import METHODS, SegmentationConfig
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.pipeline.run_context import ModelTraits
from sam4mllm_tool.protocol import Dialect, Exchange, FixedList, Grid, PointsByBox, PoissonDisk, Thresholds
from sam4mllm_tool.trace.codec import STRICT, TraceError, from_plain, to_plain
from sam4mllm_tool.types import (
    Box,
    Image,
    Label,
    MaskCandidate,
    ObjectPrompt,
    PointPrompt,
    RunLengthMask,
    SegmentedObject,
    Size,
    Turn,
)

__all__ = [
    "Failure",
    "KnownSampler",
    "MLLMStep",
    "RecordedCandidate",
    "RecordedImage",
    "RecordedObject",
    "RecordedPointAnswer",
    "RecordedResult",
    "ResultObject",
    "RunLengthMask",
    "SegmentStep",
    "Step",
    "Trace",
    "TraceError",
    "TraceSettings",
    "Verdict",
    "read_result",
]

KnownSampler: TypeAlias = Grid | FixedList | PointsByBox | PoissonDisk
"""The samplers that a trace can hold."""
_SAMPLERS: dict[str, type] = {"grid": Grid, "fixed list": FixedList, "placed": PointsByBox, "poisson disk": PoissonDisk}


def _read_sampler(tree: Any) -> KnownSampler:
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str) or kind not in _SAMPLERS:
        raise ValueError(f"expected the kind of a sampler, {', '.join(_SAMPLERS)}")
    sampler: KnownSampler = from_plain(_SAMPLERS[kind], {key: tree[key] for key in tree if key != "kind"}, kind)
    return sampler


def _write_sampler(sampler: KnownSampler) -> dict[str, Any]:
    kind = next(kind for kind, known in _SAMPLERS.items() if type(sampler) is known)
    return {"kind": kind, **to_plain(sampler)}


def _refuse_field(value: object) -> NoReturn:  # noqa: ARG001
    raise ValueError("the field has no place in a file")


@dataclass(frozen=True)
class RecordedCandidate:
    """A mask that was not chosen, with the segmenter's predicted IoU in [0, 1]."""

    mask: RunLengthMask
    score: float


@dataclass(frozen=True)
class RecordedObject:
    """A `SegmentedObject` as the segmenter gave it, its masks as run lengths."""

    prompt: ObjectPrompt
    mask: RunLengthMask
    score: float
    confidence: float | None = None
    alternatives: tuple[RecordedCandidate, ...] = ()
    agreement: float | None = None

    @classmethod
    def of(cls, segmented: SegmentedObject) -> "RecordedObject":
        """Encode the object."""
        candidates = tuple(RecordedCandidate(RunLengthMask.of(other.mask), other.score) for other in segmented.alternatives)
        mask, confidence = RunLengthMask.of(segmented.mask), segmented.confidence
        return cls(segmented.prompt, mask, segmented.score, confidence, candidates, segmented.agreement)

    def object(self) -> SegmentedObject:
        """Decode the object."""
        candidates = tuple(MaskCandidate(other.mask.mask(), other.score) for other in self.alternatives)
        return SegmentedObject(self.mask.mask(), self.prompt, self.score, self.confidence, candidates, self.agreement)


@dataclass(frozen=True)
class MLLMStep:
    """Questions that were asked at once, each with its reply.

    Args:
        exchanges: In order.
        seconds: For all of them; this run's share where several runs shared the call.
        transform: How the image was shown, in words; None if it was shown as it is. Coordinates are in
            pixels of what was shown.
        warnings: As in `pipeline.requests.Response`; None without any.
    """

    exchanges: tuple[Exchange, ...]
    seconds: float
    transform: Annotated[str | None, Field(alias="shown")] = None
    warnings: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SegmentStep:
    """Prompts of the segmenter, and an object for each; or objects that it proposed for a phrase.

    Args:
        prompts: In order.
        objects: One for each prompt.
        seconds: As for `MLLMStep`.
        transform: As for `MLLMStep`.
        crop: The part of the image that was shown; None for all of it.
        phrase: What the segmenter proposed the objects for, each with its box as its prompt; None where it was prompted.
    """

    prompts: tuple[ObjectPrompt, ...]
    objects: Annotated[tuple[RecordedObject, ...], Field(alias="found")]
    seconds: float
    transform: Annotated[str | None, Field(alias="shown")] = None
    crop: Annotated[Crop | None, Field(alias="view")] = None
    phrase: str | None = None


Step: TypeAlias = MLLMStep | SegmentStep


def _step_kind(step: Any) -> str | None:
    if isinstance(step, dict):
        return next((kind for key, kind in (("exchanges", "MLLMStep"), ("prompts", "SegmentStep")) if key in step), None)
    return type(step).__name__


@dataclass(frozen=True)
class RecordedImage:
    """The image of a run. Two with one hash are equal.

    Args:
        sha256: Hash of the upright RGB pixels, row by row, three bytes each.
        size: In pixels.
        pixels: RGB, of that size and hash; None where the pixels were not saved.
    """

    sha256: str
    size: Size
    pixels: Annotated[Image | None, PlainValidator(_refuse_field), Field(exclude=True)] = field(
        default=None, compare=False, repr=False
    )

    @classmethod
    def of(cls, image: Image) -> "RecordedImage":
        """Record an RGB image, which must not be drawn on afterwards."""
        return cls(hashlib.sha256(image.tobytes()).hexdigest(), Size(*image.size), image)


@dataclass(frozen=True)
class Failure:
    """The error that ended a run: the name of its class, and its message."""

    type: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a person says of the result.

    Args:
        accepted: Whether the result, or the correction in `objects`, may be trained on; None where nobody has judged it.
        comment: Free text.
        objects: The correct masks where the result's are wrong, () where there is no such object; None for the result's own.
    """

    accepted: bool | None = None
    comment: str = ""
    objects: tuple[RunLengthMask, ...] | None = None


@dataclass(frozen=True)
class TraceSettings:
    """The models and the settings of a run, as in `ModelTraits` and `SegmentationConfig`, with all of the dialect."""

    dialect: Dialect
    sampler: Annotated[KnownSampler, PlainValidator(_read_sampler), PlainSerializer(_write_sampler)] = Grid()
    thresholds: Thresholds = Thresholds()
    retries: int = 2
    calibration: Calibration = Calibration()
    abstain: float = 0.0
    max_points: Annotated[int, Field(alias="budget")] = 225
    refine_crops: Annotated[bool, Field(alias="closer")] = True
    greedy: Annotated[bool, Field(alias="repeats")] = False
    mllm: str = "the MLLM"
    segmenter: str = "the segmenter"
    weights: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, traits: ModelTraits, config: SegmentationConfig) -> "TraceSettings":
        """Collect what a run depends on.

        Raises:
            TraceError: The sampler is not one that a trace can hold.
        """
        if not isinstance(config.sampler, get_args(KnownSampler)):
            raise TraceError(f"a trace can't hold a sampler of type {type(config.sampler).__name__}")
        return cls(
            dialect=traits.dialect,
            sampler=config.sampler,
            thresholds=config.thresholds,
            retries=config.retries,
            calibration=traits.calibration,
            abstain=config.abstain,
            max_points=config.max_points,
            refine_crops=config.refine_crops,
            greedy=traits.greedy,
            mllm=traits.mllm,
            segmenter=traits.segmenter,
            weights=dict(traits.weights),
        )

    @property
    def traits(self) -> ModelTraits:
        """What the run knew of its models."""
        return ModelTraits(self.dialect, self.calibration, self.greedy, self.mllm, self.segmenter, weights=self.weights)

    @property
    def config(self) -> SegmentationConfig:
        """The settings. Raises ValueError where one is out of its range."""
        return SegmentationConfig(
            sampler=self.sampler,
            thresholds=self.thresholds,
            retries=self.retries,
            abstain=self.abstain,
            max_points=self.max_points,
            refine_crops=self.refine_crops,
        )


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One run.

    Args:
        image: The image that the run was on.
        settings: Models and settings, as they were.
        expression: As the caller gave it; None for a flow that is no method's, such as a tool's single turn.
        method: As in `Sam4Mllm.segment`; None likewise.
        steps: In order.
        result: `Segmentation.to_dict()`; None where the run failed or returned something else.
        error: What ended the run, if it failed.
        began: UTC, ISO 8601.
        seconds: From the start of the run to its end.
        written_by: The package's version.
        verdict: Of a person.
        broken_seal: The seal in the file that the trace was read from, where it doesn't fit the content; else "".
    """

    __pydantic_config__ = ConfigDict(**STRICT)

    image: Annotated[RecordedImage, Field(alias="picture")]
    settings: TraceSettings
    expression: str | None = None
    method: str | None = None
    steps: tuple[
        Annotated[Annotated[MLLMStep, Tag("MLLMStep")] | Annotated[SegmentStep, Tag("SegmentStep")], Discriminator(_step_kind)],
        ...,
    ]
    result: Mapping[str, Any] | None = None
    error: Failure | None = None
    began: str
    seconds: float
    written_by: str
    verdict: Verdict = Verdict()
    broken_seal: Annotated[str, PlainValidator(_refuse_field), Field(exclude=True)] = field(default="", compare=False)

    @property
    def altered(self) -> bool:
        """Whether the file was changed after it was written, the verdict aside."""
        return bool(self.broken_seal)

    @property
    def is_of_method(self) -> bool:
        """Whether the run is one of a method that `Sam4Mllm.segment` can run again."""
        return self.expression is not None and self.method in METHODS

    @property
    def exchanges(self) -> Iterator[Exchange]:
        """All questions with their replies, in order."""
        return (exchange for step in self.steps if isinstance(step, MLLMStep) for exchange in step.exchanges)

    @property
    def objects(self) -> Iterator[RecordedObject]:
        """All objects that the segmenter gave, in order."""
        return (segmented for step in self.steps if isinstance(step, SegmentStep) for segmented in step.objects)

    @property
    @deprecated("`picture` is now `image`")
    def picture(self) -> RecordedImage:
        """The name of `image` before version 0.2."""
        return self.image

    @property
    @deprecated("`found` is now `objects`")
    def found(self) -> Iterator[RecordedObject]:
        """The name of `objects` before version 0.2."""
        return self.objects


@dataclass(frozen=True)
class ResultObject:
    """One object of a recorded result, as in `types.SegmentedObject`."""

    box: Box
    points: tuple[PointPrompt, ...]
    score: float
    mask: RunLengthMask
    confidence: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class RecordedPointAnswer:
    """An answer about a point, as `types.PointAnswer` is written."""

    box: Box
    x: float
    y: float
    label: Label
    kept: bool
    confidence: float | None = None


@dataclass(frozen=True)
class RecordedResult:
    """A recorded result, as in `types.Segmentation`, with its masks as run lengths."""

    expression: str
    size: Size
    objects: tuple[ResultObject, ...]
    turns: tuple[Turn, ...]
    notes: tuple[str, ...]
    confidence: float | None = None
    point_answers: tuple[RecordedPointAnswer, ...] | None = None
    warnings: tuple[str, ...] = ()
    abstained: bool = False

    __pydantic_config__ = ConfigDict(**{**STRICT, "extra": "ignore"})


def read_result(result: Mapping[str, Any]) -> RecordedResult:
    """Read a result's JSON; keys that another version adds are ignored.

    Raises:
        TraceError: The place that is wrong.
    """
    size = result.get("size")
    if not isinstance(size, Mapping):
        raise TraceError(f"trace.result.size should be an object, it is {size!r}")
    recorded = from_plain(RecordedResult, {**result, "size": [size.get("width"), size.get("height")]}, "trace.result")
    if "warnings" not in result and recorded.confidence is None:  # before version 0.3, and of a method of the paper
        objects = tuple(replace(each, confidence=None, agreement=each.confidence) for each in recorded.objects)
        return replace(recorded, objects=objects)
    return recorded
