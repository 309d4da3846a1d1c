"""From an expression and a picture to masks: an MLLM and a segmenter, and the drivers that serve a flow (flows.py) with them.

Blocking, async, or many at once: what a flow asks for is answered by the models, so all three give the same.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sam4mllm_tool.errors import ExpressionError, ReplyError
from sam4mllm_tool.geometry.crops import ImageTransform
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.models.metadata import find_dialect
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.pipeline.methods import METHODS, Method, Methods
from sam4mllm_tool.pipeline.requests import WITHOUT_POINTS, Flow, MLLMRequest, Request, SegmentRequest, Transcript
from sam4mllm_tool.protocol import PLAIN, Dialect, Grid, Sampler, Thresholds
from sam4mllm_tool.types import (
    MLLM,
    Image,
    ObjectPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Segmenter,
    Size,
)

__all__ = ["METHODS", "WITHOUT_POINTS", "Method", "Sam4Mllm", "find_dialect"]

S = TypeVar("S")
T = TypeVar("T")


class Sam4Mllm:
    """An MLLM and a segmenter that together turn an expression into masks.

    dialect: how the MLLM is spoken to. sampler, thresholds: where PQPP asks and which answers it keeps; the paper's 5 x 5
    grid, P(Yes) > 0.75 and P(No) > 0.9. retries: how often an unreadable reply is asked for again, with a correction where
    the dialect has words for one, else in the same words, which is left out for a model that would only repeat itself
    (`MLLM`). After that PQPP and PPG go on without points, and a box that cannot be read is a ReplyError. calibration: what
    makes a probability of what the MLLM says of an object. abstain: objects of a confidence below it are left out, with a note;
    0 leaves none out, and what has no confidence stays. budget: about how many points `adaptive` may ask for one expression;
    it asks about nine an object. closer: whether `adaptive` makes the masks of small objects anew from close by, for which the
    segmenter sees up to three views an object more.
    """

    def __init__(
        self,
        mllm: MLLM,
        segmenter: Segmenter,
        *,
        dialect: Dialect = PLAIN,
        sampler: Sampler = Grid(),
        thresholds: Thresholds = Thresholds(),
        retries: int = 2,
        calibration: Calibration = Calibration(),
        abstain: float = 0.0,
        budget: int = 225,
        closer: bool = True,
    ) -> None:
        if budget < 0:
            raise ValueError(f"budget is a number of points from 0 on, not {budget}")
        if not 0 <= abstain <= 1:
            raise ValueError(f"abstain is a probability from 0 to 1, not {abstain}")
        self.mllm, self.segmenter, self.dialect = mllm, segmenter, dialect
        self.sampler, self.thresholds, self.retries = sampler, thresholds, retries
        self.calibration, self.abstain, self.budget, self.closer = calibration, abstain, budget, closer

    @classmethod
    def load(
        cls,
        mllm: str | None = None,
        segmenter: str | None = None,
        *,
        dialect: str | Dialect | None = None,
        device: str | None = None,
        dtype: str | None = None,
        sampler: Sampler = Grid(),
        thresholds: Thresholds = Thresholds(),
        retries: int = 2,
        calibration: Calibration | None = None,
        abstain: float = 0.0,
        budget: int = 225,
        closer: bool = True,
    ) -> "Sam4Mllm":
        """Loads both models by their specs: `embedded`, a local folder, or a hub id; `+ADAPTER` adds a LoRA adapter.

        Without a spec, the environment's SAM4MLLM_MLLM and SAM4MLLM_SEGMENTER, else `embedded`. dialect: a name among
        `protocol.DIALECTS` or a value; by default the dialect.json beside the adapter or the model, else `plain`. calibration:
        by default the calibration.json there, else the model is taken at its word.
        Raises SpecError or MissingExtraError, in one line that says what to do.
        """
        mllm = (os.environ.get("SAM4MLLM_MLLM") or "embedded") if mllm is None else mllm
        segmenter = (os.environ.get("SAM4MLLM_SEGMENTER") or "embedded") if segmenter is None else segmenter
        spoken = dialect if isinstance(dialect, Dialect) else find_dialect(mllm, dialect)
        return cls(
            load_mllm(mllm, device=device, dtype=dtype),
            load_segmenter(segmenter, device=device, dtype=dtype),
            dialect=spoken,
            sampler=sampler,
            thresholds=thresholds,
            retries=retries,
            calibration=find_calibration(mllm) if calibration is None else calibration,
            abstain=abstain,
            budget=budget,
            closer=closer,
        )

    @property
    def flows(self) -> Methods:
        """How these models are worked with, for whoever composes steps of their own and drives them with `run`."""
        return Methods(
            self.dialect,
            sampler=self.sampler,
            thresholds=self.thresholds,
            retries=self.retries,
            calibration=self.calibration,
            abstain=self.abstain,
            budget=self.budget,
            closer=self.closer,
            repeats=getattr(self.mllm, "greedy", False),
            mllm=self.mllm.name,
            segmenter=self.segmenter.name,
        )

    def segment(
        self, image: ImageSource, expression: str, *, method: Method = "pqpp", policy: ImagePolicy = CALLER_POLICY
    ) -> Segmentation:
        """The objects that the expression means; none if there is no such object.

        image: whatever `images.load_image` takes under `policy`. method: the paper's `pqpp`, `ppg` or `box`, or `adaptive`.
        Raises ImageError, ExpressionError, ReplyError (the boxes stay unreadable), BackendError.
        """
        picture = load_image(image, policy=policy)
        talk = Transcript()
        return self.run(picture, self.flows.segment(expression, Size(*picture.size), method, talk), talk)

    async def asegment(
        self, image: ImageSource, expression: str, *, method: Method = "pqpp", policy: ImagePolicy = CALLER_POLICY
    ) -> Segmentation:
        """As `segment`, without blocking the event loop."""
        picture = await asyncio.to_thread(load_image, image, policy=policy)
        talk = Transcript()
        return await self.arun(picture, self.flows.segment(expression, Size(*picture.size), method, talk), talk)

    def run(self, picture: Image, flow: Flow[T], talk: Transcript | None = None) -> T:
        """What the flow comes to, its questions and prompts answered about the picture. talk: where the seconds go.

        Raises what the flow and the models raise.
        """
        result: list[Reply] | list[SegmentedObject] | None = None
        while True:
            need, done = _advance(flow, result)
            if need is None:
                return done  # type: ignore[return-value]
            began = time.perf_counter()
            shown = _shown(picture, need.sight)
            if isinstance(need, MLLMRequest):
                result = self._validate_replies(need.questions, self.mllm.reply(shown, need.questions))
            else:
                result = self._validate_objects(shown, need.prompts, self.segmenter.segment(shown, need.prompts))
            _record(talk, need, time.perf_counter() - began)

    async def arun(self, picture: Image, flow: Flow[T], talk: Transcript | None = None) -> T:
        """As `run`, without blocking the event loop: the flow's own work is done beside it, too."""
        result: list[Reply] | list[SegmentedObject] | None = None
        while True:
            need, done = await asyncio.to_thread(_advance, flow, result)
            if need is None:
                return done  # type: ignore[return-value]
            began = time.perf_counter()
            shown = await asyncio.to_thread(_shown, picture, need.sight)
            if isinstance(need, MLLMRequest):
                result = self._validate_replies(need.questions, await self.mllm.areply(shown, need.questions))
            else:
                result = self._validate_objects(shown, need.prompts, await self.segmenter.asegment(shown, need.prompts))
            _record(talk, need, time.perf_counter() - began)

    def segment_many(
        self, pairs: Iterable[tuple[ImageSource, str]], *, method: Method = "pqpp", policy: ImagePolicy = CALLER_POLICY
    ) -> list[Segmentation]:
        """One Segmentation per (image, expression), in order. Neighbouring pairs of one image share its work.

        Expressions of the same image object are asked side by side and segmented together. Raises what `segment` raises,
        for the first pair that fails; `segment_group` is the call that keeps the others.
        """
        results: list[Segmentation] = []
        for image, expressions in _neighbours(pairs):
            for outcome in self.segment_group(image, expressions, method=method, policy=policy):
                if isinstance(outcome, Exception):
                    raise outcome
                results.append(outcome)
        return results

    def segment_group(
        self,
        image: ImageSource,
        expressions: Sequence[str],
        *,
        method: Method = "pqpp",
        policy: ImagePolicy = CALLER_POLICY,
    ) -> list[Segmentation | ReplyError | ExpressionError]:
        """Several expressions about one picture, in lock-step: one call to the MLLM a round, one to the segmenter.

        A bad expression or an unreadable reply takes the place of its result; the others go on. Raises ImageError,
        BackendError.
        """
        picture = load_image(image, policy=policy)
        outcomes: dict[int, Segmentation | ReplyError | ExpressionError] = {}
        size, talks = Size(*picture.size), [Transcript() for _ in expressions]
        flows = [self.flows.segment(text, size, method, talk) for text, talk in zip(expressions, talks, strict=True)]
        needs: dict[int, Request] = {}

        def advance(index: int, result: list[Reply] | list[SegmentedObject] | None) -> None:
            try:
                needs[index] = next(flows[index]) if result is None else flows[index].send(result)
            except StopIteration as done:
                outcomes[index] = done.value
            except (ReplyError, ExpressionError) as error:
                outcomes[index] = error

        for index in range(len(flows)):
            advance(index, None)
        while needs:
            # masks wait until every dialogue of the picture is done; what is shown otherwise waits for its own call
            first = next((need for need in needs.values() if isinstance(need, MLLMRequest)), next(iter(needs.values())))
            alike = {i: need for i, need in needs.items() if type(need) is type(first) and need.sight == first.sight}
            asking = {i: need.questions for i, need in alike.items() if isinstance(need, MLLMRequest)}
            prompting = {i: need.prompts for i, need in alike.items() if isinstance(need, SegmentRequest)}
            began = time.perf_counter()
            shown = _shown(picture, first.sight)
            shares: dict[int, list[Reply]] | dict[int, list[SegmentedObject]]
            if asking:
                questions = _chain(asking)
                shares = _deal(self._validate_replies(questions, self.mllm.reply(shown, questions)), asking)
            else:
                prompts = _chain(prompting)
                objects = self._validate_objects(shown, prompts, self.segmenter.segment(shown, prompts))
                shares = _deal(objects, prompting)
            seconds = time.perf_counter() - began
            for index, share in shares.items():
                _record(talks[index], needs.pop(index), seconds / len(shares))
                advance(index, share)
        return [outcomes[index] for index in range(len(flows))]

    def _validate_replies(self, questions: Sequence[Question], replies: Sequence[Reply]) -> list[Reply]:
        return validate_replies(self.mllm.name, questions, replies)

    def _validate_objects(
        self, shown: Image, prompts: Sequence[ObjectPrompt], objects: Sequence[SegmentedObject]
    ) -> list[SegmentedObject]:
        return validate_objects(self.segmenter.name, Size(*shown.size), prompts, objects)


