"""SAM 2, EdgeTAM and SAM 3 on tiny checkpoints in their real formats, against each model's own processor and forward pass."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, Sam3Model, Sam3Processor

from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import concept_proposer, load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import Box, FreeText, ObjectPrompt, PointPrompt, Reply, Size
from tests.models.segmenter.reference import (
    assert_equal_objects,
    make_image,
    masks_of,
    predict_masks,
    prompts_without_box_or_with_mask,
    scores_of,
)
from tests.sam2_checkpoints import SAVED, save_sam3
from tests.video_checkpoints import needs_torchvision

pytestmark = [needs_torchvision, pytest.mark.filterwarnings("ignore:.*timm.*")]

SIZES = [(50, 80), (112, 112), (200, 51)]
PROMPTS = (
    ObjectPrompt(Box(10, 10, 50, 45), (PointPrompt(30, 20, 1, 0.9),)),
    ObjectPrompt(Box(5.5, 5, 48, 40.25), (PointPrompt(10, 20, 1, 0.8), PointPrompt(40, 39, 0, 0.95))),
    ObjectPrompt(Box(0, 0, 20, 20)),
)


@pytest.fixture(scope="session", params=SAVED)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return the folder of a family's checkpoint, and its segmenter."""
    if request.param == "edgetam" and find_spec("timm") is None:
        pytest.skip("EdgeTAM's encoder needs timm")
    folder = SAVED[request.param](tmp_path_factory.mktemp(request.param))
    return folder, load_segmenter(str(folder), by="score")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_and_scores_are_those_of_the_models_own_processor(family: tuple[Path, Any], size: tuple[int, int]) -> None:
    folder, segmenter = family
    image = make_image(*size)
    prompts = [*PROMPTS, *prompts_without_box_or_with_mask(size)]
    for prompt in prompts:
        masks, scores = predict_masks(folder, image, prompt)
        (segmented,) = segmenter.segment(image, [prompt])
        np.testing.assert_allclose(scores_of(segmented), scores, atol=1e-5)
        assert (masks_of(segmented) != masks).mean() < 1e-3
        assert 0 < masks.mean() < 1, "a constant reference would prove nothing"


def test_the_tracker_of_facebook_sam3s_layout_has_the_checkpoints_weights(tmp_path: Path) -> None:
    folder = save_sam3(tmp_path)
    stored = load_file(folder / "model.safetensors")
    places = (
        ("vision_encoder.neck.", "tracker_neck."),
        ("vision_encoder.", "detector_model.vision_encoder."),
        ("", "tracker_model."),
    )
    for name, weight in load_segmenter(str(folder))._model.named_parameters():  # type: ignore[attr-defined]
        ours, theirs = next(pair for pair in places if name.startswith(pair[0]))
        assert torch.equal(weight, stored[theirs + name.removeprefix(ours)])


@pytest.fixture(scope="session")
def sam3(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = save_sam3(tmp_path_factory.mktemp("sam3"))
    return folder, load_segmenter(str(folder))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_proposals_are_the_instances_of_the_concept_head(
    sam3: tuple[Path, Any], size: tuple[int, int], monkeypatch: Any
) -> None:
    folder, segmenter = sam3
    monkeypatch.setattr(concept_proposer, "_MIN_SCORE", 0.0)  # random weights are sure of nothing
    image, config = make_image(*size), AutoConfig.from_pretrained(folder)
    model, processor = Sam3Model.from_pretrained(folder, config=config.detector_config), Sam3Processor.from_pretrained(folder)
    inputs = processor(images=image, text="red ring", return_tensors="pt")
    sizes = inputs.pop("original_sizes").tolist()
    with torch.no_grad():
        (expected,) = processor.post_process_instance_segmentation(model(**inputs), threshold=0.0, target_sizes=sizes)
    proposals = segmenter.propose(image, "red ring")
    assert [proposal.score for proposal in proposals] == pytest.approx(
        expected["scores"].sort(descending=True).values.tolist(), abs=1e-5
    )
    best = expected["scores"].argmax()
    assert proposals[0].box == pytest.approx(Box(*expected["boxes"][best].tolist()).clip(Size(*size)), abs=1e-2)
    assert (proposals[0].mask != expected["masks"][best].bool().numpy()).mean() < 1e-3
    other = segmenter.propose(image, "blue star " * 50)
    assert [proposal.score for proposal in other] != [proposal.score for proposal in proposals], "the words count"


def test_the_concept_head_shares_the_trackers_encoder_and_other_families_have_none(sam3: tuple[Path, Any], family: Any) -> None:
    _, segmenter = sam3
    segmenter.propose(make_image(80, 50), "ring")
    assert segmenter._concepts._model.vision_encoder.backbone is segmenter._model.vision_encoder.backbone
    folder, other = family
    assert (other.propose is None) == (folder.name[:10] != "sam3_video")


def test_several_phrases_share_the_encoding_of_an_image_and_get_what_each_gets_alone(
    sam3: tuple[Path, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(concept_proposer, "_MIN_SCORE", 0.0)
    _, segmenter = sam3
    image, other = make_image(80, 50), make_image(50, 80)
    alone = segmenter.propose(image, "blue star")
    segmenter.propose(other, "blue star")
    head, calls = segmenter._concepts._model, []
    encode = head.get_vision_features
    monkeypatch.setattr(head, "get_vision_features", lambda pixels: calls.append(pixels) or encode(pixels))
    segmenter.propose(image, "red ring")
    again = segmenter.propose(image, "blue star")
    assert len(calls) == 1
    assert [(each.box, each.score) for each in again] == [(each.box, each.score) for each in alone]


def test_a_run_asks_sam_3_for_proposals(sam3: tuple[Path, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(concept_proposer, "_MIN_SCORE", 0.0)
    mllm = ScriptedMLLM(lambda question: "none" if isinstance(question.answer, FreeText) else Reply("No", ((0.1, 0.9),)))
    models = Sam4Mllm(mllm, sam3[1])
    result = models.segment(make_image(80, 50), "all red rings", method="adaptive")
    assert result.objects == ()
    assert 1 < result.usage.questions <= 1 + 5, "each of the five queries that is an object of its own is asked about"


def test_many_prompts_give_what_each_gives_alone(family: tuple[Path, Any]) -> None:
    _, segmenter = family
    image, prompts = make_image(80, 50), [*PROMPTS, *prompts_without_box_or_with_mask((80, 50))]
    together = segmenter.segment(image, prompts)
    assert_equal_objects(together, [segmenter.segment(image, [prompt])[0] for prompt in prompts])
    assert all((together[0].mask != other.mask).any() for other in together[1:]), "masks depend on the prompts"
