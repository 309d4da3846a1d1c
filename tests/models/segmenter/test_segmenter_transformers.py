"""Segmenters of transformers, on tiny checkpoints, against each model's own processor and forward pass."""

import asyncio
import json
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import AutoModelForMaskGeneration, AutoProcessor

from sam4mllm_tool.errors import BackendError, MissingExtraError, SpecError
from sam4mllm_tool.models.segmenter import load_segmenter, transformers
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmenter
from tests.own_code import OWN_CODE, add_own_code
from tests.sam_checkpoints import save_sam, save_sam_hq

SHAPES = {"sam": (save_sam, 64, 16), "sam_hq": (save_sam_hq, 96, 8)}
PROMPTS = (
    ObjectPrompt(Box(10, 10, 50, 45), (PointPrompt(30, 20, 1, 0.9),)),
    ObjectPrompt(Box(5.5, 5, 48, 40.25), (PointPrompt(10, 20, 1, 0.8), PointPrompt(40, 39, 0, 0.95))),
    ObjectPrompt(Box(0, 0, 20, 20)),
    ObjectPrompt(Box(30, 0, 75, 48), (PointPrompt(31, 20.5, 0, 0.9), PointPrompt(70, 9, 1, 0.7))),
)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="session", params=SHAPES)
def folder(request, tmp_path_factory):
    save, side, patch = SHAPES[request.param]
    return save(tmp_path_factory.mktemp(request.param), side=side, patch=patch)


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def segmenter(folder):
    return TransformersSegmenter.load(str(folder), by="score")


def reference(folder, image, prompt):
    """Masks (3, H, W) and scores (3,), best first, as transformers alone makes them of one prompt."""
    model, processor = AutoModelForMaskGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    points = {}
    if prompt.points:
        points["input_points"] = [[[[point.x, point.y] for point in prompt.points]]]
        points["input_labels"] = [[[point.label for point in prompt.points]]]
    inputs = processor(images=image, input_boxes=[[list(prompt.box)]], return_tensors="pt", **points)
    sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
    with torch.no_grad():
        output = model(**inputs)
    masks = processor.post_process_masks(output.pred_masks, *sizes)[0][0].numpy()
    scores = output.iou_scores[0, 0].numpy()
    order = np.argsort(-scores, kind="stable")
    return masks[order], scores[order]


def masks_of(found):
    return np.stack([found.mask, *(candidate.mask for candidate in found.alternatives)])


def scores_of(found):
    return np.array([found.score, *(candidate.score for candidate in found.alternatives)])


