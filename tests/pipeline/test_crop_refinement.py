"""Masks made from close by, with a segmenter that really looks: it takes what is bright in the box, at its own coarse sight."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter.choice import choose_object
from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.requests import Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.reasoning import Budget, Meter
from sam4mllm_tool.types import Box, Mask, MaskCandidate, ObjectPrompt, PointPrompt, SegmentedObject, Size

SIZE = Size(400, 300)
COARSE = 10
"""Pixels that the segmenter sees as one, as a real one sees a picture that it has made smaller."""


class Coarse:
    """What is bright in the box, of a picture ten times smaller."""

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
    picture = Image.new("RGB", SIZE)
    for disc in discs:
        ImageDraw.Draw(picture).ellipse(disc, fill=(255, 255, 255))
    return picture


def models_with(segmenter: Coarse) -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM([]), segmenter)


SMALL = (203, 101, 250, 148)


def test_a_small_object_is_masked_as_finely_as_it_is_seen_from_close_by() -> None:
    picture, segmenter = scene(SMALL), Coarse()
    truth = np.asarray(picture.convert("L")) > 127
    models = models_with(segmenter)
    points = (PointPrompt(226, 124, 1, 0.9),)
    (before,) = segmenter.segment(picture, [ObjectPrompt(Box(200, 98, 254, 152), points)])
    (after,) = models.run(picture, refine_crops(models.flows, [before], SIZE, Transcript()))
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


def test_what_takes_much_of_the_picture_stays_as_it_was() -> None:
    picture, segmenter = scene((20, 20, 260, 260)), Coarse()
    models = models_with(segmenter)
    (before,) = segmenter.segment(picture, [ObjectPrompt(Box(10, 10, 270, 270))])
    assert models.run(picture, refine_crops(models.flows, [before], SIZE, Transcript())) == [before]
    assert len(segmenter.shown) == 1, "nobody was shown anything"


def test_an_object_that_would_become_another_thing_or_has_no_mask_stays_as_it_was() -> None:
    models = models_with(Coarse())
    nothing_there = SegmentedObject(within(Box(100, 100, 140, 140), SIZE), ObjectPrompt(Box(100, 100, 140, 140)), 0.8)
    empty = SegmentedObject(np.zeros((300, 400), bool), ObjectPrompt(Box(100, 100, 140, 140)), 0.8)
    assert models.run(scene(), refine_crops(models.flows, [nothing_there, empty], SIZE, Transcript())) == [nothing_there, empty]


def test_several_objects_keep_their_order_one_after_the_other() -> None:
    discs = [SMALL, (20, 30, 60, 70), (330, 220, 380, 270)]
    picture, segmenter = scene(*discs), Coarse()
    models = models_with(segmenter)
    boxes = [Box(x1 - 9, y1 - 9, x2 + 9, y2 + 9) for x1, y1, x2, y2 in discs]
    before = segmenter.segment(picture, [ObjectPrompt(box) for box in boxes])
    after = models.run(picture, refine_crops(models.flows, before, SIZE, Transcript()))
    for disc, one in zip(discs, after, strict=True):
        assert mask_iou(one.mask, np.asarray(scene(disc).convert("L")) > 127) > 0.9


def test_what_a_budget_paid_for_counts_and_what_it_does_not_reach_is_left() -> None:
    discs = [SMALL, (20, 30, 60, 70)]
    picture, segmenter = scene(*discs), Coarse()
    models = models_with(segmenter)
    before = segmenter.segment(picture, [ObjectPrompt(Box(x1 - 9, y1 - 9, x2 + 9, y2 + 9)) for x1, y1, x2, y2 in discs])
    ticks = iter(range(0, 1000))
    meter = Meter(Budget(seconds=3.5), clock=lambda: next(ticks))  # each call takes a second: two views of the first object
    first, second = models.run(picture, meter.metered(refine_crops(models.flows, before, SIZE, Transcript())))
    assert len(segmenter.shown) == 1 + 2
    assert first is not before[0]
    assert second is before[1]


def test_only_so_many_objects_are_looked_at_from_close_by_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sam4mllm_tool.pipeline.crop_refinement._MOST", 1)
    picture, segmenter, talk = scene(SMALL), Coarse(), Transcript()
    models = models_with(segmenter)
    before = segmenter.segment(picture, [ObjectPrompt(Box(190, 90, 260, 160)), ObjectPrompt(Box(195, 95, 255, 155))])
    first, second = models.run(picture, refine_crops(models.flows, before, SIZE, talk))
    assert first is not before[0]
    assert second is before[1]
    assert talk.notes == ["masked no more than 1 objects from close by"]


def test_a_large_picture_is_shown_no_larger_than_the_segmenter_sees_it() -> None:
    segmenter = Coarse()
    models, size = models_with(segmenter), Size(3000, 2000)
    picture = Image.new("RGB", size)
    ImageDraw.Draw(picture).ellipse((1500, 800, 1800, 1100), fill=(255, 255, 255))
    (before,) = segmenter.segment(picture, [ObjectPrompt(Box(1480, 780, 1820, 1120))])
    (after,) = models.run(picture, refine_crops(models.flows, [before], size, Transcript()))
    assert [max(view.size) for view in segmenter.shown[1:]] == [1024] * 3
    assert after.mask.shape == (2000, 3000)
    assert mask_iou(after.mask, np.asarray(picture.convert("L")) > 127) > 0.95
