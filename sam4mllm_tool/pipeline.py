"""From an expression and a picture to masks: drives a dialogue over an MLLM and prompts a segmenter with what comes out.

What to do next is decided in one place, `_flow`, a generator that yields what it needs (questions answered, prompts
segmented) and takes the result; thin drivers serve it, blocking, async, or many at once, so that all three give the same.
"""

import asyncio
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from sam4mllm_tool import stable
from sam4mllm_tool.errors import BackendError, ExpressionError, ReplyError, SpecError
from sam4mllm_tool.images import CALLER_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.libraries import model_libraries
from sam4mllm_tool.mllm import load_mllm, split_spec
from sam4mllm_tool.protocol import (
    DIALECTS,
    PLAIN,
    PPG,
    PQPP,
    BoxOnly,
    Dialect,
    Dialogue,
    Exchange,
    Grid,
    Placed,
    Sampler,
    Thresholds,
    turns,
)
from sam4mllm_tool.segmenter import load_segmenter
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
    Usage,
)

Method: TypeAlias = Literal["pqpp", "ppg", "box", "adaptive"]
METHODS: tuple[Method, ...] = get_args(Method)
WITHOUT_POINTS = "went on without unreadable points"
"""How the note begins that says so."""
MAX_MASK_BYTES = 2**31
"""Of all masks of an expression together, a byte a pixel: 33 objects on the largest picture, 100 on one of 21 megapixels."""


@dataclass(frozen=True)
class _Ask:
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class _Prompt:
    prompts: tuple[ObjectPrompt, ...]


_Flow: TypeAlias = Generator[_Ask | _Prompt, Any, Segmentation]
"""Yields what it needs and is sent it: a list of Reply, or of SegmentedObject."""


@dataclass
class _Clock:
    """What one expression took."""

    questions: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"mllm": 0.0, "segmenter": 0.0})


@dataclass
class _Talk:
    """What was said about an expression, and what did not go as asked."""

    said: list[Exchange] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


D = TypeVar("D", bound=Dialogue)


