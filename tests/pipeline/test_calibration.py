"""Platt's scaling against what it should recover."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.pipeline.calibration import Calibration, Scaling, fit_scaling

NUMBERS = st.floats(-5, 5)
SCALINGS = st.builds(Scaling, NUMBERS, NUMBERS)


def test_without_a_scaling_a_model_is_taken_at_its_word() -> None:
    assert [Scaling()(p) for p in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]


def test_log_odds_are_scaled_and_moved() -> None:
    odds = (0.8 / 0.2) ** 2 * math.e
    assert Scaling(2, 1)(0.8) == pytest.approx(odds / (1 + odds))


@given(SCALINGS, SCALINGS, st.floats(0.01, 0.99))
def test_two_scalings_make_one(first: Scaling, second: Scaling, p: float) -> None:
    once = second.after(first)(p)
    assert once == pytest.approx(second(first(p)), abs=1e-6)


@pytest.mark.parametrize(("slope", "offset"), [(0.5, 1.0), (2.0, -1.0), (1.0, 0.0)])
def test_the_fit_finds_the_scaling_that_made_the_answers(slope: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(0.02, 0.98, 20_000)
    right = rng.uniform(size=said.size) < [Scaling(slope, offset)(p) for p in said]
    found = fit_scaling(list(zip(said.tolist(), right.tolist(), strict=True)))
    assert (found.slope, found.offset) == pytest.approx((slope, offset), abs=0.08)


@pytest.mark.parametrize("right", [True, False])
def test_answers_that_are_all_alike_still_give_finite_numbers(right: bool) -> None:
    found = fit_scaling([(p, right) for p in (0.0, 0.5, 1.0)])
    assert math.isfinite(found.slope)
    assert (found(0.5) > 0.5) == right


def test_confidences_that_speak_against_themselves_give_their_level_alone() -> None:
    found = fit_scaling([(0.95, False)] * 10 + [(0.9, True)] * 30)
    assert found.slope == 0
    assert found(0.5) == found(0.99) == pytest.approx(0.75)


def test_there_is_nothing_to_fit_in_nothing() -> None:
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_scaling([])


@given(SCALINGS, SCALINGS)
def test_a_calibration_comes_back_from_its_file(objects: Scaling, none: Scaling) -> None:
    calibration = Calibration(objects, none)
    assert Calibration.from_json(calibration.to_json()) == calibration


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"objects": 1}', '{"objects": {"slope": "x", "offset": 0}}', '{"other": {"slope": 1, "offset": 0}}',
     '{"objects": {"slope": NaN, "offset": 0}}', '{"objects": {"slope": ' + "9" * 400 + ', "offset": 0}}', "[" * 100_000],
)  # fmt: skip
def test_what_is_no_calibration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a calibration"):
        Calibration.from_json(text)
