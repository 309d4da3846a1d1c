"""What an answer may weigh, and what is kept between calls."""

import base64
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.server.mcp.handle_store import HandleStore
from sam4mllm_tool.server.mcp.preview import MAX_PREVIEW_LENGTH, preview_result
from sam4mllm_tool.types import Box, ObjectPrompt, Segmentation, SegmentedObject, Size


def preview(pixels: np.ndarray) -> tuple[int, Image.Image]:
    """Return the length and the image of the preview of a mask that covers the middle of 2000 x 1500 pixels."""
    mask = np.zeros((1500, 2000), np.bool_)
    mask[500:1000, 500:1500] = True
    segmented = SegmentedObject(mask, ObjectPrompt(Box(500, 500, 1500, 1000)), 0.9)
    text = preview_result(Image.fromarray(pixels), Segmentation("it", Size(2000, 1500), (segmented,)))
    return len(text), Image.open(BytesIO(base64.b64decode(text)))


def test_a_preview_shrinks_until_it_fits() -> None:
    length, image = preview(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
    assert length <= MAX_PREVIEW_LENGTH
    assert image.width < 1568
    assert image.width / image.height == pytest.approx(4 / 3, abs=0.01)


def test_the_preview_of_a_large_image_shows_the_mask_in_its_place() -> None:
    _, image = preview(np.full((1500, 2000, 3), 128, np.uint8))
    assert image.size == (1568, 1176)
    grey = np.asarray(image.convert("L"), float)
    middle, corner = grey[560:620, 700:860], grey[1120:, 1450:]
    assert corner.mean() == pytest.approx(128, abs=1)
    assert abs(middle.mean() - 128) > 10


def test_the_store_drops_the_oldest_results_and_keeps_owners_apart() -> None:
    store = HandleStore(max_bytes=1100)
    for handle in ("seg-1", "seg-2", "seg-3"):
        store.put("a", {"handle": handle, "picture": "img-0123456789ab", "kind": "result", "state": {"x": "y" * 20}}, "")
    assert [store.get("a", handle) is not None for handle in ("seg-1", "seg-2", "seg-3")] == [False, True, True]
    assert store.get("b", "seg-3") is None
    assert store.build_messages("b", ["seg-3"], ["img-0123456789ab"]) == []


def test_the_store_takes_no_more_memory_than_it_may() -> None:
    store = HandleStore(max_bytes=2**18)
    state = {"boxes": [[float(x), 2.0, 3.0, 4.0] for x in range(40)]}
    artifacts = [{"handle": f"seg-{n}", "picture": "img-0123456789ab", "kind": "result", "state": state} for n in range(1000)]
    tracemalloc.start()
    for artifact in artifacts:
        store.put("a", artifact, "")
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 2**17 < taken < 1.1 * 2**18
    assert store.get("a", "seg-999") is not None
    assert store.get("a", "seg-0") is None


def test_the_same_result_kept_again_drops_no_other() -> None:
    store = HandleStore(max_bytes=1100)
    for handle in ("seg-1", *["seg-2"] * 9):
        store.put("a", {"handle": handle, "picture": "img-0123456789ab", "kind": "result", "state": {"x": "y" * 20}}, "")
    assert store.get("a", "seg-1") is not None