class Sam4Mllm:
    """An MLLM and a segmenter that together turn an expression into masks.

    dialect: how the MLLM is spoken to. sampler, thresholds: where PQPP asks and which answers it keeps; the paper's 5 x 5
    grid, P(Yes) > 0.75 and P(No) > 0.9. retries: how often an unreadable reply is asked for again, with a correction where
    the dialect has words for one, else in the same words, which is left out for a model that would only repeat itself
    (`MLLM`). After that PQPP and PPG go on without points, and a box that cannot be read is a ReplyError.
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
    ) -> None:
        self.mllm, self.segmenter, self.dialect = mllm, segmenter, dialect
        self.sampler, self.thresholds, self.retries = sampler, thresholds, retries

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
    ) -> "Sam4Mllm":
        """Loads both models by their specs: `embedded`, a local folder, or a hub id; `+ADAPTER` adds a LoRA adapter.

        Without a spec, the environment's SAM4MLLM_MLLM and SAM4MLLM_SEGMENTER, else `embedded`. dialect: a name among
        `protocol.DIALECTS` or a value; by default the dialect.json beside the adapter or the model, else `plain`.
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
        )

    def segment(
        self, image: ImageSource, expression: str, *, method: Method = "pqpp", policy: ImagePolicy = CALLER_POLICY
    ) -> Segmentation:
        """The objects that the expression means; none if there is no such object.

        image: whatever `images.load_image` takes under `policy`. method: `pqpp`, `ppg` or `box`.
        Raises ImageError, ExpressionError, ReplyError (the boxes stay unreadable), BackendError.
        """
        picture = load_image(image, policy=policy)
        clock = _Clock()
        flow = self._flow(picture, expression, method, clock)
        need = next(flow)
        while True:
            began = time.perf_counter()
            result = (
                self.mllm.reply(picture, need.questions)
                if isinstance(need, _Ask)
                else self.segmenter.segment(picture, need.prompts)
            )
            _record(clock, need, time.perf_counter() - began)
            try:
                need = flow.send(result)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

    async def asegment(
        self, image: ImageSource, expression: str, *, method: Method = "pqpp", policy: ImagePolicy = CALLER_POLICY
    ) -> Segmentation:
        """As `segment`, without blocking the event loop."""
        picture = await asyncio.to_thread(load_image, image, policy=policy)
        clock = _Clock()
        flow = self._flow(picture, expression, method, clock)
        need = next(flow)
        while True:
            began = time.perf_counter()
            result = (
                await self.mllm.areply(picture, need.questions)
                if isinstance(need, _Ask)
                else await self.segmenter.asegment(picture, need.prompts)
            )
            _record(clock, need, time.perf_counter() - began)
            try:
                need = flow.send(result)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]

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
        clocks = [_Clock() for _ in expressions]
        flows = [self._flow(picture, text, method, clock) for text, clock in zip(expressions, clocks, strict=True)]
        needs: dict[int, _Ask | _Prompt] = {}

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
            asking = {i: need.questions for i, need in needs.items() if isinstance(need, _Ask)}
            prompting = {i: need.prompts for i, need in needs.items() if isinstance(need, _Prompt)}
            began = time.perf_counter()
            shares: dict[int, list[Reply]] | dict[int, list[SegmentedObject]]
            if asking:  # masks wait until every dialogue of the picture is done
                shares = _deal(self.mllm.reply(picture, _chain(asking)), asking)
            else:
                shares = _deal(self.segmenter.segment(picture, _chain(prompting)), prompting)
            seconds = time.perf_counter() - began
            for index, share in shares.items():
                _record(clocks[index], needs.pop(index), seconds / len(shares))
                advance(index, share)
        return [outcomes[index] for index in range(len(flows))]

    def _flow(self, picture: Image, expression: str, method: Method, clock: _Clock) -> _Flow:
        """Asks until the dialogue is done, falls back where replies stay unreadable, then wants masks."""
        size = Size(*picture.size)
        talk = _Talk()
        if method == "adaptive":
            dialogue, objects = yield from self._adaptively(expression, size, talk)
        else:
            dialogue = yield from self._settle(self._start(expression, size, method), talk)
            objects = yield from self._segmented(dialogue.prompts, size)
        empty = [number for number, thing in enumerate(objects, start=1) if not thing.mask.any()]
        notes = (*talk.notes, *(f"the mask of object {number} is empty" for number in empty))
        usage = Usage(self.mllm.name, self.segmenter.name, clock.questions, dict(clock.seconds))
        return Segmentation(dialogue.expression, size, tuple(objects), turns(talk.said), usage, notes)

    def _settle(self, dialogue: D, talk: "_Talk") -> Generator[_Ask | _Prompt, Any, D | Dialogue]:
        """The dialogue when nothing is pending any more; falls back where replies stay unreadable."""
        state: D | Dialogue = dialogue
        while state.pending:
            replies = yield from self._replies(state, talk.said, talk.notes)
            try:
                state = state.answer(replies)
            except ReplyError as error:
                without = state.without_points(replies)
                if without is None:
                    raise
                talk.notes.append(f"{WITHOUT_POINTS}: {error.reason}")
                state = without
        return state

    def _segmented(self, prompts: Sequence[ObjectPrompt], size: Size) -> Generator[_Ask | _Prompt, Any, list[SegmentedObject]]:
        if not prompts:
            return []
        _check_room(len(prompts), size)
        objects: list[SegmentedObject] = yield _Prompt(tuple(prompts))
        _check_count(self.segmenter.name, "masks", objects, prompts)
        return objects

    def _adaptively(
        self, expression: str, size: Size, talk: "_Talk"
    ) -> Generator[_Ask | _Prompt, Any, tuple[Dialogue, list[SegmentedObject]]]:
        """Boxes, their masks, questions where these say that an answer can be relied on, masks again, the better kept.

        A mask whose box is far from the one that was told says that the box was rough: it is tried as a prompt too.
        """
        asked = yield from self._settle(BoxOnly.start(expression, size, dialect=self.dialect), talk)
        alone = yield from self._segmented(asked.prompts, size)
        places = ((prompt.box, stable.points_for(thing)) for prompt, thing in zip(asked.prompts, alone, strict=True))
        sampler = Placed(tuple(places))
        start = PQPP.start(expression, size, dialect=self.dialect, sampler=sampler, thresholds=self.thresholds)
        dialogue = yield from self._settle(start.answer([asked.history[0].reply]), talk)
        pointed = yield from self._segmented(dialogue.prompts, size)
        found = [stable.better(thing, bare) for thing, bare in zip(pointed, alone, strict=True)]
        again = {n: prompt for n, thing in enumerate(found) if (prompt := stable.reboxed(thing)) is not None}
        redone = yield from self._segmented(list(again.values()), size)
        for number, thing in zip(again, redone, strict=True):
            found[number] = stable.better(found[number], thing)
        return dialogue, found

    def _replies(
        self, dialogue: Dialogue, said: list[Exchange], notes: list[str]
    ) -> Generator[_Ask | _Prompt, Any, list[Reply]]:
        """The replies to what is pending, those that can't be read asked for again, up to the bound.

        said, notes: what is asked and replied, and why something is asked again, is added to them.
        """
        asked = list(dialogue.pending)
        replies = yield from self._ask(asked, said)
        for _ in range(self.retries):
            faults = [(i, fault) for i, fault in enumerate(dialogue.faults(replies)) if fault]
            again = {i: self.dialect.ask_again(asked[i], replies[i], fault.reason) for i, fault in faults}
            if getattr(self.mllm, "greedy", False):  # asked the same, it says the same
                again = {i: question for i, question in again.items() if question != asked[i]}
            if not again:
                break
            count = f" {len(again)} questions" if len(again) > 1 else ""
            notes.append(f"asked again{count}: {faults[0][1].reason}")
            told = yield from self._ask(list(again.values()), said)
            for (i, question), reply in zip(again.items(), told, strict=True):
                asked[i], replies[i] = question, reply
        return replies

    def _ask(self, questions: list[Question], said: list[Exchange]) -> Generator[_Ask | _Prompt, Any, list[Reply]]:
        replies: list[Reply] = list((yield _Ask(tuple(questions))))
        _check_count(self.mllm.name, "replies", replies, questions)
        said += [Exchange(question, reply) for question, reply in zip(questions, replies, strict=True)]
        return replies

    def _start(self, expression: str, size: Size, method: Method) -> Dialogue:
        match method:
            case "pqpp":
                return PQPP.start(expression, size, dialect=self.dialect, sampler=self.sampler, thresholds=self.thresholds)
            case "ppg":
                return PPG.start(expression, size, dialect=self.dialect)
            case "box":
                return BoxOnly.start(expression, size, dialect=self.dialect)
        raise ValueError(f"no such method: {method!r}; there are {', '.join(METHODS)}")


