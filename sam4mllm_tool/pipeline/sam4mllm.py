"""`Sam4Mllm`: an MLLM and a segmenter, and the drivers that serve a flow (requests.py) with them.

Blocking, async, or many expressions at once: the same flow decides what is asked, so all three give the same results.
"""

import asyncio
import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Unpack, overload

from sam4mllm_tool.config import METHODS, Method, SegmentationConfig, SettingsOverrides
from sam4mllm_tool.errors import ImageError, Sam4MllmError, SpecError
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.metadata import find_dialect, find_fingerprints, fit_dialect
from sam4mllm_tool.models.mllm import load_mllm
from sam4mllm_tool.models.probing.first_use import find_adapter_dialect, load_with_dialect, wrap_with_dialect
from sam4mllm_tool.models.scene_check import SceneCheck
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.pipeline.lockstep import ImageRuns, OnError, Outcome
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.model_server import ModelServer
from sam4mllm_tool.pipeline.parallel_lockstep import drive_in_parallel
from sam4mllm_tool.pipeline.requests import Flow, RunHook
from sam4mllm_tool.pipeline.run_context import WITHOUT_POINTS, ModelTraits, RunContext
from sam4mllm_tool.pipeline.run_driver import RunDriver
from sam4mllm_tool.pipeline.run_log import watch_run
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.types import MLLM, Image, Segmentation, Segmenter, Size

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["METHODS", "WITHOUT_POINTS", "Method", "RunHookFactory", "Sam4Mllm", "choose_specs", "find_dialect"]

T = TypeVar("T")

