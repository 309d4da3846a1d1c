"""What a trace is: one run about one picture, everything that the models were asked and gave, and what a person makes of it.

Values alone, compared by what is in them: masks are kept as run lengths, the picture is known by the hash of its pixels.
Making one is recording.py's, files are files.py's.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.crops import Crop
from sam4mllm_tool.pipeline.methods import Methods
from sam4mllm_tool.protocol import Exchange
from sam4mllm_tool.types import Image, Mask, MaskCandidate, ObjectPrompt, SegmentedObject, Size

__all__ = [
    "Asked",
    "Candidate",
    "Failure",
    "Found",
    "Picture",
    "Prompted",
    "Runs",
    "Step",
    "Trace",
    "TraceError",
    "Verdict",
]


class TraceError(Sam4MllmError, ValueError):
    """A trace that can't be read, written, replayed or made lessons of. Names the file and the place in it."""


@dataclass(frozen=True)
class Runs:
    """A mask as COCO's compressed run lengths. size: height and width in pixels."""

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: Mask) -> "Runs":
        """Of a (H, W) bool mask."""
        code = rle.encode(mask)
        return cls((code["size"][0], code["size"][1]), code["counts"])

    def mask(self) -> Mask:
        """(H, W) bool. Raises ValueError where size and counts don't fit."""
        return rle.decode({"size": self.size, "counts": self.counts})


@dataclass(frozen=True)
class Candidate:
    """A mask that was not chosen, with the segmenter's predicted IoU."""

    mask: Runs
    score: float


@dataclass(frozen=True)
class Found:
    """A `SegmentedObject` as the segmenter gave it."""

    prompt: ObjectPrompt
    mask: Runs
    score: float
    confidence: float | None = None
    alternatives: tuple[Candidate, ...] = ()

    @classmethod
    def of(cls, thing: SegmentedObject) -> "Found":
        others = tuple(Candidate(Runs.of(other.mask), other.score) for other in thing.alternatives)
        return cls(thing.prompt, Runs.of(thing.mask), thing.score, thing.confidence, others)

    def object(self) -> SegmentedObject:
        """Inverse of `of`."""
        others = tuple(MaskCandidate(other.mask.mask(), other.score) for other in self.alternatives)
        return SegmentedObject(self.mask.mask(), self.prompt, self.score, self.confidence, others)


@dataclass(frozen=True)
class Asked:
    """Questions asked side by side, each with its reply. seconds: of them all; a share where others were asked along. shown:
    what of the picture, in words, where it was not the picture as it is; coordinates are then in pixels of that."""

    exchanges: tuple[Exchange, ...]
    seconds: float
    shown: str | None = None


@dataclass(frozen=True)
class Prompted:
    """What the segmenter was prompted with and what it found, prompt by prompt; seconds and shown as in `Asked`. view: the part
    of the picture that was shown, where it was one."""

    prompts: tuple[ObjectPrompt, ...]
    found: tuple[Found, ...]
    seconds: float
    shown: str | None = None
    view: Crop | None = None


Step: TypeAlias = Asked | Prompted


@dataclass(frozen=True)
class Picture:
    """sha256: of the upright RGB pixels, row by row, three bytes each. size: in pixels.

    image: RGB, of that size and those pixels; None where it was not kept. Two with one hash are equal.
    """

    sha256: str
    size: Size
    image: Image | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, image: Image) -> "Picture":
        """Of an RGB image, which is not to be drawn upon afterwards."""
        return cls(hashlib.sha256(image.tobytes()).hexdigest(), Size(*image.size), image)


@dataclass(frozen=True)
class Failure:
    """What a run ended with in place of a result. type: the error's class by name."""

    type: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a person says of the answer. accepted: None where nobody has said anything.

    objects: the right masks where the answer's are wrong, () where there is no such object; None: the answer's own.
    """

    accepted: bool | None = None
    comment: str = ""
    objects: tuple[Runs, ...] | None = None


@dataclass(frozen=True)
class Trace:
    """One run. Settings are those that it ran with, the models' names and the dialect's whole wording among them.

    expression: as it was asked, None for a flow that is no method's: a tool's single turn. method: as in
    `Sam4Mllm.segment`, None likewise. result: `Segmentation.to_dict()`, None where the run failed or gave something else.
    began: UTC, ISO 8601. seconds: from the first question to the end. written_by: the package's version. broken_seal: that of
    the file that it was read from, where it doesn't fit what the file holds; "" where all is well.
    """

    picture: Picture
    settings: Methods
    expression: str | None
    method: str | None
    steps: tuple[Step, ...]
    result: Mapping[str, Any] | None
    error: Failure | None
    began: str
    seconds: float
    written_by: str
    verdict: Verdict = Verdict()
    broken_seal: str = field(default="", compare=False)

    @property
    def altered(self) -> bool:
        """Whether the file had been changed after it was written, the verdict apart."""
        return bool(self.broken_seal)

    @property
    def exchanges(self) -> Iterator[Exchange]:
        """All questions with their replies, in order."""
        return (exchange for step in self.steps if isinstance(step, Asked) for exchange in step.exchanges)

    @property
    def found(self) -> Iterator[Found]:
        """All that the segmenter found, in order."""
        return (found for step in self.steps if isinstance(step, Prompted) for found in step.found)
