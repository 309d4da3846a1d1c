"""Several objects in one expression, and objects left out, with the embedded pair on scenes whose masks are known."""

import pytest
from PIL import Image as PILImage

from sam4mllm_tool import ExpressionError, ReplyError, Sam4Mllm, Segmentation
from sam4mllm_tool.config import Method
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import segment_compound
from sam4mllm_tool.models.mllm.scripted import ScriptedMLLM
from sam4mllm_tool.models.segmenter.box_segmenter import BoxSegmenter
from sam4mllm_tool.types import Question, Size
from tests.grouped_scenes import PAIR, THREE, GroupedScene
from tests.tool_suites import load_embedded_models

FIRST, SECOND = PAIR.group
OTHER = PAIR.single
FIRST_NAME, OTHER_NAME = PAIR.name(FIRST), PAIR.name(OTHER)


@pytest.fixture(scope="module")
def models() -> Sam4Mllm:
    return load_embedded_models()


def segment(models: Sam4Mllm, image: PILImage.Image, *expressions: str, method: Method = "adaptive") -> Segmentation:
    run = models.start_run(Size(*image.size))
    return models.run(image, segment_compound(run, expressions, method), run)


def match_expressions(result: Segmentation, grouped: GroupedScene) -> dict[int, str]:
    """Return each object's expression by the index of the true object whose mask it has."""
    scene, expressions = grouped.scene, {}
    for segmented in result.objects:
        best = max(range(len(scene.objects)), key=lambda index: mask_iou(segmented.mask, scene.mask(index)))
        assert mask_iou(segmented.mask, scene.mask(best)) > 0.7
        expressions[best] = str(segmented.expression)
    assert len(expressions) == len(result.objects)
    return expressions


@pytest.mark.parametrize("method", ["adaptive", "pqpp"])
def test_what_is_excluded_is_left_out(models: Sam4Mllm, method: Method) -> None:
    excluded, *remaining = THREE.group
    expression = f"{THREE.plural} but not {THREE.colour_name(excluded)}"
    result = segment(models, THREE.image, expression, method=method)
    assert match_expressions(result, THREE) == dict.fromkeys(remaining, THREE.plural)
    assert result.expression == expression
    assert any("left out" in note and f"'{THREE.name(excluded)}'" in note for note in result.notes)


def test_an_exclusion_that_fits_nothing_says_so(models: Sam4Mllm) -> None:
    result = segment(models, PAIR.image, f"{PAIR.plural} but not the {PAIR.unused_colour} one")
    assert set(match_expressions(result, PAIR)) == {FIRST, SECOND}
    assert f"nothing was left out as '{PAIR.unused_name}'" in result.notes


def test_two_objects_are_both_found_and_keep_their_own_words(models: Sam4Mllm) -> None:
    result = segment(models, PAIR.image, f"{FIRST_NAME} and {OTHER_NAME}")
    assert match_expressions(result, PAIR) == {FIRST: FIRST_NAME, OTHER: OTHER_NAME}
    assert result.confidence == min(segmented.confidence for segmented in result.objects)


def test_a_part_without_an_object_is_a_note_and_lowers_no_other(models: Sam4Mllm) -> None:
    result = segment(models, PAIR.image, FIRST_NAME, PAIR.absent)
    assert match_expressions(result, PAIR) == {FIRST: FIRST_NAME}
    assert any(note.startswith(f"'{PAIR.absent}': there is no such object, confidence") for note in result.notes)
    assert result.expression == f"{FIRST_NAME} and {PAIR.absent}"


def test_an_object_that_two_expressions_mean_is_there_once(models: Sam4Mllm) -> None:
    result = segment(models, PAIR.image, FIRST_NAME, PAIR.plural)
    assert set(match_expressions(result, PAIR)) == {FIRST, SECOND}


def test_a_single_expression_is_segmented_as_ever(models: Sam4Mllm) -> None:
    ours, plain = (
        segment(models, PAIR.image, FIRST_NAME),
        models.segment(PAIR.image, FIRST_NAME, method="adaptive"),
    )
    assert (ours.mask == plain.mask).all()
    assert (ours.expression, ours.notes) == (plain.expression, plain.notes)
    assert ours.confidence == pytest.approx(plain.confidence, abs=1e-5)


def test_a_part_that_cannot_be_read_leaves_the_others() -> None:
    def reply(question: Question) -> str:
        return "[10,10,90,90]" if "mug" in question.turns[-1].text else "I am not sure"

    scripted = Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), retries=0)
    result = segment(scripted, PAIR.image, "the mug and the hat", method="box")
    assert [segmented.expression for segmented in result.objects] == ["the mug"]
    assert any(note.startswith("'the hat' could not be segmented") for note in result.notes)
    with pytest.raises(ReplyError):
        segment(scripted, PAIR.image, "the cat and the hat", method="box")


def test_too_many_expressions_are_refused(models: Sam4Mllm) -> None:
    with pytest.raises(ExpressionError, match="at most 10"):
        segment(models, PAIR.image, *["the mug and the hat"] * 6)
