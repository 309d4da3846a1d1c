"""LabelMe's own reader reads what is exported for it; without LabelMe's windows, which need Qt."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from sam4mllm_tool.images.output_formats import export_outputs
from sam4mllm_tool.types import Mask
from tests.images.masked_images import SIZE, block_mask, filled_ring, image, ring_mask, segmentation

pytestmark = pytest.mark.skipif(find_spec("labelme") is None, reason="LabelMe is missing: `make video` installs it")
WINDOWS = ("PyQt5", "PyQt5.QtCore", "PyQt5.QtGui", "PyQt5.QtWidgets", "onnxruntime")


@pytest.fixture
def labelme(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in WINDOWS:
        monkeypatch.setitem(sys.modules, name, MagicMock(name=name))
    return import_module("labelme")


def draw_object(labelme: Any, shapes: list[Any]) -> Mask:
    """Draw the shapes of one object as LabelMe does for its viewers and exporters."""
    _, instances = labelme.utils.shapes_to_label((SIZE.height, SIZE.width), shapes, {shapes[0]["label"]: 1})
    return np.asarray(instances > 0)


def test_labelme_opens_the_file_and_draws_each_object_exactly(labelme: Any, tmp_path: Path) -> None:
    masks = (ring_mask(), block_mask(), filled_ring())
    result = segmentation(*masks)
    (tmp_path / "mug.json").write_bytes(export_outputs(image(), result, ["labelme"], image_name="mug.png")["mug.json"])
    file = labelme.LabelFile(str(tmp_path / "mug.json"))
    assert file.image_path == "mug.png"
    assert np.array_equal(labelme.utils.img_data_to_arr(file.image_data), np.asarray(image()))
    assert {shape["label"] for shape in file.shapes} == {"the mug & <co>"}
    groups = [[shape for shape in file.shapes if shape["group_id"] == number] for number in (1, 2, 3)]
    kinds = [{shape["shape_type"] for shape in group} for group in groups]
    assert kinds == [{"mask"}, {"polygon"}, {"polygon"}]
    drawn = [draw_object(labelme, group) for group in groups]
    assert all(np.array_equal(*pair) for pair in zip(drawn, masks, strict=True))
