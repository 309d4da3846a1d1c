"""The backends of the package pass the public conformance suites."""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from PIL import Image as PILImage

from sam4mllm_tool.interactive.mask_geometry import deepest_point
from sam4mllm_tool.models.mllm import ScriptedMLLM, load_mllm
from sam4mllm_tool.models.segmenter import BoxSegmenter, load_segmenter
from sam4mllm_tool.protocol import EMBEDDED, JOINT, RELEASED, Dialect
from sam4mllm_tool.protocol.dialects.gemma import GEMMA
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.testing import ConformanceCase, MLLMConformance, SegmenterConformance
from sam4mllm_tool.types import MLLM, Box, Label, ObjectPrompt, Point, SegmentedObject, Segmenter
from tests.embedded_world import ABSENT, iter_cases

load_mllm_once, load_segmenter_once = cache(load_mllm), cache(load_segmenter)


@cache
def draw_embedded_cases() -> tuple[ConformanceCase, ...]:
    """Return cases of what the embedded pair knows: of one object on images of four sizes, of none, and of several."""
    kinds = zip(("attribute",) * 4 + (ABSENT, "plural"), (171, 256, 333, 512, 256, 256), strict=True)
    return tuple(_draw_case(kind, 973_000 + 100 * number, side) for number, (kind, side) in enumerate(kinds))


def _draw_case(kind: str, first: int, side: int) -> ConformanceCase:
    scene, expression = next(iter_cases(kind, first, side))
    boxes = tuple(scene.regions[index].box for index in expression.targets)
    masks = tuple(scene.mask(index) for index in expression.targets)
    points: tuple[tuple[Point, Label], ...] = ()
    if boxes:
        middle = deepest_point(SegmentedObject(masks[0], ObjectPrompt(boxes[0]), 1.0))
        corner = Point(boxes[0].x1 + 1, boxes[0].y1 + 1)
        points = tuple((point, label_point(masks[0], point)) for point in (middle, corner))
    return ConformanceCase(PILImage.fromarray(scene.image), expression.text, boxes, masks, points)


class TestScriptedMLLM(MLLMConformance):
    def make_backend(self) -> MLLM:
        return ScriptedMLLM(self.oracle.answer)


class TestScriptedMLLMInTheReleasedDialect(TestScriptedMLLM):
    dialect: ClassVar[Dialect] = RELEASED


class TestScriptedMLLMInJointQuestions(TestScriptedMLLM):
    dialect: ClassVar[Dialect] = JOINT


class TestScriptedMLLMThatWritesYFirst(TestScriptedMLLM):
    dialect: ClassVar[Dialect] = GEMMA


class TestEmbeddedMLLM(MLLMConformance):
    dialect: ClassVar[Dialect] = EMBEDDED
    is_prepared: ClassVar[bool] = False

    def make_backend(self) -> MLLM:
        return load_mllm_once("embedded")

    def make_cases(self) -> Sequence[ConformanceCase]:
        return draw_embedded_cases()

    def is_close(self, box: Box, true_box: Box) -> bool:
        return box.iou(true_box) > 0.6


class TestBoxSegmenter(SegmenterConformance):
    def make_backend(self) -> Segmenter:
        return BoxSegmenter()


class TestEmbeddedSegmenter(SegmenterConformance):
    least_iou: ClassVar[float] = 0.85

    def make_cases(self) -> Sequence[ConformanceCase]:
        return draw_embedded_cases()

    def make_backend(self) -> Segmenter:
        return load_segmenter_once("embedded")
