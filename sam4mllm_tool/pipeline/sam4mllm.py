"""`Sam4Mllm`: an MLLM and a segmenter, and the drivers that serve a flow (requests.py) with them.

Blocking, async, or many expressions at once: the same flow decides what is asked, so all three give the same results.
"""

import asyncio
import copy
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, Unpack

from sam4mllm_tool.config import METHODS, Method, SegmentationConfig, SettingsOverrides
from sam4mllm_tool.errors import EmptyMaskError, ExpressionError, ReplyError, Sam4MllmError, SpecError
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.metadata import find_dialect, fit_dialect
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.probing.first_use import find_adapter_dialect, load_with_dialect, wrap_with_dialect
from sam4mllm_tool.models.scene_check import SceneCheck
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.models.validation import validate_objects, validate_replies
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, ProposalRequest, Request, Response, RunHook, SegmentRequest
from sam4mllm_tool.pipeline.run_context import WITHOUT_POINTS, ModelTraits, RunContext
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.types import MLLM, Image, ObjectPrompt, Proposal, Segmentation, SegmentedObject, Segmenter, Size

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["METHODS", "WITHOUT_POINTS", "Method", "RunHookFactory", "Sam4Mllm", "choose_specs", "find_dialect"]

T = TypeVar("T")

RunHookFactory: TypeAlias = Callable[[Image, RunContext], RunHook]
"""Makes a hook for each run, from the image that it is about and its context."""


class _LoadSettings(SettingsOverrides, LoadOverrides):
    """The keyword arguments of `Sam4Mllm.load`."""


def choose_specs(mllm: str | None, segmenter: str | None) -> tuple[str, str]:
    """Return both specs; where one is None, that of the environment's SAM4MLLM_MLLM or SAM4MLLM_SEGMENTER, or `embedded`."""
    mllm = (os.environ.get("SAM4MLLM_MLLM") or "embedded") if mllm is None else mllm
    return mllm, (os.environ.get("SAM4MLLM_SEGMENTER") or "embedded") if segmenter is None else segmenter


