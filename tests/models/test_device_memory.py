"""Where a device runs out of memory: fewer items at a time, then the CPU where that is allowed, then one typed error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pytest
import torch

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.device_memory import is_out_of_memory, move_to_cpu, run_within_memory
from sam4mllm_tool.models.load_options import LoadOptions
from tests.embedded_world import iter_cases
from tests.results import assert_equal_but_for_rounding

SCENE, PLURAL = max(islice(iter_cases("plural"), 20), key=lambda case: len(case[1].targets))  # of many questions


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_that_say_that_memory_is_out_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


class Device:
    """Doubles numbers; it has memory for so many at a time."""

    def __init__(self, room: int) -> None:
        self.room, self.calls, self.released, self.is_on_cpu = room, list[int](), 0, False

    def run(self, items: Sequence[int]) -> list[int]:
        self.calls.append(len(items))
        if len(items) > self.room and not self.is_on_cpu:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [2 * item for item in items]

    def release(self) -> None:
        self.released += 1

    @contextmanager
    def on_cpu(self) -> Iterator[None]:
        self.is_on_cpu = True
        yield
        self.is_on_cpu = False


def test_what_does_not_fit_runs_in_halves_and_in_order() -> None:
    device = Device(room=3)
    assert run_within_memory(device.run, range(7), release=device.release) == [0, 2, 4, 6, 8, 10, 12]
    assert (device.calls, device.released) == ([7, 3, 3, 1], 1)


def test_a_single_item_runs_on_the_cpu_where_that_is_allowed() -> None:
    device = Device(room=0)
    assert run_within_memory(device.run, [1, 2], release=device.release, on_cpu=device.on_cpu) == [2, 4]
    assert (device.calls, device.is_on_cpu) == ([2, 1, 2], False)
    with pytest.raises(torch.OutOfMemoryError):
        run_within_memory(device.run, [1, 2], release=device.release)


def test_another_error_is_raised_at_once() -> None:
    calls: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        calls.append(len(items))
        raise RuntimeError("device-side assert triggered")

    with pytest.raises(RuntimeError, match="assert"):
        run_within_memory(run, range(4), release=list)
    assert calls == [4]


def test_a_model_that_no_longer_fits_on_its_device_stays_on_the_cpu() -> None:
    class Full(torch.nn.Linear):
        def to(self, *args: Any, **kwargs: Any) -> "Full":
            moved.append(str(args[0]))
            if len(moved) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().to(*args, **kwargs)

    moved: list[str] = []
    with move_to_cpu(Full(1, 1)):
        assert moved == ["cpu"]
    assert moved == ["cpu", "cpu", "cpu"]  # away, back in vain, away again


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded")


@contextmanager
def small_device(module: torch.nn.Module, is_too_much: Any) -> Iterator[list[int]]:
    """Let a module run out of memory where its inputs are too much; yield how often it did, as a list's length."""
    failures: list[int] = []

    def check(_: torch.nn.Module, args: Any, kwargs: Any) -> None:
        if is_too_much(*args, **kwargs):
            failures.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield failures
    finally:
        hook.remove()


def reset(models: Any) -> None:
    models.mllm._images.clear()
    models.segmenter._clear_caches()


@pytest.mark.slow
def test_the_questions_of_a_round_are_answered_in_parts(models: Any) -> None:
    expected = models.segment(SCENE.image, PLURAL.text)
    reset(models)
    vision = models.mllm._runner.model.config.vision_config
    longest = (vision.image_size // vision.patch_size) ** 2 + 56  # tokens in a pass: the image and a few questions
    with small_device(models.mllm._runner.model, lambda *_, input_ids, **__: input_ids.shape[1] > longest) as failures:
        result = models.segment(SCENE.image, PLURAL.text)
    assert failures
    assert_equal_but_for_rounding(result, expected)


@pytest.mark.slow
def test_the_prompts_of_a_call_are_segmented_in_parts(models: Any) -> None:
    expected = models.segment(SCENE.image, PLURAL.text, method="box")
    assert len(expected.objects) > 1
    reset(models)
    with small_device(models.segmenter._model, lambda *_, input_boxes, **__: input_boxes.shape[1] > 1) as failures:
        result = models.segment(SCENE.image, PLURAL.text, method="box")
    assert failures
    assert_equal_but_for_rounding(result, expected)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["mllm", "segmenter"])
def test_what_fits_nowhere_on_the_device_runs_on_the_cpu_or_is_a_backend_error(models: Any, part: str) -> None:
    backend = getattr(models, part)
    module = backend._runner.model if part == "mllm" else backend._model
    expected = models.segment(SCENE.image, PLURAL.text, method="box")
    places: list[str] = []
    original = module.to
    module.to = lambda place, *args: places.append(str(place)) or original(place, *args)
    try:
        reset(models)
        with small_device(module, lambda *_, **__: len(places) != 1):  # it has no memory until the model is moved
            with pytest.raises(BackendError, match="out of memory"):
                models.segment(SCENE.image, PLURAL.text, method="box")
            backend.cpu_fallback = True
            result = models.segment(SCENE.image, PLURAL.text, method="box")
        assert places == ["cpu", "cpu"]  # away, and back to where it was
    finally:
        backend.cpu_fallback = False
        del module.to
    assert_equal_but_for_rounding(result, expected)
    assert_equal_but_for_rounding(models.segment(SCENE.image, PLURAL.text, method="box"), expected)


@pytest.mark.slow
def test_a_pair_on_the_cpu_has_nowhere_to_fall_back_to() -> None:
    loaded: Any = Sam4Mllm.load("embedded", "embedded", options=LoadOptions(cpu_fallback=True, device="cpu"))
    assert not loaded.mllm.cpu_fallback
    assert not loaded.segmenter.cpu_fallback
