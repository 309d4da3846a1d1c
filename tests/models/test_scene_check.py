"""The embedded segmenter behind another MLLM warns of images that it can't know."""

from pathlib import Path

import pytest

from sam4mllm_tool import Sam4Mllm, SegmentTool
from sam4mllm_tool.agents import create_segmentation_agent
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.tools import Sam4MllmToolkit
from tests.embedded_world import TEST_SEEDS, draw_scene
from tests.unlike_images import load_photograph


def test_the_embedded_segmenter_behind_another_mllm_warns_of_photographs_alone() -> None:
    models = Sam4Mllm.load(ScriptedMLLM(lambda _: "none"), dialect=PLAIN)
    (warning,) = models.segment(load_photograph("astronaut.png"), "the helmet", method="box").warnings
    assert "the embedded segmenter knows drawn scenes" in warning
    assert "segmenter=" in warning
    assert not models.segment(draw_scene(TEST_SEEDS).image, "the ring", method="box").warnings


def test_tools_and_agents_take_a_segmenter(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    (tool, *_) = Sam4MllmToolkit(mllm=ScriptedMLLM(lambda _: "none"), segmenter=missing).get_tools()
    for each in (tool, SegmentTool(segmenter=missing)):
        assert "there is no folder" in str(each.invoke({"image": "x", "expression": "the ring"}))
    with pytest.raises(ValueError, match="expected either segmenter or toolkit"):
        create_segmentation_agent("openai:gpt-5", segmenter=missing, toolkit=Sam4MllmToolkit())
    with pytest.raises(ValueError, match="expected either sam4mllm, loaded models, or segmenter"):
        SegmentTool(sam4mllm=Sam4Mllm.load(), segmenter=missing)
