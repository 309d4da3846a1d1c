"""What every segmenter backend has to do, as a suite of checks that a test class inherits."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np

from sam4mllm_tool.geometry.boxes import mask_iou, mask_to_box
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.validation import validate_objects
from sam4mllm_tool.testing.conformance_cases import SMALL, ConformanceCase, draw_conformance_cases, draw_every_mode
from sam4mllm_tool.testing.running import cancel_early, skip
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, PointPrompt, SegmentedObject, Segmenter, Size

__all__ = ["SegmenterConformance"]

_SAME_IOU = 0.98
"""IoU from which two masks of the same prompt count as equal: rounding depends on what is computed together."""


class SegmenterConformance:
    """Checks of a segmenter backend. Inherit it in a class whose name begins with Test, and define `make_backend`.

    Attributes:
        least_iou: IoU with the true mask that every object's mask must have, for trained models; 0 for backends that don't
            look at the image.
        takes_points_alone: Whether the backend takes prompts without a box (`ObjectPrompt.from_points`).
    """

    least_iou: ClassVar[float] = 0.0
    takes_points_alone: ClassVar[bool] = True

    def make_backend(self) -> Segmenter:
        """Return the backend to check; called once for each check. It may be the same one each time."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_backend")

    def make_cases(self) -> Sequence[ConformanceCase]:
        """Return images with objects whose masks are known; cases of no object are left out."""
        return draw_conformance_cases()

    # Masks ----------------------------------------------------------------------------------------------------------

    def test_backend_has_a_name(self) -> None:
        """The name is a text that is not empty."""
        name = self.make_backend().name
        assert isinstance(name, str), f"expected a name, the spec of the model, got {name!r}"
        assert name, "expected a name, the spec of the model, got an empty one"

    def test_masks_and_scores_are_valid(self) -> None:
        """Masks are (H, W) bool of the image's size and scores in [0, 1], on images of odd sizes."""
        backend = self.make_backend()
        for case in self._single_cases:
            _segment(backend, case.image, _prompts(case))

    def test_known_object_gets_its_mask(self) -> None:
        """Masks of known objects have an IoU of at least `least_iou` with the true ones."""
        if not self.least_iou:
            skip("least_iou is 0")
        backend = self.make_backend()
        for case in self._single_cases:
            (segmented,) = _segment(backend, case.image, [ObjectPrompt(case.boxes[0])])
            iou = mask_iou(segmented.mask, case.masks[0])
            assert iou >= self.least_iou, (
                f"expected an IoU of at least {self.least_iou} with {case.expression!r}, got {iou:.2f}"
            )

    def test_the_same_prompt_gets_the_same_mask(self) -> None:
        """Two equal calls give equal masks."""
        backend, case = self.make_backend(), self._single_cases[0]
        first, second = (_segment(backend, case.image, _prompts(case)) for _ in range(2))
        _check_same(first, second, "in two calls")

    # Prompts --------------------------------------------------------------------------------------------------------

    def test_no_prompts_get_no_masks(self) -> None:
        """No prompts get an empty list."""
        objects = self.make_backend().segment(self._single_cases[0].image, [])
        assert list(objects) == [], f"expected no objects for no prompts, got {len(objects)}"

    def test_masks_come_in_the_order_of_the_prompts(self) -> None:
        """Several prompts get the same masks together, one by one and in reverse, each with its prompt."""
        backend, case = self.make_backend(), self._case_of_several
        prompts = [prompt for box in case.boxes for prompt in (ObjectPrompt(box), _with_points(box))]
        together = _segment(backend, case.image, prompts)
        for prompt, segmented in zip(prompts, together, strict=True):
            kept = [(point.x, point.y, point.label) for point in segmented.prompt.points]
            assert kept == [(point.x, point.y, point.label) for point in prompt.points], "expected each object with its prompt"
            assert segmented.prompt.box.iou(prompt.box) > 0.99, (
                f"expected the object of {prompt.box}, got {segmented.prompt.box}"
            )
        reversed_order = _segment(backend, case.image, prompts[::-1])[::-1]
        _check_same(together, reversed_order, "of prompts in order and in reverse")
        alone = [_segment(backend, case.image, [prompt])[0] for prompt in prompts]
        _check_same(together, alone, "of prompts together and one by one")

    def test_points_alone_are_a_prompt(self) -> None:
        """A prompt without a box gets a mask and the box around it."""
        if not self.takes_points_alone:
            skip("takes_points_alone is False")
        backend, case = self.make_backend(), self._single_cases[0]
        points = [PointPrompt(*point, label) for point, label in case.points]
        (segmented,) = _segment(backend, case.image, [ObjectPrompt.from_points(points)])
        if segmented.mask.any():
            box, drawn = segmented.prompt.box, mask_to_box(segmented.mask)
            assert box.iou(drawn) > 0.9, f"expected the box around the mask, {tuple(drawn)}, got {tuple(box)}"

    def test_prompts_at_the_border_get_masks(self) -> None:
        """Boxes at the border, over it and of one pixel, and points at the corners, get masks."""
        backend, case = self.make_backend(), self._single_cases[0]
        width, height = case.size
        corners = (PointPrompt(0, 0, 1), PointPrompt(width, height, 0))
        prompts = [
            ObjectPrompt(Box(0, 0, width, height), corners),
            ObjectPrompt(Box(width - 1, height - 1, width, height)),
            ObjectPrompt(Box(-5.5, -7, width / 3, height / 2)),
            ObjectPrompt(Box(width / 2, height / 2, width + 40, height + 0.5)),
        ]
        for prompt in prompts:
            try:
                _segment(backend, case.image, [prompt])
            except Exception as error:
                raise AssertionError(f"the prompt {prompt} at the border fails: {type(error).__name__}: {error}") from error

    # Calls ----------------------------------------------------------------------------------------------------------

    def test_async_masks_are_the_same(self) -> None:
        """`asegment` gives what `segment` gives."""
        backend, case = self.make_backend(), self._single_cases[0]
        prompts = _prompts(case)
        waited = asyncio.run(_as_coroutine(backend, case.image, prompts))
        _check_same(
            _segment(backend, case.image, prompts), _validate(backend, case.image, prompts, waited), "by segment and asegment"
        )

    def test_cancelled_call_leaves_the_backend_usable(self) -> None:
        """A cancelled call ends as cancelled, and the next one gives the masks of before."""
        backend, case = self.make_backend(), self._single_cases[0]
        prompts = _prompts(case)
        expected = _segment(backend, case.image, prompts)
        objects = cancel_early(lambda: backend.asegment(case.image, prompts))
        _check_same(expected, _validate(backend, case.image, prompts, objects), "before and after a cancelled call")

    def test_threads_get_their_own_masks(self) -> None:
        """Calls from four threads get the masks that one thread gets."""
        backend = self.make_backend()
        cases = list({case.size: case for case in self._single_cases}.values())
        expected = [_segment(backend, case.image, _prompts(case)) for case in cases]
        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(_segment, backend, case.image, _prompts(case)) for case in cases * 2]
            for number, job in enumerate(jobs):
                _check_same(expected[number % len(cases)], job.result(), "in one thread and in four")

    # Images ---------------------------------------------------------------------------------------------------------

    def test_every_image_mode_is_read_as_its_rgb(self) -> None:
        """Images of every mode get the masks that their RGB, as `load_image` makes it, gets."""
        backend, case = self.make_backend(), self._single_cases[0]
        prompts = [ObjectPrompt(Box(21, 15, 85, 60))]
        for image in draw_every_mode(case.image.resize(SMALL)):
            expected = _segment(backend, load_image(image), prompts)
            try:
                objects = _segment(backend, image, prompts)
            except Exception as error:
                raise AssertionError(f"an image of mode {image.mode!r} fails: {type(error).__name__}: {error}") from error
            _check_same(expected, objects, f"of an image of mode {image.mode!r} and of its RGB as load_image makes it")

    def test_image_is_left_as_it_was(self) -> None:
        """The image that was given is not changed."""
        backend, case = self.make_backend(), self._single_cases[0]
        image, before = case.image.copy(), np.array(case.image)
        _segment(backend, image, _prompts(case))
        assert np.array_equal(np.asarray(image), before), "the backend changed the image that it was given"

    # Help -----------------------------------------------------------------------------------------------------------

    @property
    def _single_cases(self) -> list[ConformanceCase]:
        return [case for case in self.make_cases() if len(case.boxes) == 1]

    @property
    def _case_of_several(self) -> ConformanceCase:
        return next(case for case in self.make_cases() if len(case.boxes) > 1)


