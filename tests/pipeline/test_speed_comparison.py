"""The comparison with the released way notices a wrong answer, and measures on a GPU only where there is one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import ExpressionError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.protocol import Grid
from sam4mllm_tool.types import PointAnswer, PointPrompt
from tests.benchmarks import speed
from tests.benchmarks.equal_answers import COMPARED, compare_family
from tests.benchmarks.families import Family
from tests.benchmarks.reference_loop import ReferenceLoop, find_difference
from tests.embedded_world import draw_scene, name_object


def test_a_moved_box_a_flipped_label_and_a_probability_that_is_off_are_differences() -> None:
    torch.set_num_threads(1)
    models = Sam4Mllm.load("embedded", "embedded", sampler=Grid(2, 1))
    scene = draw_scene(1)
    image, expression = load_image(scene.image), name_object(scene.objects[0])
    reference, result = ReferenceLoop(models).segment(image, expression), models.segment(image, expression)
    assert find_difference(result, reference) is None

    def replace_first(**changes: float) -> tuple[PointAnswer, ...]:
        first, *others = result.point_answers
        x, y, label, confidence = (changes.get(name, getattr(first.point, name)) for name in ("x", "y", "label", "confidence"))
        return (replace(first, point=PointPrompt(x, y, label, confidence)), *others)  # type: ignore[arg-type]

    flipped = replace_first(label=1 - result.point_answers[0].point.label)
    assert "label" in str(find_difference(replace(result, point_answers=flipped), reference))
    unsure = replace_first(confidence=0.5)
    assert "confidence" in str(find_difference(replace(result, point_answers=unsure), reference))
    other_turns = (replace(result.turns[0], text="?"), replace(result.turns[1], text="[ 000 000 010 010 ]"))
    assert "boxes" in str(find_difference(replace(result, turns=other_turns), reference))
    assert "ExpressionError" in str(find_difference(ExpressionError("empty"), reference))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_measuring_on_a_gpu_is_refused_in_one_line_without_one() -> None:
    with pytest.raises(SystemExit, match="torch sees none") as refusal:
        speed.main(["--gpu"])
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("family", COMPARED, ids=lambda family: family.checkpoint)
def test_answers_over_random_weights_are_those_of_the_released_way(family: Family, tmp_path: Path) -> None:
    if family.video:
        pytest.importorskip("torchvision", reason="the processor needs it")
    segmenter = load_segmenter("embedded")
    for dialect in ("plain", "released"):
        assert compare_family(family, dialect, segmenter, tmp_path / dialect) is None
