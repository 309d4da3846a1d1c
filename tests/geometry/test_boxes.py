"""Boxes and masks, compared with each other and counted by hand."""

import numpy as np
import pytest

from sam4mllm_tool.geometry.boxes import SAME_OBJECT_IOU, format_box, is_same_object, mask_iou, mask_to_box, select_new_boxes
from sam4mllm_tool.types import Box

BOX = Box(0, 0, 10, 10)


def test_a_mask_has_the_box_of_its_outermost_pixels() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2, 3] = mask[5, 7] = True
    assert mask_to_box(mask) == Box(3, 2, 8, 6)


def test_mask_iou_counts_pixels() -> None:
    left, right = np.zeros((2, 4, 6), bool)
    left[:, :4], right[:, 2:] = True, True
    assert mask_iou(left, right) == pytest.approx(8 / 24)
    assert mask_iou(left, ~left) == 0
    assert mask_iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(Box(0, 0, 10, 10), True, id="the same box"),
        pytest.param(Box(0, 0, 10, 20), True, id="an IoU of exactly one half"),
        pytest.param(Box(0, 0, 10, 20.1), False, id="just below one half"),
        pytest.param(Box(20, 20, 30, 30), False, id="apart"),
    ],
)
def test_boxes_show_the_same_object_from_an_iou_of_one_half(other: Box, same: bool) -> None:
    assert is_same_object(BOX, other) is same
    assert (BOX.iou(other) >= SAME_OBJECT_IOU) is same


def test_boxes_are_new_if_neither_known_nor_selected_before() -> None:
    far, also_far = Box(50, 50, 60, 60), Box(50, 50, 60, 61)
    assert select_new_boxes([Box(0, 0, 10, 12), far, also_far], [BOX]) == [far]
    assert select_new_boxes([far, also_far], [], iou=0.99) == [far, also_far]


def test_a_box_is_formatted_in_whole_pixels() -> None:
    assert format_box(Box(12.4, 39.6, 96, 121)) == "(12, 40) to (96, 121)"
