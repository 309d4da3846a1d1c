"""The values that pass between the parts.

Pixel coordinates are floats on the original image, x right, y down, (0, 0) the top-left corner of the top-left pixel, as in
Segment Anything's own API. Arrays are (H, W). Everything here is frozen; nothing here imports a model library.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from sam4mllm_tool.geometry import rle

Image: TypeAlias = PILImage.Image
"""An RGB picture, upright; `images.load_image` makes one from anything."""
Mask: TypeAlias = npt.NDArray[np.bool_]
"""(H, W) bool on the original image."""
Label: TypeAlias = Literal[0, 1]
"""1 on the object, 0 off it."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int


class Point(NamedTuple):
    """A place in pixels."""

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
            (min(max(low, 0.0), side), min(max(high, 0.0), side))
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
    """A point with its answer. confidence: probability of that label in [0, 1], None where the backend gave none."""

    x: float
    y: float
    label: Label
    confidence: float | None = None


@dataclass(frozen=True)
class ObjectPrompt:
    """What Segment Anything is prompted with for one object."""

    box: Box
    points: tuple[PointPrompt, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One utterance. The picture goes with the first user turn and is not written into its text."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class FreeText:
    """An answer in the model's own words, of at most max_tokens tokens."""

    max_tokens: int


@dataclass(frozen=True)
class Labels:
    """An answer of exactly `count` of the given words, so that a backend may score them instead of decoding."""

    count: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """Turns that end with the user's, and what kind of answer is expected."""

    turns: tuple[Turn, ...]
    answer: FreeText | Labels


class Tokens(NamedTuple):
    """How many a model read, the picture's and those it could share with another question included, and how many it wrote."""

    read: int
    written: int


@dataclass(frozen=True)
class Reply:
    """What the model said.

    label_probabilities: for a `Labels` answer, one row per label, in the order of its words, each row summing to 1.
    log_probability: for a `FreeText` answer, the natural logarithm of the whole text's probability. Each is None where the
    backend cannot know it, as tokens is.
    """

    text: str
    label_probabilities: tuple[tuple[float, ...], ...] | None = None
    log_probability: float | None = None
    tokens: Tokens | None = None


@dataclass(frozen=True, eq=False)
class MaskCandidate:
    """One of Segment Anything's proposals for a prompt; score is its predicted IoU in [0, 1]."""

    mask: Mask
    score: float


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """One object found.

    score: Segment Anything's predicted IoU of the mask, in [0, 1]. confidence: how likely this is an object that was meant,
    in [0, 1]; None where the model gave no probabilities. The method `adaptive` asks the model that and calibrates its answer;
    the paper's methods don't, and estimate it by how far the mask agrees with the answers to the points that were kept, which
    hardly tells a wrong box from a right one. alternatives: the candidates not chosen, best first; none where they would take
    too much memory.
    """

    mask: Mask
    prompt: ObjectPrompt
    score: float
    confidence: float | None = None
    alternatives: tuple[MaskCandidate, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; the mask as a COCO RLE."""
        return {
            "box": list(self.prompt.box),
            "points": [{"x": p.x, "y": p.y, "label": p.label, "confidence": p.confidence} for p in self.prompt.points],
            "score": self.score,
            "confidence": self.confidence,
            "mask": rle.encode(self.mask),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "SegmentedObject":
        """Inverse of `to_dict`; the alternatives are not in it. Raises ValueError for what that never wrote."""
        with _read_back("an object"):
            points = tuple(_point_from(point) for point in told["points"])
            prompt = ObjectPrompt(Box(*map(float, told["box"])), points)
            return cls(rle.decode(told["mask"]), prompt, float(told["score"]), _probability(told["confidence"]))


@dataclass(frozen=True)
class Usage:
    """What a segmentation took: the models by name, questions asked, tokens where the model tells, seconds by step.

    rounds: how often the model was asked, whatever the number of questions side by side.
    """

    mllm: str = ""
    segmenter: str = ""
    questions: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: Tokens | None = None
    rounds: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "models": {"mllm": self.mllm, "segmenter": self.segmenter},
            "questions": self.questions,
            "rounds": self.rounds,
            "tokens": None if self.tokens is None else {"read": self.tokens.read, "written": self.tokens.written},
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Usage":
        """Inverse of `to_dict`. Raises ValueError for what that never wrote."""
        with _read_back("usage"):
            models, tokens = told["models"], told["tokens"]
            taken = None if tokens is None else Tokens(int(tokens["read"]), int(tokens["written"]))
            seconds = {str(step): float(took) for step, took in told["seconds"].items()}
            names = str(models["mllm"]), str(models["segmenter"])
            return cls(*names, int(told["questions"]), seconds, taken, int(told["rounds"]))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer to an expression. No objects means that there is no such object, which is a valid answer.

    turns: all that was said, in order, replies that could not be read too; questions that were asked side by side follow one
    another, each with its reply.
    notes: what did not go as asked (an answer asked for again, points dropped), in plain words.
    confidence: that of the least likely of its objects, or how likely it is that there is none, in [0, 1]; None where nobody
    knows, as with the paper's methods.
    """

    expression: str
    size: Size
    objects: tuple[SegmentedObject, ...]
    turns: tuple[Turn, ...] = ()
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    confidence: float | None = None

    @property
    def mask(self) -> Mask:
        """The union of the objects' masks, (H, W) bool."""
        union = np.zeros((self.size.height, self.size.width), np.bool_)
        for segmented in self.objects:
            union |= segmented.mask
        return union

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: size, objects, turns, models and timings."""
        return {
            "expression": self.expression,
            "size": {"width": self.size.width, "height": self.size.height},
            "objects": [segmented.to_dict() for segmented in self.objects],
            "confidence": self.confidence,
            "turns": [{"role": turn.role, "text": turn.text} for turn in self.turns],
            "notes": list(self.notes),
            **self.usage.to_dict(),
        }

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> "Segmentation":
        """Inverse of `to_dict`, whatever else is told beside, as in a tool's artifact.

        Raises ValueError, naming the fault, for what that never wrote; before any mask is decoded where one is of another size.
        """
        with _read_back("a segmentation"):
            size = Size(int(told["size"]["width"]), int(told["size"]["height"]))
            for found in told["objects"]:
                if list(found["mask"]["size"]) != [size.height, size.width]:
                    raise ValueError(f"a mask is of {found['mask']['size']}, the picture of {[size.height, size.width]}")
            return cls(
                str(told["expression"]),
                size,
                tuple(map(SegmentedObject.from_dict, told["objects"])),
                tuple(Turn(_role(turn["role"]), str(turn["text"])) for turn in told["turns"]),
                Usage.from_dict(told),
                tuple(map(str, told["notes"])),
                _probability(told["confidence"]),
            )


@contextmanager
def _read_back(what: str) -> Iterator[None]:
    """Whatever JSON of another shape raises, as a ValueError."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{what} has no {error}") from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{what} is of another shape: {error}") from error


def _point_from(told: Mapping[str, Any]) -> PointPrompt:
    if told["label"] not in (0, 1):
        raise ValueError(f"expected a label of 0 or 1, got {told['label']!r}")
    return PointPrompt(float(told["x"]), float(told["y"]), 1 if told["label"] else 0, _probability(told["confidence"]))


def _probability(told: Any) -> float | None:
    if told is None:
        return None
    if not 0 <= float(told) <= 1:
        raise ValueError(f"expected a probability in [0, 1], got {told}")
    return float(told)


def _role(told: Any) -> Literal["system", "user", "assistant"]:
    if told not in ("system", "user", "assistant"):
        raise ValueError(f"expected the role system, user or assistant, got {told!r}")
    role: Literal["system", "user", "assistant"] = told
    return role


class MLLM(Protocol):
    """A multimodal language model that answers questions about a picture.

    One that says the same whenever it is asked the same has a true attribute `greedy`, and is not asked in vain.
    """

    @property
    def name(self) -> str:
        """The spec it was loaded from."""

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question, in order. Questions pending at once share their first turns, so work can be shared."""

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`, without blocking the event loop."""


class Segmenter(Protocol):
    """A model that turns boxes and points into masks."""

    @property
    def name(self) -> str:
        """The spec it was loaded from."""

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """One mask per prompt, on the image's own pixel grid.

        image: RGB, any size; encoded once however many prompts follow.
        Returns objects in prompt order; each mask is (H, W) bool, score is SAM's predicted IoU in [0, 1].
        """

    async def asegment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """As `segment`, without blocking the event loop."""