class Sam4Mllm:
    """An MLLM and a segmenter that together turn an expression into masks.

    Args:
        mllm: The MLLM.
        segmenter: The segmenter.
        dialect: How the MLLM is asked.
        calibration: Corrects the MLLM's probabilities.
        config: The settings of every run; the defaults are the paper's.
        settings: Single settings that differ from `config`, as in `abstain=0.5`; see `SegmentationConfig`.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(
        self,
        mllm: MLLM,
        segmenter: Segmenter,
        *,
        dialect: Dialect = PLAIN,
        calibration: Calibration = Calibration(),
        config: SegmentationConfig = SegmentationConfig(),
        **settings: Unpack[SettingsOverrides],
    ) -> None:
        self.mllm, self.segmenter = mllm, segmenter
        self.dialect, self.calibration = dialect, calibration
        self.config = config.override(settings)
        self._scene_check: SceneCheck | None = None
        self._hook_factories: tuple[RunHookFactory, ...] = ()

    @classmethod
    def load(
        cls,
        mllm: "str | MLLM | BaseChatModel | None" = None,
        segmenter: str | None = None,
        *,
        dialect: str | Dialect | None = None,
        probe: bool = False,
        calibration: Calibration | None = None,
        options: LoadOptions = LoadOptions(),
        config: SegmentationConfig = SegmentationConfig(),
        **settings: Unpack[_LoadSettings],
    ) -> "Sam4Mllm":
        """Load both models by their specs: `embedded`, a local folder, or a hub id; `+ADAPTER` adds a LoRA adapter.

        Args:
            mllm: Spec of the MLLM, which may also be `openai:MODEL@URL` or `langchain:PROVIDER:MODEL`; or a chat model of
                LangChain that takes images, or an MLLM. By default the environment's SAM4MLLM_MLLM, else `embedded`.
            segmenter: Spec of the segmenter; by default the environment's SAM4MLLM_SEGMENTER, else `embedded`.
            dialect: A name among `protocol.DIALECTS` or a value; by default the dialect.json beside the adapter or the model,
                else the one that `sam4mllm probe` measured, else that of the model's family, else `plain`.
            probe: Whether to measure the dialect, and keep it, where neither `dialect` nor one of the first two is there. What
                is measured for an instance is not kept.
            calibration: By default the calibration.json beside the adapter or the model, else none.
            options: Where and how precisely the models run; by default in the device's best precision on the first GPU, else
                on the CPU.
            config: The settings of every run.
            settings: Single options and settings that differ from `options` and `config`, as in `device="cpu"` and
                `abstain=0.5`; see `LoadOptions` and `SegmentationConfig`.

        Raises:
            SpecError: A spec names nothing that can be loaded; in one line that says what to do.
            MissingExtraError: A dependency is not installed.
            BackendError: `probe` can't tell in which coordinate frame the model answers.
        """
        overrides: Any = {name: value for name, value in settings.items() if name in LoadOverrides.__annotations__}
        others: Any = {name: value for name, value in settings.items() if name not in overrides}
        config, options = config.override(others), options.override(**overrides)
        spec, segmenter = choose_specs(mllm if isinstance(mllm, str) else None, segmenter)
        mllm = spec if mllm is None else mllm
        if not isinstance(mllm, str):
            named = find_dialect("", dialect) if isinstance(dialect, str) else dialect
            loaded_mllm, dialect = wrap_with_dialect(mllm, named, options, probe=probe)
            calibration = calibration or Calibration()
        elif dialect is None:
            loaded_mllm, dialect = load_with_dialect(mllm, options, probe=probe)
        else:
            dialect = dialect if isinstance(dialect, Dialect) else find_dialect(mllm, dialect)
            loaded_mllm = load_mllm(mllm, dialect=dialect, options=options)
        models = cls(
            loaded_mllm,
            load_segmenter(segmenter, options=options),
            dialect=fit_dialect(dialect, loaded_mllm),
            calibration=find_calibration(spec) if calibration is None else calibration,
            config=config,
        )
        models._scene_check = SceneCheck.for_pair(loaded_mllm, segmenter)
        return models

    def use(self, adapter: str) -> "Sam4Mllm":
        """Return the same models with an adapter on the MLLM's base, asked and calibrated as the files beside the adapter say.

        The weights are shared, and these models go on answering without the adapter: see `TransformersMLLM.use`.

        Args:
            adapter: Folder or hub id of a peft adapter.

        Raises:
            SpecError: The MLLM can't switch adapters, or the adapter can't be loaded or doesn't fit.

        Warns:
            ModelWarning: Nothing says in which dialect the adapter was trained.
        """
        use: Callable[[str], MLLM] | None = getattr(self.mllm, "use", None)
        if use is None:
            raise SpecError(f"{self.mllm.name!r} can't switch adapters: expected a checkpoint that was loaded without one")
        models = copy.copy(self)
        models.mllm = use(adapter)
        models.dialect = fit_dialect(find_adapter_dialect(models.mllm.name), models.mllm)
        models.calibration = find_calibration(models.mllm.name)
        return models

    def with_run_hooks(self, *factories: RunHookFactory) -> "Sam4Mllm":
        """Return the same models whose every run is also watched by a hook of each factory."""
        watched = copy.copy(self)
        watched._hook_factories = (*self._hook_factories, *factories)
        return watched

    @property
    def traits(self) -> ModelTraits:
        """What a run has to know of these models."""
        greedy = bool(getattr(self.mllm, "greedy", False))
        proposes = getattr(self.segmenter, "propose", None) is not None
        return ModelTraits(self.dialect, self.calibration, greedy, self.mllm.name, self.segmenter.name, proposes)

    def start_run(self, size: Size, expression: str | None = None, method: Method | None = None) -> RunContext:
        """Start a run on an image of `size`, for flows of your own that `run` or `arun` then drive."""
        return RunContext(size, self.traits, self.config, expression=expression, method=method)

    def segment(
        self,
        image: ImageSource,
        expression: str,
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> Segmentation:
        """Segment the objects that the expression means; no objects if there is none.

        Args:
            image: Whatever `load_image` takes under `policy`.
            expression: Plain words, as in "the mug behind the laptop".
            method: The paper's `pqpp`, `ppg` or `box`, or `points` or `adaptive`; by default the config's.
            policy: What may be opened, and how large it may be.

        Raises:
            ImageError: The image can't be read or exceeds a limit.
            ExpressionError: The expression is empty or too long.
            ReplyError: The boxes stay unreadable.
            EmptyMaskError: The masks of all boxes are empty.
            BackendError: A model failed.
        """
        loaded = load_image(image, policy=policy)
        flow, run = self._start_method(Size(*loaded.size), expression, method)
        return self.run(loaded, flow, run)

    async def asegment(
        self,
        image: ImageSource,
        expression: str,
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> Segmentation:
        """Do as `segment` does, without blocking the event loop."""
        loaded = await asyncio.to_thread(load_image, image, policy=policy)
        flow, run = self._start_method(Size(*loaded.size), expression, method)
        return await self.arun(loaded, flow, run)

    def run(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Drive a flow: serve its requests about the image, and return its result.

        Args:
            image: RGB.
            flow: Yields requests.
            context: The run that the flow belongs to, for hooks; by default a new one.
            hooks: Watch or limit this run, besides those of `with_run_hooks`.

        Raises:
            Exception: Whatever the flow and the models raise.
        """
        with self._start_driver(image, flow, context, hooks) as driver:
            driver.start()
            while driver.request is not None:
                driver.send(self._serve(image, driver.request))
        return driver.result

    async def arun(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Do as `run` does, without blocking the event loop; the flow's own work runs in a thread, too."""
        with self._start_driver(image, flow, context, hooks) as driver:
            await asyncio.to_thread(driver.start)
            while driver.request is not None:
                response = await self._aserve(image, driver.request)
                await asyncio.to_thread(driver.send, response)
        return driver.result

    def segment_many(
        self,
        pairs: Iterable[tuple[ImageSource, str]],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> list[Segmentation]:
        """Segment one expression per (image, expression) pair, in order. Neighbouring pairs of one image share its work.

        Raises:
            Exception: What `segment` raises, for the first pair that fails; `segment_group` keeps the others' results.
        """
        results: list[Segmentation] = []
        for image, expressions in _group_by_image(pairs):
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
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> list[Segmentation | ReplyError | ExpressionError | EmptyMaskError]:
        """Segment several expressions about one image in lock-step: one MLLM call per round, one segmenter call for all.

        Returns:
            One result per expression, in order; an error in the place of a bad expression, an unreadable reply or empty masks.

        Raises:
            ImageError: The image can't be read or exceeds a limit.
            BackendError: A model failed.
        """
        loaded = load_image(image, policy=policy)
        drivers = []
        for expression in expressions:
            flow, run = self._start_method(Size(*loaded.size), expression, method)
            drivers.append(self._start_driver(loaded, flow, run, ()))
        try:
            return _Group(self, loaded, drivers).drive()
        except BaseException as error:
            for driver in drivers:
                driver.finish(error)
            raise

    def _start_method(self, size: Size, expression: str, method: Method | None) -> tuple[Flow[Segmentation], RunContext]:
        method = self.config.method if method is None else method
        run = self.start_run(size, expression, method)
        return segment_expression(run, expression, method), run

    def _start_driver(
        self, image: Image, flow: Flow[T], context: RunContext | None, hooks: Sequence[RunHook]
    ) -> "_RunDriver[T]":
        context = self.start_run(Size(*image.size)) if context is None else context
        getattr(self.segmenter, "prepare", _do_nothing)(image)
        return _RunDriver(flow, [*(make(image, context) for make in self._hook_factories), *hooks])

    def _serve(self, image: Image, request: Request) -> Response:
        began = time.perf_counter()
        shown = _transform(image, request)
        if isinstance(request, MLLMRequest):
            replies = self.mllm.reply(shown, request.questions)
            return self._reply_response(request, replies, began, self._check_image(image, request))
        if isinstance(request, ProposalRequest):
            return self._object_response(None, shown, self._propose(shown, request.phrase), began)
        return self._object_response(request.prompts, shown, self.segmenter.segment(shown, request.prompts), began)

    async def _aserve(self, image: Image, request: Request) -> Response:
        began = time.perf_counter()
        shown = await asyncio.to_thread(_transform, image, request)
        if isinstance(request, MLLMRequest):
            replies = await self.mllm.areply(shown, request.questions)
            warnings = await asyncio.to_thread(self._check_image, image, request)
            return self._reply_response(request, replies, began, warnings)
        if isinstance(request, ProposalRequest):
            return self._object_response(None, shown, await asyncio.to_thread(self._propose, shown, request.phrase), began)
        return self._object_response(request.prompts, shown, await self.segmenter.asegment(shown, request.prompts), began)

    def _propose(self, image: Image, phrase: str) -> list[SegmentedObject]:
        """The segmenter's proposals as objects, each with its box as its prompt."""
        propose: Callable[[Image, str], Sequence[Proposal]] | None = getattr(self.segmenter, "propose", None)
        proposals = () if propose is None else propose(image, phrase)
        return [SegmentedObject(proposal.mask, ObjectPrompt(proposal.box), proposal.score) for proposal in proposals]

    def _check_image(self, image: Image, request: MLLMRequest) -> tuple[str, ...]:
        """The warnings about a whole image: the MLLM's, and that of an embedded segmenter behind another MLLM."""
        if request.transform is not None:
            return ()
        checks = [getattr(model, "check_image", None) for model in (self.mllm, self._scene_check)]
        warnings = [check(image) for check in checks if check is not None]
        return tuple(warning for warning in warnings if warning is not None)

    def _reply_response(
        self, request: MLLMRequest, replies: Sequence[object], began: float, warnings: tuple[str, ...]
    ) -> Response:
        valid = validate_replies(self.mllm.name, request.questions, replies)  # type: ignore[arg-type]  # it checks the types
        return Response(valid, time.perf_counter() - began, warnings)

    def _object_response(
        self, prompts: Sequence[ObjectPrompt] | None, shown: Image, objects: Sequence[SegmentedObject], began: float
    ) -> Response:
        """Validate the objects of prompts, or those that were proposed."""
        expected = [segmented.prompt for segmented in objects] if prompts is None else prompts
        valid = validate_objects(self.segmenter.name, Size(*shown.size), expected, objects)
        return Response(valid, time.perf_counter() - began)


class _RunDriver(Generic[T]):
    """Advances one flow and calls its hooks; whoever holds it serves the requests.

    Attributes:
        request: What the flow waits for; None before the start and after the end.
    """

    def __init__(self, flow: Flow[T], hooks: Sequence[RunHook]) -> None:
        self.request: Request | None = None
        self._flow, self._hooks = flow, hooks
        self._result: list[T] = []
        self._is_finished = False

    @property
    def result(self) -> T:
        """What the flow returned, after its end."""
        return self._result[0]

    def start(self) -> None:
        """Advance to the first request, or to the end."""
        self._advance(lambda: next(self._flow))

    def send(self, response: Response) -> None:
        """Answer the request, and advance to the next one or to the end."""
        request = self.request
        assert request is not None
        for hook in self._hooks:
            hook.after_request(request, response)
        self._advance(lambda: self._flow.send(response))

    def finish(self, error: BaseException | None) -> None:
        """Tell the hooks that the run is over, once."""
        if self._is_finished:
            return
        self._is_finished = True
        for hook in self._hooks:
            hook.after_run(self._result[0] if self._result else None, error)

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            request = step()
            while (refusal := self._refusal(request)) is not None:
                request = self._flow.throw(refusal)
            self.request = request
        except StopIteration as end:  # which can't leave a thread
            self.request = None
            self._result.append(end.value)
            self.finish(None)

    def _refusal(self, request: Request) -> Sam4MllmError | None:
        """Why a hook doesn't let the request be served."""
        try:
            for hook in self._hooks:
                hook.before_request(request)
        except Sam4MllmError as error:
            return error
        return None

    def __enter__(self) -> "_RunDriver[T]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is not None:
            self.finish(error)


class _Group:
    """Drives the runs of several expressions about one image in lock-step."""

    def __init__(self, models: Sam4Mllm, image: Image, drivers: Sequence[_RunDriver[Segmentation]]) -> None:
        self._models, self._image, self._drivers = models, image, drivers
        self._errors: dict[int, ReplyError | ExpressionError | EmptyMaskError] = {}
        self._pending: dict[int, Request] = {}
        """The requests that wait, by the index of their run, the oldest first."""

    def drive(self) -> list[Segmentation | ReplyError | ExpressionError | EmptyMaskError]:
        """Serve all runs to their ends."""
        for index, driver in enumerate(self._drivers):
            self._advance(index, driver.start)
        while self._pending:
            self._serve_next()
        return [self._errors.get(index) or driver.result for index, driver in enumerate(self._drivers)]

    def _serve_next(self) -> None:
        """Serve the oldest request together with all that can share its call.

        Masks wait until every dialogue about the image is done; an image that is shown otherwise needs a call of its own.
        """
        questions = (request for request in self._pending.values() if isinstance(request, MLLMRequest))
        first = next(questions, next(iter(self._pending.values())))
        shared = {index: request for index, request in self._pending.items() if _can_share(request, first)}
        response = self._models._serve(self._image, _join(list(shared.values())))
        for index, share in zip(shared, _split_results(list(shared.values()), response), strict=True):
            part = Response(share, response.seconds / len(shared), response.warnings)
            self._advance(index, partial(self._drivers[index].send, part))

    def _advance(self, index: int, step: Callable[[], None]) -> None:
        """Take the step; an error of this expression alone ends its run, and the others go on."""
        self._pending.pop(index, None)
        try:
            step()
        except (ReplyError, ExpressionError, EmptyMaskError) as error:
            self._errors[index] = error
            self._drivers[index].finish(error)
        else:
            if (request := self._drivers[index].request) is not None:
                self._pending[index] = request


def _can_share(request: Request, first: Request) -> bool:
    """Whether both requests can be served by one call: of proposals, those for one phrase."""
    if isinstance(first, ProposalRequest):
        return request == first
    return type(request) is type(first) and request.transform == first.transform


def _join(requests: Sequence[Request]) -> Request:
    """One request for all, which can share a call."""
    first = requests[0]
    if isinstance(first, ProposalRequest):
        return first
    if isinstance(first, MLLMRequest):
        questions = (question for request in requests if isinstance(request, MLLMRequest) for question in request.questions)
        return MLLMRequest(tuple(questions), first.transform)
    prompts = (prompt for request in requests if isinstance(request, SegmentRequest) for prompt in request.prompts)
    return SegmentRequest(tuple(prompts), first.transform)


def _split_results(requests: Sequence[Request], response: Response) -> Iterator[list[Any]]:
    """Yield each request's share of a call's results; of proposals, which are for one phrase, all of them."""
    results = iter(response.results)
    for request in requests:
        if isinstance(request, ProposalRequest):
            yield list(response.results)
        else:
            yield list(islice(results, len(request.questions if isinstance(request, MLLMRequest) else request.prompts)))


def _do_nothing(image: Image) -> None:
    """What a segmenter does that can't prepare an image."""


def _transform(image: Image, request: Request) -> Image:
    return image if request.transform is None else request.transform.apply(image)


def _group_by_image(pairs: Iterable[tuple[ImageSource, str]]) -> list[tuple[ImageSource, list[str]]]:
    """Runs of pairs with the very same image (the same object, or an equal path or URI)."""
    groups: list[tuple[ImageSource, list[str]]] = []
    for image, expression in pairs:
        last = groups[-1][0] if groups else None
        if groups and (last is image or (isinstance(image, str | Path) and last == image)):
            groups[-1][1].append(expression)
        else:
            groups.append((image, [expression]))
    return groups