def find_dialect(mllm: str, name: str | None = None) -> Dialect:
    """The dialect called `name`, else the dialect.json beside the spec's adapter or model, on the hub too, else `plain`.

    Raises SpecError naming the dialects there are, or the file that cannot be read, or the hub that cannot be asked.
    """
    if name is not None:
        if name not in DIALECTS:
            raise SpecError(f"no such dialect: {name!r}; there are {', '.join(sorted(DIALECTS))}")
        return DIALECTS[name]
    base, adapter = split_spec(mllm)
    with model_libraries():
        from sam4mllm_tool.checkpoints import embedded_folder, find_file

    if base == "embedded":
        base = embedded_folder("adapter")
    for part in (base,) if adapter is None else (adapter, base):
        if file := find_file(part, "dialect.json"):
            try:
                return Dialect.from_json(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise SpecError(f"{file}: {error}") from error
    return PLAIN


def _check_count(name: str, what: str, results: Sequence[object], wanted: Sequence[object]) -> None:
    if len(results) != len(wanted):
        raise BackendError(f"{name} gave {len(results)} {what} where {len(wanted)} were asked for")


def _check_room(objects: int, size: Size) -> None:
    if objects * size.width * size.height > MAX_MASK_BYTES:
        raise BackendError(
            f"the masks of {objects} objects on a picture of {size.width} x {size.height} pixels would take more than "
            f"{MAX_MASK_BYTES / 2**30:g} GiB: make the picture smaller"
        )


def _record(clock: _Clock, need: _Ask | _Prompt, seconds: float) -> None:
    if isinstance(need, _Ask):
        clock.questions += len(need.questions)
    clock.seconds["mllm" if isinstance(need, _Ask) else "segmenter"] += seconds


S = TypeVar("S")
T = TypeVar("T")


def _chain(groups: Mapping[int, Sequence[T]]) -> list[T]:
    return [item for group in groups.values() for item in group]


def _deal(items: Sequence[S], groups: Mapping[int, Sequence[T]]) -> dict[int, list[S]]:
    """Inverse of `_chain`: to each group as many items as it has members, while there are any."""
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