def _prompts(case: ConformanceCase) -> list[ObjectPrompt]:
    """Return prompts about a case: its box, with no points, with known ones, and with one of each label."""
    points = tuple(PointPrompt(*point, label, 0.9) for point, label in case.points)
    return [ObjectPrompt(case.boxes[0]), ObjectPrompt(case.boxes[0], points), _with_points(case.boxes[0])]


def _with_points(box: Box) -> ObjectPrompt:
    return ObjectPrompt(box, (PointPrompt(*box.center, 1), PointPrompt(box.x1 + 1, box.y1 + 1, 0)))


def _segment(backend: Segmenter, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
    return _validate(backend, image, prompts, backend.segment(image, prompts))


def _validate(
    backend: Segmenter, image: Image, prompts: Sequence[ObjectPrompt], objects: Sequence[SegmentedObject]
) -> list[SegmentedObject]:
    return validate_objects(backend.name, Size(*image.size), prompts, objects)


async def _as_coroutine(backend: Segmenter, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
    return await backend.asegment(image, prompts)


def _check_same(objects: Sequence[SegmentedObject], others: Sequence[SegmentedObject], how: str) -> None:
    """Raise AssertionError unless two lists of objects have nearly the same masks and scores."""
    for segmented, other in zip(objects, others, strict=True):
        iou = _iou(segmented.mask, other.mask)
        assert iou >= _SAME_IOU, f"expected the same masks {how}, got some whose IoU is {iou:.2f}"
        assert abs(segmented.score - other.score) < 0.01, (
            f"expected the same scores {how}, got {segmented.score} and {other.score}"
        )


def _iou(mask: Mask, other: Mask) -> float:
    return mask_iou(mask, other) if mask.shape == other.shape else 0.0
