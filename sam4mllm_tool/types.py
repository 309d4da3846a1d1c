"""The values that pass between the packages.

Pixel coordinates are floats on the original image, x right, y down, (0, 0) the top-left corner of the top-left pixel, as in
Segment Anything's own API. Arrays are (H, W). All values are frozen, and no model library is imported here.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage
from pydantic import Field

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.output_methods import OutputMethods

Image: TypeAlias = PILImage.Image
"""An upright RGB image; `images.load_image` makes one from a path, bytes, an array, a data URI or a URL."""
Mask: TypeAlias = npt.NDArray[np.bool_]
"""(H, W) bool, on the original image."""
Label: TypeAlias = Literal[0, 1]
"""1 on the object, 0 off it."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Point(NamedTuple):
    """A position in pixels."""

    x: float
    y: float


class Box(NamedTuple):
    """Corners in pixels, x1 < x2 and y1 < y2; x2 and y2 are one past the last pixel, as in COCO."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        """In pixels."""
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        """In pixels."""
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """In square pixels; 0 for a box whose corners are swapped."""
        return max(0.0, self.width) * max(0.0, self.height)

    @property
    def center(self) -> Point:
        """The point in the middle."""
        return Point((self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2)

    def clip(self, size: Size) -> "Box":
        """The part of the box inside an image of `size`; a box wholly outside becomes empty, at the nearest edge."""
        (x1, x2), (y1, y2) = (
            (min(max(low, 0.0), float(side)), min(max(high, 0.0), float(side)))
            for low, high, side in ((self.x1, self.x2, size.width), (self.y1, self.y2, size.height))
        )
        return Box(x1, y1, x2, y2)

    def contains(self, x: float, y: float) -> bool:
        """Whether the point is inside the box or on its edge."""
        return self.x1 <= x <= self.x2 and self.y1 <= y <= self.y2

    def iou(self, other: "Box") -> float:
        """Intersection over union with another box, in [0, 1]; 0 where both are empty."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        shared = max(0.0, width) * max(0.0, height)
        return shared / max(self.area + other.area - shared, 1e-9)


@dataclass(frozen=True)
class PointPrompt:
    """A point with its label.

    Args:
        x: In pixels.
        y: In pixels.
        label: 1 on the object, 0 off it.
        confidence: Probability of that label in [0, 1]; None where the backend gave none.
    """

    x: float
    y: float
    label: Label
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"x": self.x, "y": self.y, "label": self.label, "confidence": self.confidence}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "PointPrompt":
        """Read what `to_dict` wrote. Raises ValueError for anything else."""
        with _reading("a point"):
            if fields["label"] not in (0, 1):
                raise ValueError(f"expected a label of 0 or 1, got {fields['label']!r}")
            label: Label = 1 if fields["label"] else 0
            return cls(float(fields["x"]), float(fields["y"]), label, _read_probability(fields["confidence"]))


@dataclass(frozen=True)
class PointAnswer:
    """What the MLLM answered about a point.

    Args:
        box: The box that the point was asked about, in pixels.
        point: The point with the answered label and its probability.
        kept: Whether the answer passed the thresholds, so that the segmenter was prompted with the point.
    """

    box: Box
    point: PointPrompt
    kept: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"box": list(self.box), **self.point.to_dict(), "kept": self.kept}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "PointAnswer":
        """Read what `to_dict` wrote. Raises ValueError for anything else."""
        with _reading("an answer about a point"):
            return cls(Box(*map(float, fields["box"])), PointPrompt.from_dict(fields), bool(fields["kept"]))


@dataclass(frozen=True)
class RunLengthMask:
    """A mask in COCO's compressed run lengths: a value that compares, hashes and goes into JSON.

    Args:
        size: Height and width in pixels.
        counts: The run lengths.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: Mask) -> "RunLengthMask":
        """Encode a (H, W) bool mask."""
        code = rle.encode(mask)
        return cls((code["size"][0], code["size"][1]), code["counts"])

    def mask(self) -> Mask:
        """Decode to (H, W) bool. Raises ValueError where size and counts don't fit."""
        return rle.decode({"size": self.size, "counts": self.counts})

    def check(self) -> None:
        """Raise the ValueError that `mask` would raise, without making the mask."""
        rle.check({"size": self.size, "counts": self.counts})


