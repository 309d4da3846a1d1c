"""Recorded runs for the tests: of the embedded pair on drawn scenes, and of scripted models."""

from functools import cache
from random import Random

from PIL import Image as PILImage

from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED, Grid
from sam4mllm_tool.trace import Recorder, Trace
from sam4mllm_tool.types import Image, Reply
from tests.embedded_world import draw_scene, sample_expressions

SEEDS = range(300_000, 300_003)
GREY = PILImage.new("RGB", (100, 80), "grey")
BOX = "[100,100,500,600]"
SURE = Reply("YesNoNoYes", ((0.95, 0.05), (0.02, 0.98), (0.4, 0.6), (0.99, 0.01)))


@cache
def embedded() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded")


def scene(seed: int) -> tuple[Image, list[str]]:
    """Return a drawn image and expressions about it, the last of an object that is not there."""
    drawn = draw_scene(seed)
    expressions = [expression.text for expression in sample_expressions(drawn, 4, Random(seed))]
    return PILImage.fromarray(drawn.image), [*expressions, "the purple elephant"]


def scripted(*replies: Reply | str, greedy: bool = False) -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM(replies, greedy=greedy), BoxSegmenter(), dialect=RELEASED, sampler=Grid(2, 2))


def traced(models: Sam4Mllm, image: Image = GREY, expression: str = "a cat", method: str = "pqpp") -> Trace:
    """Return the trace of one run that gives a result."""
    recorder = Recorder(models)
    recorder.models.segment(image, expression, method=method)  # type: ignore[arg-type]
    (trace,) = recorder.traces
    return trace
