"""Measure one case in the reference loop and in ours, in turns, and compare the answers."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.types import Image, Segmentation, Size
from tests.benchmarks.arithmetic_floor import Floor, Machine, count_floor
from tests.benchmarks.forward_counter import Work, count_work
from tests.benchmarks.measured_pairs import MeasuredPair
from tests.benchmarks.reference_loop import TOLERANCE, ReferenceAnswer, ReferenceLoop, find_difference

__all__ = ["Case", "Comparison", "Run", "compare", "compare_in_turns", "measuring"]

T = TypeVar("T")
_SEEDS = itertools.count()
"""Of the images: none is seen twice, as what was read about the latest ones is kept."""


@dataclass(frozen=True)
class Case:
    """What is asked.

    Attributes:
        title: Of the row.
        objects: How many boxes round 1 is forced to name; by default one where it is forced at all.
        expressions: How many expressions are asked about each image; by default one that fits the image.
        size: Of the image; by default the pair's.
        asks: How many questions about points the reference loop asks, where each is a call; by default all.
        with_reference: Whether to run the reference loop.
        with_floor: Whether to count the floor, which takes the reference loop.
    """

    title: str
    objects: int | None = None
    expressions: int = 0
    size: Size | None = None
    asks: int | None = None
    with_reference: bool = True
    with_floor: bool = False


@dataclass
class Run:
    """One way of answering.

    Attributes:
        seconds: Of each repetition, with what was left out at the mean of what was asked.
        cpu_seconds: Of all threads in the last one, without what was left out: on a machine that others use, too.
        work: Of the last one.
        peak_bytes: The most memory that was in use in the last one; 0 where that isn't known.
    """

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    work: Work = field(default_factory=Work)
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass
class Comparison:
    """A case, in the reference loop and in ours.

    Attributes:
        title: What was measured.
        ours: By `Sam4Mllm`.
        reference: By the reference loop; None where that was left out.
        floor: The least possible; None where that wasn't counted.
        differences: How answers differ.
    """

    title: str
    ours: Run = field(default_factory=Run)
    reference: Run | None = None
    floor: Floor | None = None
    differences: list[str] = field(default_factory=list)


def compare(pair: MeasuredPair, case: Case, repeats: int) -> Comparison:
    """Measure both ways in turns, each repetition on a new image; if there are several, after one that warms up."""
    return compare_in_turns([(pair, case)], repeats)[0]


def compare_in_turns(cases: Sequence[tuple[MeasuredPair, Case]], repeats: int) -> list[Comparison]:
    """Measure several cases in turns, so that what else the machine does is no more to one than to another."""
    comparisons = [Comparison(case.title, reference=Run() if case.with_reference else None) for _, case in cases]
    for repeat in range(repeats + (repeats > 1)):
        for (pair, case), comparison in zip(cases, comparisons, strict=True):
            print(f"{pair.title}: {case.title}, {repeat}", file=sys.stderr, flush=True)
            _compare_once(pair, case, next(_SEEDS), comparison)
    for run in (run for each in comparisons for run in (each.ours, each.reference) if repeats > 1):
        if run is not None:
            del run.seconds[0]
    return comparisons


def _segment_all(pair: MeasuredPair, image: Image, expressions: list[str]) -> list[Segmentation | Sam4MllmError]:
    """Segment expressions about an image in our way."""
    if len(expressions) == 1:
        return [_catch(lambda: pair.models.segment(image, expressions[0]))]
    return list(pair.models.segment_group(image, expressions))


def _compare_once(pair: MeasuredPair, case: Case, seed: int, comparison: Comparison) -> None:
    loop = ReferenceLoop(pair.models)
    image, expression = pair.draw(seed, case.size)
    expressions = pair.expressions(case.expressions) if case.expressions else [expression]
    theirs: list[ReferenceAnswer | Sam4MllmError] = []
    with pair.forcing(image, expressions, case.objects or (1 if case.expressions else None)):
        if comparison.reference is not None:
            with measuring(pair, comparison.reference):
                theirs = [_ask_reference(loop, image, text, case.asks) for text in expressions]
            answers = [answer for answer in theirs if isinstance(answer, ReferenceAnswer)]
            comparison.reference.seconds[-1] += sum(answer.skipped_seconds for answer in answers)
            if case.with_floor and answers:
                comparison.floor = _count_floor(pair, image, answers[-1])
        with measuring(pair, comparison.ours):
            results = _segment_all(pair, image, expressions)
    for result, other in zip(results, theirs, strict=False):
        if difference := find_difference(result, other, _tolerance_of(pair)):
            comparison.differences.append(f"{pair.title}, {case.title}, image {seed}: {difference}")


def _tolerance_of(pair: MeasuredPair) -> float:
    """Return the largest difference between probabilities that counts as none."""
    return TOLERANCE if pair.device.type == "cpu" else 5 * TOLERANCE


def _ask_reference(loop: ReferenceLoop, image: Image, text: str, asks: int | None) -> ReferenceAnswer | Sam4MllmError:
    return _catch(lambda: loop.segment(image, text, asks=asks))


def _catch(run: Callable[[], T]) -> T | Sam4MllmError:
    try:
        return run()
    except Sam4MllmError as error:
        return error


def _count_floor(pair: MeasuredPair, image: Image, answer: ReferenceAnswer) -> Floor:
    model = pair.model
    text = model.config.get_text_config()
    machine = Machine.measure(pair.device, model.dtype, text.hidden_size, text.intermediate_size)
    prompts = [exchange.question.turns for exchange in answer.dialogue.history]
    reply = answer.dialogue.history[0].reply.text
    return count_floor(pair.models, image, prompts, reply, answer.dialogue.prompts, machine)


@contextmanager
def measuring(pair: MeasuredPair, run: Run) -> Iterator[None]:
    """Add the time, the work and the memory of the `with` block to a run."""
    on_gpu = pair.device.type == "cuda"
    _reset_peak(on_gpu)
    with count_work(pair.models) as work:
        start, cpu_start = time.perf_counter(), time.process_time()
        yield
        if on_gpu:
            torch.cuda.synchronize()
        run.seconds.append(time.perf_counter() - start)
        run.cpu_seconds = time.process_time() - cpu_start
    run.work, run.peak_bytes = work, _read_peak(on_gpu)


def _reset_peak(on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # not Linux, or not allowed: the peak then is that of the whole process


def _read_peak(on_gpu: bool) -> int:
    if on_gpu:
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
