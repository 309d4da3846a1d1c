"""Adaptive questions: asked where an answer can be relied on, and never for the worse by the tool's own measure."""

import numpy as np
import pytest

from sam4mllm_tool.pipeline.point_selection import pick_better, select_medoid, select_points, select_stable_points, tighten_box
from sam4mllm_tool.protocol import Grid, PointsByBox
from sam4mllm_tool.types import Box, MaskCandidate, ObjectPrompt, Point, PointPrompt, SegmentedObject

BOX = Box(20, 20, 116, 116)


def disc(radius: float, x: float = 68, y: float = 68, side: int = 140) -> np.ndarray:
    ys, xs = np.mgrid[:side, :side] + 0.5
    return (xs - x) ** 2 + (ys - y) ** 2 < radius**2


def far_from(edge_of: np.ndarray, point: Point, distance: int) -> bool:
    x, y = int(point.x), int(point.y)
    around = edge_of[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
    return bool(around.all() or not around.any())


def test_points_are_spread_over_the_box_one_in_each_part() -> None:
    points = select_stable_points([disc(48)], BOX)
    parts = [(int((p.x - 20) // 32), int((p.y - 20) // 32)) for p in points]
    assert parts == [(column, row) for row in range(3) for column in range(3)]


def test_points_keep_away_from_edges_where_a_grid_does_not() -> None:
    ring = disc(46) & ~disc(26)
    points = select_stable_points([ring], BOX, columns=4, rows=4)
    near = [point for point in points if not far_from(ring, point, 3)]
    assert len(near) < sum(not far_from(ring, point, 3) for point in Grid(4, 4)(BOX))
    assert {bool(ring[int(p.y), int(p.x)]) for p in points} == {True, False}


def test_what_one_candidate_alone_takes_in_is_asked_about_in_its_middle() -> None:
    ring, whole = disc(46) & ~disc(26), disc(46)
    for point in select_stable_points([ring, whole], BOX):
        assert far_from(ring, point, 2)
        assert far_from(whole, point, 2)


def test_the_first_question_about_an_object_looks_at_all_its_candidates() -> None:
    thing = SegmentedObject(disc(46), ObjectPrompt(BOX), 0.9, None, (MaskCandidate(disc(20), 0.5),))
    assert select_points(thing) == select_stable_points([disc(46), disc(20)], BOX)


def told(mask: np.ndarray, score: float, points: tuple[PointPrompt, ...] = ()) -> SegmentedObject:
    return SegmentedObject(mask, ObjectPrompt(BOX, points), score)


def test_the_box_alone_is_kept_where_points_make_the_mask_worse() -> None:
    points = (PointPrompt(68, 68, 1, 0.9), PointPrompt(30, 30, 0, 0.95))
    wrong, right = told(~disc(46), 0.9, points), told(disc(46), 0.8)
    kept = pick_better(wrong, right)
    assert kept.mask is right.mask
    assert kept.prompt.points == points
    assert kept.agreement is None, "one point on the object is too few"
    more = told(~disc(46), 0.9, (*points, PointPrompt(64, 60, 1, 0.8)))
    assert pick_better(more, right).agreement == pytest.approx(((0.9 + 0.8) / 2 + 0.95) / 2)
    assert pick_better(told(disc(46), 0.9, points), told(~disc(46), 0.95)).mask[68, 68]
    assert pick_better(told(disc(46), 0.5), right).score == 0.5, "without points there is nothing to judge by"


def three(*masks: np.ndarray, scores: tuple[float, ...] = (0.9, 0.89, 0.88)) -> SegmentedObject:
    first, *others = (MaskCandidate(mask, score) for mask, score in zip(masks, scores, strict=True))
    prompt = ObjectPrompt(BOX, (PointPrompt(68, 68, 1, 0.9), PointPrompt(30, 30, 0, 0.9)))
    return SegmentedObject(first.mask, prompt, first.score, 0.9, tuple(others))


def test_of_candidates_about_as_good_the_one_in_the_middle_is_taken() -> None:
    small, right, large = disc(42), disc(46), disc(50)
    chosen = select_medoid(three(small, right, large))
    assert chosen.mask is right
    assert chosen.score == 0.89
    assert [one.mask is mask for one, mask in zip(chosen.alternatives, (small, large), strict=True)] == [True, True]
    assert chosen.confidence == pytest.approx(0.9)


def test_candidates_that_are_worse_have_no_say_in_it() -> None:
    thing = three(disc(42), disc(46), disc(50), scores=(0.9, 0.89, 0.5))
    assert select_medoid(thing) is thing
    off = three(disc(42), disc(46), ~disc(46))
    assert select_medoid(off) is off, "a candidate that the answers speak against"
    assert select_medoid(told(disc(46), 0.9)).score == 0.9


def test_a_rough_box_is_tried_again_as_the_box_of_its_mask() -> None:
    points = (PointPrompt(68, 68, 1, 0.9),)
    assert tighten_box(told(disc(46), 0.9, points)) is None
    small = tighten_box(told(disc(34), 0.9, points))
    assert small is not None
    assert small.box == pytest.approx((34, 34, 102, 102), abs=2)
    assert small.points == points


def test_what_is_masked_besides_an_object_does_not_make_its_box() -> None:
    assert tighten_box(told(disc(12), 0.9)) is None, "a speck in the box"
    assert tighten_box(told(np.zeros((140, 140), bool), 0.9)) is None
    far = disc(34)
    far[60:76, 139] = True  # more than a fifth of the box away
    found = tighten_box(told(far, 0.9))
    assert found is not None
    assert found.box.x2 < 110
    specks = disc(34)
    specks[68, 116] = True  # one pixel is no edge
    assert tighten_box(told(specks, 0.9)) == tighten_box(told(disc(34), 0.9))


def test_points_that_were_not_chosen_are_a_mistake() -> None:
    sampler = PointsByBox(((BOX, (Point(1, 2),)),))
    assert sampler(BOX) == (Point(1, 2),)
    with pytest.raises(ValueError, match="no points were chosen"):
        sampler(Box(0, 0, 1, 1))