@dataclass(frozen=True)
class ObjectPrompt:
    """What the segmenter is prompted with for one object.

    Args:
        box: Around the object, in pixels.
        points: On the object and off it.
        mask_input: The object's mask of an earlier round, of the image's size, for the segmenter to refine.
        points_only: Whether the segmenter is prompted without the box, which then only says where the object is: around its
            points before (`from_points`), around its mask afterwards.
    """

    box: Box
    points: tuple[PointPrompt, ...] = ()
    mask_input: RunLengthMask | None = None
    points_only: Annotated[bool, Field(exclude_if=operator.not_)] = False

    @classmethod
    def from_points(cls, points: Sequence[PointPrompt], mask_input: RunLengthMask | None = None) -> "ObjectPrompt":
        """Return a prompt without a box; the segmenter sets `box` to that of the mask.

        Raises:
            ValueError: No point is on the object.
        """
        on_object = [point for point in points if point.label == 1]
        if not on_object:
            raise ValueError("expected a prompt of points to have a point on the object, with label 1")
        xs, ys = [point.x for point in on_object], [point.y for point in on_object]
        return cls(Box(min(xs), min(ys), max(xs), max(ys)), tuple(points), mask_input, points_only=True)


@dataclass(frozen=True)
class Turn:
    """One turn of a chat. The image belongs to the first user turn and is not written into its text."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class FreeText:
    """The expected answer is free text of at most `max_tokens` tokens."""

    max_tokens: int


@dataclass(frozen=True)
class Labels:
    """The expected answer is exactly `count` of the given words, so that a backend may score them instead of decoding."""

    count: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """Turns that end with a user turn, and what kind of answer is expected."""

    turns: tuple[Turn, ...]
    answer: FreeText | Labels


class Tokens(NamedTuple):
    """Numbers of tokens.

    Args:
        read: Tokens of the prompt, the image's and those shared with other questions included.
        written: Tokens of the reply.
    """

    read: int
    written: int


@dataclass(frozen=True)
class Reply:
    """What the model replied.

    Args:
        text: The reply's text.
        label_probabilities: For a `Labels` answer one row per label, in the order of its words, each row summing to 1; None
            where the backend can't know them.
        log_probability: For a `FreeText` answer the natural logarithm of the whole text's probability; None where unknown.
        tokens: None where unknown.
        cached_tokens: Those of the tokens read that a server took from its prefix cache, as it reports them; None where it
            reports none.
        requests: Requests to a server that the reply took, repeated ones and votes included; None for a model that runs here.
            0 where the question was asked together with another one, which counts the request.
    """

    text: str
    label_probabilities: tuple[tuple[float, ...], ...] | None = None
    log_probability: float | None = None
    tokens: Tokens | None = None
    cached_tokens: int | None = field(default=None, compare=False)
    requests: int | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class MaskCandidate:
    """One of Segment Anything's proposals for a prompt.

    Args:
        mask: (H, W) bool.
        score: Predicted IoU in [0, 1].
    """

    mask: Mask
    score: float


@dataclass(frozen=True, eq=False)
class Proposal:
    """An instance of a concept that a segmenter finds by words.

    Args:
        box: Around it, in pixels.
        mask: (H, W) bool.
        score: How sure the segmenter is that it is one, in [0, 1].
    """

    box: Box
    mask: Mask
    score: float


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """One segmented object.

    Args:
        mask: (H, W) bool.
        prompt: The box and points that the segmenter was prompted with.
        score: Segment Anything's predicted IoU of the mask, in [0, 1].
        confidence: Calibrated probability in [0, 1] that this is an object that the expression means. `adaptive` asks the MLLM
            for it. None where nobody asked, as with the paper's methods and with clicks, where the MLLM gives no
            probabilities, and where `Segmentation.warnings` say that they mean nothing.
        alternatives: The candidates that were not chosen, best first; empty where they would take too much memory.
        agreement: How well the mask agrees with the kept point answers, in [0, 1] (`balanced_agreement`). It tells a good
            mask from a bad one, and hardly a wrong box from a right one. None with fewer than two points on the object.
        expression: What this object was found by, which may be a part of the result's expression ("the mug" of "the mug and
            the spoon"); None before it is in a result.
    """

    mask: Mask
    prompt: ObjectPrompt
    score: float
    confidence: float | None = None
    alternatives: tuple[MaskCandidate, ...] = ()
    agreement: float | None = None
    expression: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON, the mask as a COCO RLE; of the prompt its box and points."""
        return {
            "box": list(self.prompt.box),
            "points": [point.to_dict() for point in self.prompt.points],
            "score": self.score,
            "confidence": self.confidence,
            "agreement": self.agreement,
            "expression": self.expression,
            "mask": rle.encode(self.mask),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SegmentedObject":
        """Read what `to_dict` wrote; the alternatives are not in it. Raises ValueError for anything else."""
        with _reading("an object"):
            points = tuple(PointPrompt.from_dict(point) for point in fields["points"])
            prompt = ObjectPrompt(Box(*map(float, fields["box"])), points)
            confidence, agreement = (_read_probability(fields.get(name)) for name in ("confidence", "agreement"))
            expression = None if fields.get("expression") is None else str(fields["expression"])
            mask, score = rle.decode(fields["mask"]), float(fields["score"])
            return cls(mask, prompt, score, confidence, agreement=agreement, expression=expression)


@dataclass(frozen=True)
class Usage:
    """What a segmentation took.

    Args:
        mllm: The MLLM's name.
        segmenter: The segmenter's name.
        questions: Number of questions that were asked.
        seconds: Seconds per backend, `mllm` and `segmenter`.
        tokens: None where the model doesn't report them.
        rounds: Number of calls of the MLLM, however many questions each call held.
        dialect: The name of the dialect in which the MLLM was asked; empty in results of older versions.
        cached_tokens: Those of the tokens read that a server took from its prefix cache; None where it reports none.
        requests: Requests to a server, repeated ones included; None where the MLLM runs here.
        weights: What identifies the weights of `base`, `adapter` and `segmenter`, where they are here: a hash or a commit.
    """

    mllm: str = ""
    segmenter: str = ""
    questions: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: Tokens | None = None
    rounds: int = 0
    dialect: str = ""
    cached_tokens: int | None = None
    requests: int | None = None
    weights: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON; `cached_tokens`, `requests` and `weights` are there only where they are known."""
        remote = {"cached_tokens": self.cached_tokens, "requests": self.requests}
        return {
            "models": {"mllm": self.mllm, "segmenter": self.segmenter},
            "dialect": self.dialect,
            "questions": self.questions,
            "rounds": self.rounds,
            "tokens": None if self.tokens is None else {"read": self.tokens.read, "written": self.tokens.written},
            "seconds": dict(self.seconds),
            **{name: count for name, count in remote.items() if count is not None},
            **({"weights": dict(self.weights)} if self.weights else {}),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Usage":
        """Read what `to_dict` wrote. Raises ValueError for anything else."""
        with _reading("usage"):
            models, tokens = fields["models"], fields["tokens"]
            counts = None if tokens is None else Tokens(int(tokens["read"]), int(tokens["written"]))
            seconds = {str(backend): float(duration) for backend, duration in fields["seconds"].items()}
            names = str(models["mllm"]), str(models["segmenter"])
            cached, requests = (int(fields[name]) if name in fields else None for name in ("cached_tokens", "requests"))
            questions, rounds, dialect = int(fields["questions"]), int(fields["rounds"]), str(fields.get("dialect", ""))
            weights = {str(part): str(identity) for part, identity in fields.get("weights", {}).items()}
            return cls(*names, questions, seconds, counts, rounds, dialect, cached, requests, weights)


@dataclass(frozen=True, eq=False)
class Segmentation(OutputMethods):
    """The result for an expression. No objects means "there is no such object", which is a valid answer, unless `abstained`.

    Args:
        expression: As it was asked about.
        size: Of the image, in pixels.
        objects: In the order in which the model named them.
        turns: The transcript in order, unreadable replies included. Questions that were asked at once follow one another,
            each with its reply.
        usage: Models, questions, tokens, seconds.
        notes: What did not go as expected (an answer asked for again, points dropped), in plain words.
        confidence: The lowest confidence of the objects, or the probability that there is none, in [0, 1]; None where
            unknown, as with the paper's methods.
        point_answers: Every answer about a point, those that the thresholds dropped included (`kept=False`).
        warnings: Why the answer as a whole may mean nothing, as on an image unlike those that the models know, in plain words.
        abstained: Whether objects were found and all left out because their confidence is below `SegmentationConfig.abstain`:
            the answer is "not sure enough", and has no confidence.
    """

    expression: str
    size: Size
    objects: tuple[SegmentedObject, ...]
    turns: tuple[Turn, ...] = ()
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    confidence: float | None = None
    point_answers: tuple[PointAnswer, ...] = ()
    warnings: tuple[str, ...] = ()
    abstained: bool = False

    @property
    def mask(self) -> Mask:
        """The union of the objects' masks, (H, W) bool."""
        union = np.zeros((self.size.height, self.size.width), np.bool_)
        for segmented in self.objects:
            union |= segmented.mask
        return union

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON: size, objects, transcript, point answers, models and timings."""
        return {
            "expression": self.expression,
            "size": {"width": self.size.width, "height": self.size.height},
            "objects": [segmented.to_dict() for segmented in self.objects],
            "confidence": self.confidence,
            "abstained": self.abstained,
            "warnings": list(self.warnings),
            "turns": [{"role": turn.role, "text": turn.text} for turn in self.turns],
            "notes": list(self.notes),
            "point_answers": [answer.to_dict() for answer in self.point_answers],
            **self.usage.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Segmentation":
        """Read what `to_dict` wrote, from a mapping that may hold other keys too, such as a tool's artifact.

        Results written before version 0.3 have no warnings and gave the agreement of the paper's methods as confidence; those
        before 0.2 have no point answers either.

        Raises:
            ValueError: The mapping is none that `to_dict` wrote. A mask of another size than the image is refused before any
                mask is decoded.
        """
        with _reading("a segmentation"):
            size = Size(int(fields["size"]["width"]), int(fields["size"]["height"]))
            for segmented in fields["objects"]:
                if list(segmented["mask"]["size"]) != [size.height, size.width]:
                    shapes = f"a mask is of {segmented['mask']['size']}, the image of {[size.height, size.width]}"
                    raise ValueError(shapes)
            confidence = _read_probability(fields["confidence"])
            objects = tuple(map(SegmentedObject.from_dict, fields["objects"]))
            if confidence is None and "warnings" not in fields:
                objects = tuple(replace(each, confidence=None, agreement=each.confidence) for each in objects)
            return cls(
                str(fields["expression"]),
                size,
                objects,
                tuple(Turn(_read_role(turn["role"]), str(turn["text"])) for turn in fields["turns"]),
                Usage.from_dict(fields),
                tuple(map(str, fields["notes"])),
                confidence,
                tuple(map(PointAnswer.from_dict, fields.get("point_answers", ()))),
                tuple(map(str, fields.get("warnings", ()))),
                bool(fields.get("abstained", False)),
            )


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what JSON of another shape raises into a ValueError."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{name} has no {error}") from error
    except (TypeError, AttributeError, OverflowError, IndexError) as error:
        raise ValueError(f"{name} is of another shape: {error}") from error


def _read_probability(value: Any) -> float | None:
    if value is None:
        return None
    if not 0 <= float(value) <= 1:
        raise ValueError(f"expected a probability in [0, 1], got {value}")
    return float(value)


def _read_role(value: Any) -> Literal["system", "user", "assistant"]:
    if value not in ("system", "user", "assistant"):
        raise ValueError(f"expected the role system, user or assistant, got {value!r}")
    role: Literal["system", "user", "assistant"] = value
    return role


class MLLM(Protocol):
    """A multimodal language model that answers questions about an image.

    Deterministic backends set an attribute `greedy = True`; identical retries are skipped. A backend that knows which images it
    was trained for has a method `check_image(image) -> str | None`: one line of warning about an image unlike those. It is
    called after every reply about a whole image, so it keeps its answer about the last one.
    """

    @property
    def name(self) -> str:
        """The spec that the model was loaded from."""

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Answer all questions about the image.

        Args:
            image: RGB, any size.
            questions: Questions that are pending at once; they share their first turns, so that work can be shared.

        Returns:
            One reply per question, in order.

        Raises:
            BackendError: The model failed, for example by running out of memory.
        """

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Do as `reply` does, without blocking the event loop."""


class Segmenter(Protocol):
    """A model that turns boxes and points into masks.

    One that also finds instances by words has a method `propose(image, phrase) -> Sequence[Proposal]`, best first, for a short
    noun phrase such as "red mug"; without it, or where it is None, `adaptive` relies on the MLLM's boxes alone. One that can
    encode an image while the MLLM answers has a method `prepare(image)`, which returns at once and never raises.
    """

    @property
    def name(self) -> str:
        """The spec that the model was loaded from."""

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Predict one mask per prompt, on the image's own pixel grid.

        Args:
            image: RGB, any size. It is encoded once, however many prompts follow.
            prompts: Boxes and points in pixels of `image`.

        Returns:
            Objects in prompt order. Each mask is (H, W) bool; `score` is SAM's predicted IoU in [0, 1].

        Raises:
            BackendError: The model failed, for example by running out of memory.
        """

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Do as `segment` does, without blocking the event loop."""
