"""Pointing: the model's own points prompt the segmenter, without a box."""

import pickle
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.errors import EmptyMaskError, ReplyError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import DIALECTS, PPG, RELEASED, Pointing
from sam4mllm_tool.types import Image as AnyImage
from sam4mllm_tool.types import ObjectPrompt, PointPrompt, Reply, SegmentedObject, Size

IMAGE, SIZE = Image.new("RGB", (100, 80)), Size(100, 80)
MOLMO, QWEN = DIALECTS["molmo"], DIALECTS["qwen3_vl"]


class _Halves(BoxSegmenter):
    """Returns the half of the image that the prompt's first point is in."""

    def segment(self, image: AnyImage, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        self.calls.append(tuple(prompts))
        left = np.arange(image.width)[None].repeat(image.height, 0) < image.width / 2
        return [SegmentedObject(left == (prompt.points[0].x < image.width / 2), prompt, 0.5) for prompt in prompts]


def test_each_point_is_an_object_without_a_box() -> None:
    mllm, segmenter = ScriptedMLLM(['<points x1="10.0" y1="50.0" x2="90.0" y2="50.0" alt="cats">cats</points>']), _Halves()
    result = Sam4Mllm(mllm, segmenter, dialect=MOLMO).segment(IMAGE, "cats", method="points")
    (prompts,) = segmenter.calls
    assert prompts == tuple(ObjectPrompt.from_points([PointPrompt(x, 40, 1)]) for x in (10, 90))
    assert all(prompt.points_only for prompt in prompts)
    assert len(result.objects) == 2
    assert mllm.questions[0].turns[-1].text == "Point to cats"


def test_two_points_on_one_object_are_one_object() -> None:
    mllm = ScriptedMLLM(['<points x1="10.0" y1="50.0" x2="20.0" y2="50.0" x3="90" y3="50" alt="cats">cats</points>'])
    result = Sam4Mllm(mllm, _Halves(), dialect=MOLMO).segment(IMAGE, "cats", method="points")
    assert [segmented.prompt.points[0].x for segmented in result.objects] == [10, 90]
    assert result.notes == ("left out the object at (20, 40): it was pointed to before",)


def test_a_dialect_without_words_for_it_is_asked_as_for_ppg_and_its_boxes_are_left_out() -> None:
    mllm, segmenter = ScriptedMLLM(["[100,100,500,600] on (150,150) (160,160) off (480,480)"]), BoxSegmenter()
    Sam4Mllm(mllm, segmenter, dialect=RELEASED).segment(IMAGE, "a cat", method="points")
    ((prompt,),) = segmenter.calls
    assert prompt.points_only
    assert [point.label for point in prompt.points] == [1, 1, 0]
    assert mllm.questions[0] == PPG.start("a cat", SIZE, dialect=RELEASED).pending[0]


def test_ppg_of_a_family_that_only_points_takes_the_points_as_they_are() -> None:
    mllm, segmenter = ScriptedMLLM(['<point x="10.0" y="50.0" alt="cat">cat</point>']), BoxSegmenter()
    result = Sam4Mllm(mllm, segmenter, dialect=MOLMO).segment(IMAGE, "a cat", method="ppg")
    assert [prompt.points_only for prompt in segmenter.calls[0]] == [True]
    assert result.notes == ()


def test_no_such_object_is_an_answer() -> None:
    for dialect in (MOLMO, QWEN, RELEASED):
        mllm = ScriptedMLLM([dialect.none_text])
        assert Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect).segment(IMAGE, "a dog", method="points").objects == ()


def test_a_reply_without_points_is_asked_for_again_and_then_an_error() -> None:
    mllm = ScriptedMLLM(["hmm", '[{"bbox_2d": [1, 2, 3, 4]}]', '[{"point_2d": [500, 500], "label": "cat"}]'])
    models = Sam4Mllm(mllm, BoxSegmenter(), dialect=QWEN)
    assert len(models.segment(IMAGE, "a cat", method="points").objects) == 1
    with pytest.raises(ReplyError, match="expected coordinates"):
        Sam4Mllm(ScriptedMLLM(["hmm"] * 3), BoxSegmenter(), dialect=QWEN).segment(IMAGE, "a cat", method="points")
    with pytest.raises(ReplyError, match="a point on each object"):
        Sam4Mllm(ScriptedMLLM(["[100,100,500,600]"] * 3), BoxSegmenter(), dialect=RELEASED).segment(
            IMAGE, "a cat", method="points"
        )


class _EmptySegmenter(BoxSegmenter):
    def segment(self, image: AnyImage, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return [SegmentedObject(np.zeros((image.height, image.width), bool), prompt, 0.5) for prompt in prompts]


def test_an_empty_mask_is_an_error_that_names_the_point() -> None:
    mllm = ScriptedMLLM(['<point x="10.0" y="50.0" alt="cat">cat</point>'])
    with pytest.raises(EmptyMaskError, match=r"'a cat' is at \(10, 40\)"):
        Sam4Mllm(mllm, _EmptySegmenter(), dialect=MOLMO).segment(IMAGE, "a cat", method="points")


def test_the_dialogue_is_a_value() -> None:
    state = Pointing.start("a cat", SIZE, dialect=QWEN)
    answered = state.answer([Reply('[{"point_2d": [500, 500], "label": "cat"}]')])
    assert state.pending
    assert answered.pending == ()
    assert pickle.loads(pickle.dumps(answered)) == answered
