"""Several objects in one expression, and objects left out, with the embedded pair on scenes whose masks are known."""

import pytest
from PIL import Image as PILImage

from sam4mllm_tool import ExpressionError, ReplyError, Sam4Mllm, Segmentation
from sam4mllm_tool.config import Method
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import segment_compound
from sam4mllm_tool.models.mllm.scripted import ScriptedMLLM
from sam4mllm_tool.models.segmenter.box_segmenter import BoxSegmenter
from sam4mllm_tool.types import Question, Size
from tests.tool_suites import load_embedded_models

RINGS = draw_scene(240161)
"""A green, a purple and an orange ring, a green star, an orange crescent, an orange heart, a purple triangle."""
FEW = draw_scene(240062)
"""A white triangle, a red ring, a white ring."""


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


def segment(models: Sam4Mllm, scene: Scene, *expressions: str, method: Method = "adaptive") -> Segmentation:
    image = PILImage.fromarray(scene.image)
    run = models.start_run(Size(*image.size))
    return models.run(image, segment_compound(run, expressions, method), run)


def name_objects(result: Segmentation, scene: Scene) -> dict[str, str]:
    """Return each object's expression by the colour and shape of the true object whose mask it has."""
    names = {}
    for segmented in result.objects:
        best = max(range(len(scene.objects)), key=lambda index: mask_iou(segmented.mask, scene.mask(index)))
        assert mask_iou(segmented.mask, scene.mask(best)) > 0.7
        names[f"{scene.objects[best].colour} {scene.objects[best].shape}"] = str(segmented.expression)
    assert len(names) == len(result.objects)
    return names


@pytest.mark.parametrize("method", ["adaptive", "pqpp"])
def test_what_is_excluded_is_left_out(models: Sam4Mllm, method: Method) -> None:
    result = segment(models, RINGS, "all rings but not the green one", method=method)
    assert name_objects(result, RINGS) == {"purple ring": "all rings", "orange ring": "all rings"}
    assert result.expression == "all rings but not the green one"
    assert any("left out" in note and "'the green ring'" in note for note in result.notes)


def test_an_exclusion_that_fits_nothing_says_so(models: Sam4Mllm) -> None:
    result = segment(models, FEW, "all rings but not the blue one")
    assert set(name_objects(result, FEW)) == {"red ring", "white ring"}
    assert "nothing was left out as 'the blue ring'" in result.notes


def test_two_objects_are_both_found_and_keep_their_own_words(models: Sam4Mllm) -> None:
    result = segment(models, FEW, "the red ring and the triangle")
    assert name_objects(result, FEW) == {"red ring": "the red ring", "white triangle": "the triangle"}
    assert result.confidence == min(segmented.confidence for segmented in result.objects)


def test_a_part_without_an_object_is_a_note_and_lowers_no_other(models: Sam4Mllm) -> None:
    result = segment(models, FEW, "the red ring", "the blue heart")
    assert name_objects(result, FEW) == {"red ring": "the red ring"}
    assert any(note.startswith("'the blue heart': there is no such object, confidence") for note in result.notes)
    assert result.expression == "the red ring and the blue heart"


def test_an_object_that_two_expressions_mean_is_there_once(models: Sam4Mllm) -> None:
    result = segment(models, FEW, "the red ring", "all rings")
    assert set(name_objects(result, FEW)) == {"red ring", "white ring"}


def test_a_single_expression_is_segmented_as_ever(models: Sam4Mllm) -> None:
    ours, plain = (
        segment(models, FEW, "the red ring"),
        models.segment(PILImage.fromarray(FEW.image), "the red ring", method="adaptive"),
    )
    assert (ours.mask == plain.mask).all()
    assert (ours.expression, ours.notes) == (plain.expression, plain.notes)
    assert ours.confidence == pytest.approx(plain.confidence, abs=1e-5)


def test_a_part_that_cannot_be_read_leaves_the_others() -> None:
    def reply(question: Question) -> str:
        return "[10,10,90,90]" if "ring" in question.turns[-1].text else "I am not sure"

    scripted = Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), retries=0)
    result = segment(scripted, FEW, "the ring and the star", method="box")
    assert [segmented.expression for segmented in result.objects] == ["the ring"]
    assert any(note.startswith("'the star' could not be segmented") for note in result.notes)
    with pytest.raises(ReplyError):
        segment(scripted, FEW, "the cross and the star", method="box")


def test_too_many_expressions_are_refused(models: Sam4Mllm) -> None:
    with pytest.raises(ExpressionError, match="at most 10"):
        segment(models, FEW, *["the ring and the star"] * 6)
