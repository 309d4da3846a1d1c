"""The values' JSON and back."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmentation, SegmentedObject, Size, Tokens, Turn, Usage

MASK = np.arange(12).reshape(3, 4) % 5 == 0
THING = SegmentedObject(MASK, ObjectPrompt(Box(0, 0, 4, 3), (PointPrompt(1, 2.5, 0, 0.9), PointPrompt(2, 1, 1))), 0.75, 0.5)
WHOLE = Segmentation(
    "the ring",
    Size(4, 3),
    (THING,),
    (Turn("user", "Where?"), Turn("assistant", "[0 0 9 9]")),
    Usage("an MLLM", "a segmenter", 2, {"boxes": 0.5}, Tokens(10, 3), 1),
    ("asked again",),
    0.25,
)


def told(whole: Segmentation = WHOLE) -> Any:
    return json.loads(json.dumps(whole.to_dict()))


@pytest.mark.parametrize("whole", [WHOLE, Segmentation("the dog", Size(4, 3), ())], ids=["one object", "none"])
def test_a_segmentation_comes_back_from_its_json_as_it_was(whole: Segmentation) -> None:
    again = Segmentation.from_dict(told(whole) | {"handle": "beside"})
    assert again.to_dict() == whole.to_dict()
    assert (again.size, again.turns, again.usage, again.notes) == (whole.size, whole.turns, whole.usage, whole.notes)
    assert [thing.prompt for thing in again.objects] == [thing.prompt for thing in whole.objects]
    assert np.array_equal(again.mask, whole.mask)


def within(*path: str | int, to: Any) -> Callable[[Any], None]:
    def change(told: Any) -> None:
        for key in path[:-1]:
            told = told[key]
        told[path[-1]] = to

    return change


FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no objects": (lambda told: told.pop("objects"), "a segmentation has no 'objects'"),
    "no turns": (lambda told: told.pop("turns"), "a segmentation has no 'turns'"),
    "an object without a mask": (lambda told: told["objects"][0].pop("mask"), "no 'mask'"),
    "a mask of another picture": (within("objects", 0, "mask", "size", to=[60000, 60000]), r"a mask is of \[60000, 60000\]"),
    "a broken mask": (within("objects", 0, "mask", "counts", to="?"), "RLE counts"),
    "a box of three": (within("objects", 0, "box", to=[1, 2, 3]), "an object is of another shape"),
    "a box of words": (within("objects", 0, "box", to=["a"] * 4), "could not convert string to float"),
    "a label that is none": (within("objects", 0, "points", 0, "label", to=2), "expected a label of 0 or 1, got 2"),
    "a probability that is none": (within("confidence", to=1.5), r"expected a probability in \[0, 1\], got 1.5"),
    "a speaker that is none": (within("turns", 0, "role", to="narrator"), "got 'narrator'"),
    "an endless side": (within("size", "width", to=float("inf")), "cannot convert float infinity"),
    "no models": (lambda told: told.pop("models"), "usage has no 'models'"),
    "a list": (within("size", to=[4, 3]), "a segmentation is of another shape"),
}


@pytest.mark.parametrize(("change", "fault"), FAULTS.values(), ids=FAULTS)
def test_what_was_never_written_is_a_value_error_that_names_the_fault(change: Callable[[Any], Any], fault: str) -> None:
    broken = told()
    change(broken)
    with pytest.raises(ValueError, match=fault):
        Segmentation.from_dict(broken)


PLACES = [("objects",), ("objects", 0), ("objects", 0, "points"), ("objects", 0, "mask"), ("size",), ("models",), ("seconds",)]
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["size", "box", "counts", "x"]), inner),
)


@given(st.sampled_from(PLACES), JUNK)
def test_junk_is_a_value_error_or_read_and_nothing_else(place: tuple[str | int, ...], junk: Any) -> None:
    broken = told()
    within(*place, to=junk)(broken)
    try:
        read = Segmentation.from_dict(broken)
    except ValueError:
        return
    assert isinstance(read, Segmentation)
