"""The backends of the package pass the public conformance suites."""

from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from sam4mllm_tool.models.mllm import ScriptedMLLM, load_mllm
from sam4mllm_tool.models.segmenter import BoxSegmenter, load_segmenter
from sam4mllm_tool.protocol import EMBEDDED, JOINT, RELEASED, Dialect
from sam4mllm_tool.protocol.dialects.gemma import GEMMA
from sam4mllm_tool.testing import ConformanceCase, MLLMConformance, SegmenterConformance, draw_conformance_cases
from sam4mllm_tool.types import MLLM, Box, Segmenter

load_mllm_once, load_segmenter_once = cache(load_mllm), cache(load_segmenter)


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
        cases = draw_conformance_cases()
        return (*cases[:12:3], *cases[-2:])  # one of each image, an absent object, and several

    def is_close(self, box: Box, true_box: Box) -> bool:
        return box.iou(true_box) > 0.6


class TestBoxSegmenter(SegmenterConformance):
    def make_backend(self) -> Segmenter:
        return BoxSegmenter()


class TestEmbeddedSegmenter(SegmenterConformance):
    least_iou: ClassVar[float] = 0.85

    def make_backend(self) -> Segmenter:
        return load_segmenter_once("embedded")