def assert_equal_objects(found, expected):
    """Up to pixels whose logit is zero but for rounding, which depends on how many prompts a run has."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.prompt == other.prompt
        np.testing.assert_allclose(scores_of(one), scores_of(other), atol=1e-5)
        assert (masks_of(one) != masks_of(other)).mean() < 1e-3


@pytest.mark.parametrize("size", [(80, 50), (50, 80), (64, 64), (200, 51)], ids=str)
@pytest.mark.parametrize("prompt", PROMPTS[:3], ids=["one point", "two points", "no points"])
def test_masks_and_scores_are_those_of_the_models_own_processor(folder, segmenter, size, prompt):
    image = picture(*size)
    masks, scores = reference(folder, image, prompt)
    (found,) = segmenter.segment(image, [prompt])
    assert found.mask.shape == (size[1], size[0])
    assert found.mask.dtype == np.bool_
    np.testing.assert_allclose(scores_of(found), scores, atol=1e-5)
    assert (masks_of(found) != masks).mean() < 1e-3
    assert 0 < masks.mean() < 1, "the reference says something"


def test_many_prompts_give_what_they_give_one_by_one(segmenter):
    image = picture(80, 50)
    together = segmenter.segment(image, PROMPTS)
    alone = [segmenter.segment(image, [prompt])[0] for prompt in PROMPTS]
    assert_equal_objects(together, alone)
    assert (together[0].mask != together[1].mask).any(), "the model hears the prompts"


@pytest.mark.parametrize("size", [(256, 256), (300, 180), (97, 411)], ids=["square", "wide", "tall"])
def test_comparing_ranks_prompts_as_their_masks_do(size):
    """On the embedded segmenter: IoU with a truth, off by a cell along the edges at most."""
    segmenter = load_segmenter("embedded")
    width, height = size
    picture = Image.new("RGB", size, "#c03030")
    shape = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    ImageDraw.Draw(picture).ellipse(shape, fill="#3050c0")
    truth = np.asarray(picture)[..., 2] == 0xC0
    whole, part = Box(*shape), Box(shape[0], shape[1], width // 2, height // 2)
    on = PointPrompt(width / 2, height / 2, 1)
    prompts = [ObjectPrompt(whole, (on,)), ObjectPrompt(part), ObjectPrompt(whole), ObjectPrompt(part, (on, on))]
    masks = [found.mask for found in segmenter.segment(picture, prompts)]
    expected = [(mask & truth).sum() / (mask | truth).sum() for mask in masks]
    assert max(expected) - min(expected) > 0.1, "the prompts make a difference"
    assert segmenter.compare(picture, prompts, truth) == pytest.approx(expected, abs=0.03)


def test_a_truth_of_another_size_is_refused(segmenter):
    with pytest.raises(ValueError, match="expected a truth of"):
        segmenter.compare(Image.new("RGB", (30, 20)), [], np.zeros((30, 20), bool))


def test_more_prompts_than_a_decoder_run_and_an_upsampling_take_keep_their_places(segmenter):
    image = picture(700, 600)
    prompts = [ObjectPrompt(Box(8 * i, 7 * i, 8 * i + 100, 7 * i + 90)) for i in range(70)]
    together = segmenter.segment(image, prompts)
    for index in (0, 52, 53, 63, 64, 69):
        assert_equal_objects(together[index : index + 1], segmenter.segment(image, prompts[index : index + 1]))


def test_masks_not_chosen_are_left_out_where_they_would_fill_the_memory(segmenter, monkeypatch):
    image = picture(80, 50)
    whole = segmenter.segment(image, PROMPTS)
    monkeypatch.setattr(transformers, "_ALTERNATIVES_BYTES", 3 * len(PROMPTS) * 80 * 50)
    assert [len(found.alternatives) for found in segmenter.segment(image, PROMPTS)] == [2] * len(PROMPTS)
    monkeypatch.setattr(transformers, "_ALTERNATIVES_BYTES", 3 * len(PROMPTS) * 80 * 50 - 1)
    for one, other in zip(whole, segmenter.segment(image, PROMPTS), strict=True):
        assert other.alternatives == ()
        assert (one.score, one.confidence) == (other.score, other.confidence)
        assert np.array_equal(one.mask, other.mask)


def test_memory_grows_by_a_mask_a_prompt_where_the_others_are_left_out(sam_folder, monkeypatch):
    segmenter, image = load_segmenter(str(sam_folder)), picture(1000, 800)
    prompts = [ObjectPrompt(Box(10 * i, 10 * i, 10 * i + 300, 10 * i + 300)) for i in range(40)]
    monkeypatch.setattr(transformers, "_ALTERNATIVES_BYTES", 0)
    tracemalloc.start()
    kept = segmenter.segment(image, prompts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept) * 1000 * 800 < peak < len(kept) * 1000 * 800 * 1.8, "three masks each would be three times as much"


def test_padding_points_would_change_masks(folder):
    """Why prompts of unlike length are not padded to one run: label -10 is not ignored by the decoder."""
    model, processor = AutoModelForMaskGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    asked = {"input_boxes": [[[10.0, 10.0, 50.0, 45.0]]], "return_tensors": "pt"}
    plain = processor(picture(80, 50), input_points=[[[[30, 20]]]], input_labels=[[[1]]], **asked)
    padded = processor(picture(80, 50), input_points=[[[[30, 20], [0, 0]]]], input_labels=[[[1, -10]]], **asked)
    with torch.no_grad():
        scores = [model(**{k: v for k, v in x.items() if "sizes" not in k}).iou_scores for x in (plain, padded)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


def test_a_picture_is_encoded_once_until_two_others_followed(segmenter):
    runs = []
    segmenter._model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))

    def encoded(image):
        before = len(runs)
        segmenter.segment(image, PROMPTS[:1])
        return len(runs) - before

    first, second, third, fourth = (picture(80, 50, seed) for seed in range(4))
    assert [encoded(image) for image in (first, second, first.copy(), second)] == [1, 1, 0, 0]
    assert [encoded(image) for image in (third, fourth, third, fourth)] == [1, 1, 0, 0]
    assert [encoded(image) for image in (first, second)] == [1, 1], "two others came twice since"


def test_parts_that_come_once_leave_the_picture_they_are_of_where_it_is(segmenter):
    runs = []
    segmenter._model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    whole = picture(80, 50)
    for image in (whole, whole, *(picture(80, 50, seed) for seed in range(1, 7)), whole):
        segmenter.segment(image, PROMPTS[:1])
    assert len(runs) == 1 + 6


def test_a_picture_drawn_upon_is_encoded_again(segmenter):
    image = picture(80, 50)
    before = segmenter.segment(image, PROMPTS[:1])
    ImageDraw.Draw(image).rectangle((0, 0, 60, 40), fill="red")
    after = segmenter.segment(image, PROMPTS[:1])
    assert scores_of(before[0]).tolist() != scores_of(after[0]).tolist()


def test_pictures_of_the_same_bytes_and_another_shape_are_told_apart(segmenter):
    prompt = ObjectPrompt(Box(0, 0, 30, 30))
    wide = Image.new("RGB", (80, 50))
    assert segmenter.segment(wide, [prompt])[0].mask.shape == (50, 80)
    assert segmenter.segment(wide.resize((50, 80)), [prompt])[0].mask.shape == (80, 50)


def test_without_prompts_nothing_is_encoded(segmenter):
    runs = []
    segmenter._model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    assert segmenter.segment(picture(80, 50), []) == []
    assert runs == []


async def test_async_calls_side_by_side_give_what_sync_calls_give(segmenter):
    images = [picture(80, 50, seed) for seed in range(3)]
    found = await asyncio.gather(*(segmenter.asegment(image, PROMPTS) for image in images))
    for image, objects in zip(images, found, strict=True):
        assert_equal_objects(objects, segmenter.segment(image, PROMPTS))


def test_grey_and_transparent_pictures_are_taken_as_rgb(segmenter):
    grey = picture(80, 50).convert("L")
    expected = segmenter.segment(grey.convert("RGB"), PROMPTS)
    assert_equal_objects(segmenter.segment(grey, PROMPTS), expected)
    assert_equal_objects(segmenter.segment(grey.convert("RGBA"), PROMPTS), expected)


def test_boxes_over_the_edge_are_cut_and_returned_so(segmenter):
    image = picture(80, 50)
    (over,) = segmenter.segment(image, [ObjectPrompt(Box(-20, 10, 500, 40))])
    assert over.prompt.box == Box(0, 10, 80, 40)
    assert_equal_objects([over], segmenter.segment(image, [ObjectPrompt(Box(0, 10, 80, 40))]))


def test_bad_prompts_are_refused_before_the_model_runs(segmenter):
    with pytest.raises(ValueError, match="x1 < x2"):
        segmenter.segment(picture(80, 50), [ObjectPrompt(Box(50, 10, 10, 40))])


def test_the_choice_follows_certain_points_unless_it_is_by_score(sam_folder):
    image = picture(80, 50)
    corners = Box(0, 0, 80, 50)
    asked = [
        ObjectPrompt(corners, (PointPrompt(x, y, label, 0.99),))
        for x in range(8, 80, 16) for y in range(5, 50, 10) for label in (0, 1)
    ]  # fmt: skip
    by_score, by_both = (load_segmenter(str(sam_folder), by=by).segment(image, asked) for by in ("score", "both"))
    for prompt, scored, chosen in zip(asked, by_score, by_both, strict=True):
        (point,) = prompt.points
        answers = masks_of(scored)[:, point.y, point.x]
        assert scores_of(scored).tolist() == sorted(scores_of(scored), reverse=True)
        assert chosen.mask[point.y, point.x] == point.label or point.label not in answers
        assert chosen.confidence == pytest.approx(0.99 if point.label in answers else 0.01)
    assert any((scored.mask != chosen.mask).any() for scored, chosen in zip(by_score, by_both, strict=True))


def test_scores_stay_in_the_unit_interval_and_masks_may_be_empty(sam_folder):
    model, processor = AutoModelForMaskGeneration.from_pretrained(sam_folder), AutoProcessor.from_pretrained(sam_folder)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.bias.copy_(torch.tensor([0, 5.0, -5, 0.5]))
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.zero_()
            mlp.proj_out.bias.zero_()
    (found,) = TransformersSegmenter(model, processor, name="own").segment(picture(80, 50), PROMPTS[:1])
    assert (found.score, found.alternatives[-1].score) == (1.0, 0.0)
    assert not found.mask.any()


def test_half_precision_is_for_the_encoder_alone(sam_folder):
    image = picture(80, 50)
    exact = load_segmenter(str(sam_folder)).segment(image, PROMPTS)
    rough = load_segmenter(str(sam_folder), dtype="bfloat16").segment(image, PROMPTS)
    for one, other in zip(exact, rough, strict=True):
        np.testing.assert_allclose(np.sort(scores_of(one)), np.sort(scores_of(other)), atol=0.05)
    assert any((scores_of(one) != scores_of(other)).any() for one, other in zip(exact, rough, strict=True))


def test_a_model_that_fails_is_a_backend_error_that_says_on_what(segmenter):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    segmenter._model.mask_decoder.register_forward_pre_hook(out_of_memory)
    with pytest.raises(BackendError, match=r"80 x 50 pixels with 4 prompts: OutOfMemoryError: CUDA out of memory\.$"):
        segmenter.segment(picture(80, 50), PROMPTS)


def test_broken_weights_are_a_backend_error(sam_folder):
    model, processor = AutoModelForMaskGeneration.from_pretrained(sam_folder), AutoProcessor.from_pretrained(sam_folder)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.fill_(torch.nan)
    with pytest.raises(BackendError, match="not numbers"):
        TransformersSegmenter(model, processor, name="own").segment(picture(80, 50), PROMPTS)


def test_a_loaded_segmenter_has_its_specs_name_and_meets_the_protocol(sam_folder):
    segmenter: Segmenter = load_segmenter(str(sam_folder), device="cpu", dtype="float32")
    assert segmenter.name == str(sam_folder)


def test_loading_says_nothing(sam_folder, capfd):
    load_segmenter(str(sam_folder))
    assert capfd.readouterr() == ("", "")


class TestBadSpecs:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            pytest.param("", "empty", id="empty"),
            pytest.param("./no/such/folder", r"no folder './no/such/folder'", id="no such folder"),
            pytest.param("not a hub id", "nor can it be a hub id", id="spaces"),
            pytest.param("x" * 5000, "can't be a folder", id="longer than a path may be"),
            pytest.param("segment-anything:vit_h@sam.pth", "not available yet", id="a backend to come"),
            pytest.param("nobody/has-this-model", "check the spelling", id="a hub id, offline"),
        ],
    )
    def test_what_names_nothing(self, spec, message):
        with pytest.raises(SpecError, match=message) as caught:
            load_segmenter(spec)
        assert "\n" not in str(caught.value)

    def test_a_file(self, sam_folder):
        with pytest.raises(SpecError, match="is a file"):
            load_segmenter(str(sam_folder / "config.json"))

    def test_a_folder_without_config(self, tmp_path):
        with pytest.raises(SpecError, match=r"has no config\.json"):
            load_segmenter(str(tmp_path))

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            pytest.param('{"model_type": "llama"}', "of type 'llama': expected a segmenter, one of .*sam_hq", id="llama"),
            pytest.param('{"model_type": "sam9"}', "can't be loaded", id="unknown to transformers"),
            pytest.param("{}", "can't be loaded", id="no type"),
            pytest.param("{", "can't be loaded", id="not JSON"),
            pytest.param('{"model_type": "sam"}', "can't be loaded", id="no processor, no weights"),
        ],
    )
    def test_a_config_that_is_no_segmenters(self, tmp_path, config, message):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(SpecError, match=message) as caught:
            load_segmenter(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_weights_that_are_missing_or_broken(self, tmp_path):
        folder = save_sam(tmp_path)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(SpecError, match="can't be loaded"):
            load_segmenter(str(folder))
        weights.unlink()
        with pytest.raises(SpecError, match="can't be loaded"):
            load_segmenter(str(folder))

    def test_pickled_weights_are_not_opened(self, tmp_path):
        folder = save_sam(tmp_path)
        weights = folder / "model.safetensors"
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        with pytest.raises(SpecError, match="can't be loaded"):
            load_segmenter(str(folder))

    def test_weights_of_another_model(self, tmp_path):
        folder = save_sam(tmp_path)
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["num_hidden_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SpecError, match=r"lacks \d+ of the model's weights .*vision_encoder"):
            load_segmenter(str(folder))

    @pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
    def test_a_family_whose_processor_needs_torchvision(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
        (tmp_path / "processor_config.json").write_text(
            '{"processor_class": "Sam2Processor", "image_processor": {"image_processor_type": "Sam2ImageProcessor"}}'
        )
        with pytest.raises(MissingExtraError, match=r'torchvision.*: pip install "sam4mllm-tool\[sam\]"'):
            load_segmenter(str(tmp_path))

    def test_a_device_and_a_precision_that_do_not_exist(self, sam_folder):
        with pytest.raises(SpecError, match="device 'banana'"):
            load_segmenter(str(sam_folder), device="banana")
        with pytest.raises(SpecError, match="expected one of float32, bfloat16, float16"):
            load_segmenter(str(sam_folder), dtype="int4")


@pytest.mark.parametrize("part", OWN_CODE)
def test_a_checkpoints_own_code_is_never_run(sam_folder, tmp_path, monkeypatch, part):
    marker = add_own_code(sam_folder, tmp_path / "own", part)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(SpecError, match="needs its own code, which is never run: choose") as caught:
        load_segmenter(str(tmp_path / "own"))
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_face_of_the_package_opens_no_model_library():
    code = "import sys, sam4mllm_tool.models.segmenter; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