def _advance(flow: Flow[T], result: list[Reply] | list[SegmentedObject] | None) -> tuple[Request | None, T | None]:
    """What the flow needs next, or None and what it came to: a StopIteration can't leave a thread."""
    try:
        return next(flow) if result is None else flow.send(result), None
    except StopIteration as end:
        return None, end.value


def _record(talk: Transcript | None, need: Request, seconds: float) -> None:
    if talk is not None:
        talk.seconds["mllm" if isinstance(need, MLLMRequest) else "segmenter"] += seconds


def _shown(picture: Image, sight: ImageTransform | None) -> Image:
    return picture if sight is None else sight.picture(picture)


def _chain(groups: Mapping[int, Sequence[T]]) -> list[T]:
    return [item for group in groups.values() for item in group]


def _deal(items: Sequence[S], groups: Mapping[int, Sequence[T]]) -> dict[int, list[S]]:
    """Inverse of `_chain`: to each group as many items as it has members."""
    remaining = iter(items)
    return {index: list(islice(remaining, len(group))) for index, group in groups.items()}


def _neighbours(pairs: Iterable[tuple[ImageSource, str]]) -> list[tuple[ImageSource, list[str]]]:
    """Runs of pairs with the very same image (the same object, or an equal path or URI)."""
    runs: list[tuple[ImageSource, list[str]]] = []
    for image, expression in pairs:
        same = runs and (runs[-1][0] is image or (isinstance(image, str | Path) and runs[-1][0] == image))
        if same:
            runs[-1][1].append(expression)
        else:
            runs.append((image, [expression]))
    return runs