IMAGES_AT_ONCE = 16
"""How many images `segment_many` and `segment_groups` have in work at a time."""

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
        self._weights: dict[str, str] = {}
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
        models._weights = _identify_weights(mllm if isinstance(mllm, str) else None, segmenter)
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
        models._weights = self._weights | _identify_weights(models.mllm.name, models.segmenter.name)
        return models

    def with_run_hooks(self, *factories: RunHookFactory) -> "Sam4Mllm":
        """Return the same models whose every run is also watched by a hook of each factory."""
        watched = copy.copy(self)
        watched._hook_factories = (*self._hook_factories, *factories)
        return watched

    def forget(self) -> None:
        """Forget what the MLLM keeps of earlier calls to save work in later ones.

        What is kept changes what is computed together, and so the rounding: after this, results depend on what is asked from
        now on alone, and are equal to the last bit on an equal machine.
        """
        forget: Callable[[], None] | None = getattr(self.mllm, "forget", None)
        if forget is not None:
            forget()

    @property
    def traits(self) -> ModelTraits:
        """What a run has to know of these models."""
        greedy = bool(getattr(self.mllm, "greedy", False))
        proposes = getattr(self.segmenter, "propose", None) is not None
        return ModelTraits(self.dialect, self.calibration, greedy, self.mllm.name, self.segmenter.name, proposes, self._weights)

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
        server = self._server
        server.prepare(image)
        with self._start_driver(image, flow, context, hooks) as driver:
            driver.start()
            while driver.request is not None:
                driver.send(server.serve(image, driver.request))
        return driver.result

    async def arun(self, image: Image, flow: Flow[T], context: RunContext | None = None, *, hooks: Sequence[RunHook] = ()) -> T:
        """Do as `run` does, without blocking the event loop; the flow's own work runs in a thread, too."""
        server = self._server
        server.prepare(image)
        with self._start_driver(image, flow, context, hooks) as driver:
            await asyncio.to_thread(driver.start)
            while driver.request is not None:
                response = await server.aserve(image, driver.request)
                await asyncio.to_thread(driver.send, response)
        return driver.result

    @overload
    def segment_many(
        self,
        pairs: Iterable[tuple[ImageSource, str]],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
        on_error: Literal["raise"] = "raise",
    ) -> list[Segmentation]: ...

    @overload
    def segment_many(
        self,
        pairs: Iterable[tuple[ImageSource, str]],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
        on_error: OnError,
    ) -> list[Segmentation | Sam4MllmError]: ...

    def segment_many(
        self,
        pairs: Iterable[tuple[ImageSource, str]],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
        on_error: OnError = "raise",
    ) -> list[Segmentation] | list[Segmentation | Sam4MllmError]:
        """Segment one expression per (image, expression) pair, in order. Neighbouring pairs of one image share its work.

        Args:
            pairs: Each image with an expression.
            method: As in `segment`.
            policy: As in `segment`.
            on_error: "raise" raises the first error, and the results are lost; "return" returns errors in the places of the
                results that they ended, and goes on.

        Returns:
            A `Segmentation` per pair; with "return" also what `segment` raises, an instance of `Sam4MllmError`.

        Raises:
            Exception: With "raise", what `segment` raises, for the first pair that fails.
        """
        if on_error not in ("raise", "return"):
            raise ValueError(f"expected on_error as 'raise' or 'return', got {on_error!r}")
        groups = _group_by_image(pairs)
        results: list[Any] = []
        all_outcomes = self.segment_groups(groups, method=method, policy=policy, on_error=on_error)
        for (_, expressions), outcomes in zip(groups, all_outcomes, strict=True):
            results += [outcomes] * len(expressions) if isinstance(outcomes, Exception) else outcomes
            if on_error == "raise" and (error := next((each for each in results if isinstance(each, Exception)), None)):
                raise error
        return results

    def segment_group(
        self,
        image: ImageSource,
        expressions: Sequence[str],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
    ) -> list[Outcome]:
        """Segment several expressions about one image in lock-step: one MLLM call per round, one segmenter call for all.

        Returns:
            One result per expression, in order; an error in the place of a bad expression, an unreadable reply or empty masks.

        Raises:
            ImageError: The image can't be read or exceeds a limit.
            BackendError: A model failed.
        """
        (outcomes,) = self.segment_groups([(image, expressions)], method=method, policy=policy)
        if isinstance(outcomes, ImageError):
            raise outcomes
        return outcomes

    def segment_groups(
        self,
        groups: Iterable[tuple[ImageSource, Sequence[str]]],
        *,
        method: Method | None = None,
        policy: ImagePolicy = CALLER_POLICY,
        images_at_once: int = IMAGES_AT_ONCE,
        on_error: OnError = "raise",
    ) -> Iterator[list[Outcome] | ImageError]:
        """Segment expressions about many images in lock-step: one MLLM call per round for all images in work.

        Args:
            groups: Each image with its expressions; taken as they are needed.
            method: As in `segment`.
            policy: As in `segment`.
            images_at_once: How many images are in work at a time.
            on_error: What is done where a model fails: "raise" ends the work; "return" leaves the error in the places of the
                results that it ended, and goes on with the other images.

        Yields:
            For each image, in order, what `segment_group` returns, or why the image can't be read.

        Raises:
            BackendError: A model failed.
        """
        runs = (self._start_group(image, expressions, method, policy) for image, expressions in groups)
        return drive_in_parallel(self._server, runs, images_at_once, on_error)

    def _start_group(
        self, image: ImageSource, expressions: Sequence[str], method: Method | None, policy: ImagePolicy
    ) -> ImageRuns | ImageError:
        try:
            loaded = load_image(image, policy=policy)
        except ImageError as error:
            return error
        starts = [self._start_method(Size(*loaded.size), expression, method) for expression in expressions]
        return ImageRuns(loaded, [self._start_driver(loaded, flow, run, ()) for flow, run in starts])

    @property
    def _server(self) -> ModelServer:
        return ModelServer(self.mllm, self.segmenter, self._scene_check, self.config.timeout_s)

    def _start_method(self, size: Size, expression: str, method: Method | None) -> tuple[Flow[Segmentation], RunContext]:
        method = self.config.method if method is None else method
        run = self.start_run(size, expression, method)
        return segment_expression(run, expression, method), run

    def _start_driver(self, image: Image, flow: Flow[T], context: RunContext | None, hooks: Sequence[RunHook]) -> RunDriver[T]:
        context = self.start_run(Size(*image.size)) if context is None else context
        return RunDriver(flow, [*watch_run(context), *(make(image, context) for make in self._hook_factories), *hooks])


def _identify_weights(mllm: str | None, segmenter: str) -> dict[str, str]:
    """Return what identifies the weights of the parts that are here; `mllm` is None where it was not loaded by its spec."""
    try:
        return {part: identity for part, identity in find_fingerprints(mllm, segmenter).items() if identity}
    except SpecError:
        return {}


def _group_by_image(pairs: Iterable[tuple[ImageSource, str]]) -> list[tuple[ImageSource, list[str]]]:
    """Runs of pairs with the very same image (the same object, or an equal path or URI)."""
    groups: list[tuple[ImageSource, list[str]]] = []
    for image, expression in pairs:
        last = groups[-1][0] if groups else None
        if groups and (last is image or (isinstance(image, str | Path) and isinstance(last, str | Path) and last == image)):
            groups[-1][1].append(expression)
        else:
            groups.append((image, [expression]))
    return groups
