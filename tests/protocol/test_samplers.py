"""Samplers: where points are asked about."""

import math
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.protocol import FixedList, Grid, PointsByBox, PoissonDisk, Sampler
from sam4mllm_tool.types import Box, Point

BOX = Box(100, 200, 200, 300)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y, width, height = (draw(st.floats(low, 5000)) for low in (0, 0, 0.01, 0.01))
    return Box(x, y, x + width, y + height)


def test_the_papers_grid_is_the_centers_of_25_cells_row_by_row() -> None:
    points = Grid()(BOX)
    assert points[:6] == ((110, 210), (130, 210), (150, 210), (170, 210), (190, 210), (110, 230))
    assert points[-1] == (190, 290)
    assert len(points) == 25


def test_a_grid_may_have_other_counts() -> None:
    assert Grid(2, 1)(Box(0, 0, 8, 6)) == ((2, 3), (6, 3))
    assert Grid(1, 2)(Box(0, 0, 8, 6)) == ((4, 1.5), (4, 4.5))
    for columns, rows in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"{columns} x {rows}"):
            Grid(columns, rows)


def test_the_released_list_is_the_notebooks_fifteen() -> None:
    points = FixedList()(BOX)
    assert len(points) == 15
    assert points[0] == pytest.approx((193, 270))
    assert points[6:8] == (pytest.approx((129, 252)), pytest.approx((149, 249)))
    assert points[-1] == pytest.approx((173, 273))


@pytest.mark.parametrize("sampler", [Grid(), FixedList(), PoissonDisk(seed=3)], ids=lambda s: type(s).__name__)
@given(boxes())
def test_points_lie_inside_the_box_and_stay_the_same(sampler: Sampler, box: Box) -> None:
    points = sampler(box)
    assert points == sampler(Box(*box))
    assert all(box.x1 <= point.x <= box.x2 and box.y1 <= point.y <= box.y2 for point in points)


@given(st.integers(0, 2**31), boxes())
def test_poisson_disk_points_keep_their_distance_and_number(seed: int, box: Box) -> None:
    points = PoissonDisk(seed)(box)
    assert 1 <= len(points) <= 20
    unit = [Point((p.x - box.x1) / box.width, (p.y - box.y1) / box.height) for p in points]
    assert all(math.dist(a, b) >= 0.1 - 1e-6 for i, a in enumerate(unit) for b in unit[:i])


def test_poisson_disk_counts_follow_the_recipe() -> None:
    counts = [len(PoissonDisk(seed)(BOX)) for seed in range(1500)]
    assert mean(counts) == pytest.approx(10, abs=0.4)  # N(10, 4), clipped to 1..20
    assert stdev(counts) == pytest.approx(3.9, abs=0.25)
    assert (min(counts), max(counts)) == (1, 20), "both bounds are reached"


def test_a_box_has_room_for_so_many_poisson_disk_points() -> None:
    assert 50 < len(PoissonDisk(mean=100, deviation=0, most=100)(BOX)) < 100


def test_seed_and_box_decide_the_poisson_disk_points() -> None:
    assert PoissonDisk(1)(BOX) != PoissonDisk(2)(BOX)
    assert PoissonDisk(1)(BOX) != PoissonDisk(1)(BOX._replace(x2=201))
    assert PoissonDisk(1)(BOX) == PoissonDisk(1)(Box(100.0, 200.0, 200.0, 300.0)), "integers and floats give the same points"
    first = PoissonDisk(0, most=1)(BOX)[0]
    assert first == pytest.approx((101.6193, 286.6477), abs=1e-3), (
        "the seed gives the same points in every process and on every machine"
    )


def test_points_by_box_are_those_chosen_for_the_box() -> None:
    sampler = PointsByBox(((BOX, (Point(120, 220),)), (Box(0, 0, 5, 5), ())))
    assert sampler(BOX) == (Point(120, 220),)
    assert sampler(Box(0, 0, 5, 5)) == ()
    with pytest.raises(ValueError, match="no points were chosen"):
        sampler(Box(0, 0, 6, 6))
