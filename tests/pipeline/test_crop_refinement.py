"""Masks made from close by, with a segmenter that really looks: it takes what is bright in the box, at its own coarse sight."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter.mask_choice import choose_object
from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.requests import Request, Response, RunHook
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import Box, Mask, MaskCandidate, ObjectPrompt, PointPrompt, SegmentedObject, Size

SIZE = Size(400, 300)
COARSE = 10
"""Pixels that the segmenter sees as one, as a real one sees a image that it has made smaller."""


class Coarse:
    """What is bright in the box, of a image ten times smaller."""

    name = "coarse"

    def __init__(self) -> None:
        self.shown: list[Image.Image] = []

    def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        self.shown.append(image)
        small = image.convert("L").resize((image.width // COARSE, image.height // COARSE), Image.Resampling.BOX)
        bright = np.asarray(small.resize(image.size, Image.Resampling.NEAREST)) > 127
        return [
            choose_object([MaskCandidate(bright & within(prompt.box, Size(*image.size)), 0.9)], prompt) for prompt in prompts
        ]

    async def asegment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


def within(box: Box, size: Size) -> Mask:
    """A little beyond the box, as real ones go where they see more of the object."""
    inside = np.zeros((size.height, size.width), np.bool_)
    x, y = 0.1 * (box.x2 - box.x1), 0.1 * (box.y2 - box.y1)
    inside[max(0, round(box.y1 - y)) : round(box.y2 + y), max(0, round(box.x1 - x)) : round(box.x2 + x)] = True
    return inside


def scene(*discs: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGB", SIZE)
    for disc in discs:
        ImageDraw.Draw(image).ellipse(disc, fill=(255, 255, 255))
    return image


def models_with(segmenter: Coarse) -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM([]), segmenter)


SMALL = (203, 101, 250, 148)


def test_small_objects_get_finer_masks_in_crops() -> None:
    image, segmenter = scene(SMALL), Coarse()
    truth = np.asarray(image.convert("L")) > 127
    models = models_with(segmenter)
    points = (PointPrompt(226, 124, 1, 0.9),)
    (before,) = segmenter.segment(image, [ObjectPrompt(Box(200, 98, 254, 152), points)])
    (after,) = models.run(image, refine_crops(models.start_run(SIZE), [before]))
    assert mask_iou(before.mask, truth) < 0.88
    assert mask_iou(after.mask, truth) > 0.91
    assert after.prompt == before.prompt, "what was asked and answered stays"
    assert after.alternatives == before.alternatives, "the coarse mask is none of them"
    assert after.score == pytest.approx(0.9)
    views = segmenter.shown[1:]
    bright = [float((np.asarray(view.convert("L")) > 127).mean()) for view in views]
    assert len(views) == 3
    assert all(view.size == SIZE for view in views)
    assert bright[0] < bright[1] < bright[2], "each closer than the one before"
    assert truth.mean() * 2 < bright[0]


def test_objects_that_take_much_of_the_image_stay_as_they_are() -> None:
    image, segmenter = scene((20, 20, 260, 260)), Coarse()
    models = models_with(segmenter)
    (before,) = segmenter.segment(image, [ObjectPrompt(Box(10, 10, 270, 270))])
    assert models.run(image, refine_crops(models.start_run(SIZE), [before])) == [before]
    assert len(segmenter.shown) == 1, "nobody was shown anything"


def test_a_mask_that_would_become_another_objects_or_is_empty_stays_as_it_is() -> None:
    models = models_with(Coarse())
    nothing_there = SegmentedObject(within(Box(100, 100, 140, 140), SIZE), ObjectPrompt(Box(100, 100, 140, 140)), 0.8)
    empty = SegmentedObject(np.zeros((300, 400), bool), ObjectPrompt(Box(100, 100, 140, 140)), 0.8)
    assert models.run(scene(), refine_crops(models.start_run(SIZE), [nothing_there, empty])) == [nothing_there, empty]


def test_objects_keep_their_order() -> None:
    discs = [SMALL, (20, 30, 60, 70), (330, 220, 380, 270)]
    image, segmenter = scene(*discs), Coarse()
    models = models_with(segmenter)
    boxes = [Box(x1 - 9, y1 - 9, x2 + 9, y2 + 9) for x1, y1, x2, y2 in discs]
    before = segmenter.segment(image, [ObjectPrompt(box) for box in boxes])
    after = models.run(image, refine_crops(models.start_run(SIZE), before))
    for disc, segmented in zip(discs, after, strict=True):
        assert mask_iou(segmented.mask, np.asarray(scene(disc).convert("L")) > 127) > 0.9


def test_crops_that_a_budget_allowed_count_and_the_rest_is_left() -> None:
    discs = [SMALL, (20, 30, 60, 70)]
    image, segmenter = scene(*discs), Coarse()
    models = models_with(segmenter)
    before = segmenter.segment(image, [ObjectPrompt(Box(x1 - 9, y1 - 9, x2 + 9, y2 + 9)) for x1, y1, x2, y2 in discs])

    class Limit(RunHook):
        """Lets two requests through: two crops of the first object."""

        served = 0

        def before_request(self, request: Request) -> None:  # noqa: ARG002
            if self.served == 2:
                raise OverBudgetError("two requests are enough")

        def after_request(self, request: Request, response: Response) -> None:  # noqa: ARG002
            self.served += 1

    first, second = models.run(image, refine_crops(models.start_run(SIZE), before), hooks=[Limit()])
    assert len(segmenter.shown) == 1 + 2
    assert first is not before[0]
    assert second is before[1]


def test_the_number_of_refined_objects_is_bounded_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam4mllm_tool.pipeline.crop_refinement._MAX_OBJECTS", 1)
    image, segmenter = scene(SMALL), Coarse()
    models = models_with(segmenter)
    before = segmenter.segment(image, [ObjectPrompt(Box(190, 90, 260, 160)), ObjectPrompt(Box(195, 95, 255, 155))])
    run = models.start_run(SIZE)
    first, second = models.run(image, refine_crops(run, before))
    assert first is not before[0]
    assert second is before[1]
    assert run.transcript.notes == ["refined the masks of 1 objects only"]


def test_crops_of_large_images_are_no_larger_than_the_segmenter_sees() -> None:
    segmenter = Coarse()
    models, size = models_with(segmenter), Size(3000, 2000)
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).ellipse((1500, 800, 1800, 1100), fill=(255, 255, 255))
    (before,) = segmenter.segment(image, [ObjectPrompt(Box(1480, 780, 1820, 1120))])
    (after,) = models.run(image, refine_crops(models.start_run(size), [before]))
    assert [max(view.size) for view in segmenter.shown[1:]] == [1024] * 3
    assert after.mask.shape == (2000, 3000)
    assert mask_iou(after.mask, np.asarray(image.convert("L")) > 127) > 0.95
