"""Segmenters of transformers on tiny checkpoints, against each model's own processor and forward pass."""

import asyncio
import json
import tracemalloc
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import AutoModelForMaskGeneration, AutoProcessor

from sam4mllm_tool.errors import BackendError, MissingExtraError, SpecError
from sam4mllm_tool.models.segmenter import load_segmenter, promptable_segmenter
from sam4mllm_tool.models.segmenter.mask_choice import agreement
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.types import Box, ObjectPrompt, PointPrompt, Segmenter
from tests.custom_code import CUSTOM_PARTS, copy_with_custom_code
from tests.models.segmenter.reference import (
    assert_equal_objects,
    make_image,
    masks_of,
    predict_masks,
    prompts_without_box_or_with_mask,
    scores_of,
)
from tests.sam_checkpoints import save_sam, save_sam_hq

SHAPES = {"sam": (save_sam, 64, 16), "sam_hq": (save_sam_hq, 96, 8)}
PROMPTS = (
    ObjectPrompt(Box(10, 10, 50, 45), (PointPrompt(30, 20, 1, 0.9),)),
    ObjectPrompt(Box(5.5, 5, 48, 40.25), (PointPrompt(10, 20, 1, 0.8), PointPrompt(40, 39, 0, 0.95))),
    ObjectPrompt(Box(0, 0, 20, 20)),
    ObjectPrompt(Box(30, 0, 75, 48), (PointPrompt(31, 20.5, 0, 0.9), PointPrompt(70, 9, 1, 0.7))),
)


@pytest.fixture(scope="session", params=SHAPES)
def folder(request, tmp_path_factory):
    save, side, patch = SHAPES[request.param]
    return save(tmp_path_factory.mktemp(request.param), side=side, patch=patch)


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="session")
def loaded(folder):
    return load_segmenter(str(folder), by="score")


@pytest.fixture
def segmenter(loaded):
    """Return the segmenter of a family, loaded once, with empty caches."""
    loaded._used_once.clear()
    loaded._used_again.clear()
    return loaded


@pytest.fixture
def encoder_runs(segmenter):
    """A list that grows by one entry each time the segmenter encodes an image."""
    runs = []
    hook = segmenter._model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    yield runs
    hook.remove()


@pytest.mark.parametrize("size", [(50, 80), (64, 64), (200, 51)], ids=str)
@pytest.mark.parametrize("prompt", PROMPTS[:3], ids=["one point", "two points", "no points"])
def test_masks_and_scores_are_those_of_the_models_own_processor(folder, segmenter, size, prompt):
    image = make_image(*size)
    masks, scores = predict_masks(folder, image, prompt)
    (segmented,) = segmenter.segment(image, [prompt])
    assert segmented.mask.shape == (size[1], size[0])
    assert segmented.mask.dtype == np.bool_
    np.testing.assert_allclose(scores_of(segmented), scores, atol=1e-5)
    assert (masks_of(segmented) != masks).mean() < 1e-3
    assert 0 < masks.mean() < 1, "a constant reference would prove nothing"


@pytest.mark.parametrize("size", [(50, 80), (200, 51)], ids=str)
@pytest.mark.parametrize("kind", range(3), ids=["points alone", "mask input", "points and mask input"])
def test_prompts_without_box_or_with_a_mask_give_the_models_own_masks(folder, segmenter, size, kind):
    image, prompts = make_image(*size), prompts_without_box_or_with_mask(size)
    masks, scores = predict_masks(folder, image, prompts[kind])
    (segmented,) = segmenter.segment(image, [prompts[kind]])
    np.testing.assert_allclose(scores_of(segmented), scores, atol=1e-5)
    assert (masks_of(segmented) != masks).mean() < 1e-3
    with_box = ObjectPrompt(Box(10, 10, 45, 45), prompts[kind].points)
    assert (masks_of(segmenter.segment(image, [with_box])[0]) != masks).mean() > 1e-3, "it would prove nothing"


def test_many_prompts_give_what_each_gives_alone(segmenter):
    image, prompts = make_image(80, 50), (*PROMPTS, *prompts_without_box_or_with_mask((80, 50)))
    together = segmenter.segment(image, prompts)
    alone = [segmenter.segment(image, [prompt])[0] for prompt in prompts]
    assert_equal_objects(together, alone)
    assert (together[0].mask != together[1].mask).any(), "masks depend on the prompts"


@pytest.mark.parametrize("size", [(256, 256), (300, 180), (97, 411)], ids=["square", "wide", "tall"])
def test_compared_ious_equal_those_of_the_masks(size):
    """On the embedded segmenter, up to a cell along the edges."""
    segmenter = load_segmenter("embedded")
    width, height = size
    image = Image.new("RGB", size, "#c03030")
    shape = (width // 4, height // 4, 3 * width // 4, 3 * height // 4)
    ImageDraw.Draw(image).ellipse(shape, fill="#3050c0")
    truth = np.asarray(image)[..., 2] == 0xC0
    whole, part = Box(*shape), Box(shape[0], shape[1], width // 2, height // 2)
    center = PointPrompt(width / 2, height / 2, 1)
    prompts = [ObjectPrompt(whole, (center,)), ObjectPrompt(part), ObjectPrompt(whole), ObjectPrompt(part, (center, center))]
    masks = [segmented.mask for segmented in segmenter.segment(image, prompts)]
    expected = [(mask & truth).sum() / (mask | truth).sum() for mask in masks]
    assert max(expected) - min(expected) > 0.1, "equal masks would prove nothing"
    assert segmenter.compare(image, prompts, truth) == pytest.approx(expected, abs=0.03)


def test_a_truth_of_another_size_is_refused(segmenter):
    with pytest.raises(ValueError, match="expected a truth of"):
        segmenter.compare(Image.new("RGB", (30, 20)), [], np.zeros((30, 20), bool))


def test_prompts_of_several_decoder_runs_and_upsampling_batches_keep_their_order(segmenter, monkeypatch):
    """With decoder runs of 6 prompts, and batches of the masks of a few prompts."""
    image = make_image(80, 50)
    monkeypatch.setattr(promptable_segmenter, "_PROMPTS_PER_RUN", 6)
    monkeypatch.setattr(promptable_segmenter, "_UPSAMPLING_BYTES", 12 * 96 * 96 * 4)
    prompts = [ObjectPrompt(Box(4 * i, 3 * i, 4 * i + 30, 3 * i + 20)) for i in range(10)]
    together = segmenter.segment(image, prompts)
    for index in (0, 3, 4, 5, 6, 9):
        assert_equal_objects(together[index : index + 1], segmenter.segment(image, prompts[index : index + 1]))


def test_alternatives_are_left_out_if_they_would_take_too_much_memory(segmenter, monkeypatch):
    image = make_image(80, 50)
    whole = segmenter.segment(image, PROMPTS)
    monkeypatch.setattr(promptable_segmenter, "_ALTERNATIVES_BYTES", 3 * len(PROMPTS) * 80 * 50)
    assert [len(segmented.alternatives) for segmented in segmenter.segment(image, PROMPTS)] == [2] * len(PROMPTS)
    monkeypatch.setattr(promptable_segmenter, "_ALTERNATIVES_BYTES", 3 * len(PROMPTS) * 80 * 50 - 1)
    for full, reduced in zip(whole, segmenter.segment(image, PROMPTS), strict=True):
        assert reduced.alternatives == ()
        assert full.score == pytest.approx(reduced.score, abs=1e-5)
        assert np.array_equal(full.mask, reduced.mask)


def test_memory_grows_by_one_mask_per_prompt_without_alternatives(sam_folder, monkeypatch):
    segmenter, image = load_segmenter(str(sam_folder)), make_image(500, 400)
    prompts = [ObjectPrompt(Box(5 * i, 5 * i, 5 * i + 150, 5 * i + 150)) for i in range(40)]
    monkeypatch.setattr(promptable_segmenter, "_ALTERNATIVES_BYTES", 0)
    tracemalloc.start()
    objects = segmenter.segment(image, prompts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(objects) * 500 * 400 < peak < len(objects) * 500 * 400 * 1.8, "three masks each would take three times as much"


def test_padding_points_would_change_masks(folder):
    """The reason why prompts are not padded to equal length: the decoder doesn't ignore label -10."""
    model, processor = AutoModelForMaskGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    shared = {"input_boxes": [[[10.0, 10.0, 50.0, 45.0]]], "return_tensors": "pt"}
    plain = processor(make_image(80, 50), input_points=[[[[30, 20]]]], input_labels=[[[1]]], **shared)
    padded = processor(make_image(80, 50), input_points=[[[[30, 20], [0, 0]]]], input_labels=[[[1, -10]]], **shared)
    with torch.no_grad():
        scores = [model(**{k: v for k, v in x.items() if "sizes" not in k}).iou_scores for x in (plain, padded)]
    assert (scores[0] - scores[1]).abs().max() > 1e-3


@pytest.mark.parametrize("limit", [{"_CACHED_IMAGES": 2}, {"_CACHED_BYTES": 0}])
def test_an_image_is_cached_until_as_many_others_are_used_again(segmenter, encoder_runs, monkeypatch, limit):
    for name, value in limit.items():
        monkeypatch.setattr(promptable_segmenter, name, value)

    def encoded(image):
        before = len(encoder_runs)
        segmenter.segment(image, PROMPTS[:1])
        return len(encoder_runs) - before

    first, second, third, fourth = (make_image(80, 50, seed) for seed in range(4))
    assert [encoded(image) for image in (first, second, first.copy(), second)] == [1, 1, 0, 0]
    assert [encoded(image) for image in (third, fourth, third, fourth)] == [1, 1, 0, 0]
    assert [encoded(image) for image in (first, second)] == [1, 1], "two others were used twice since"


def test_crops_used_once_do_not_evict_their_image(segmenter, encoder_runs, monkeypatch):
    whole = make_image(80, 50)
    monkeypatch.setattr(promptable_segmenter, "_CACHED_IMAGES", 2)
    for image in (whole, whole, *(make_image(80, 50, seed) for seed in range(1, 7)), whole):
        segmenter.segment(image, PROMPTS[:1])
    assert len(encoder_runs) == 1 + 6


@pytest.fixture
def early(segmenter, monkeypatch):
    """Return the segmenter with early encoding, which on a CPU it has not."""
    segmenter._encoded_early.clear()
    monkeypatch.setattr(segmenter, "_encodes_early", True)
    return segmenter


def test_a_prepared_image_is_encoded_once_and_gives_the_same_masks(early, encoder_runs):
    image = make_image(80, 50)
    early.prepare(image)
    early._early_encoding.result()
    assert len(encoder_runs) == 1
    objects = early.segment(image, PROMPTS)
    assert len(encoder_runs) == 1
    early._used_once.clear()
    assert_equal_objects(objects, early.segment(image, PROMPTS))
    early.prepare(image)
    early._early_encoding.result()
    assert len(encoder_runs) == 2, "what is cached is not encoded early"


def test_an_image_may_be_drawn_on_while_it_is_prepared(early, encoder_runs):
    image = make_image(80, 50)
    with early._lock:
        early.prepare(image)
        ImageDraw.Draw(image).rectangle((0, 0, 60, 40), fill="red")
    early._early_encoding.result()
    early.segment(make_image(80, 50), PROMPTS[:1])
    assert len(encoder_runs) == 1


def test_images_are_prepared_one_at_a_time(early, encoder_runs):
    with early._lock:
        for seed in range(4):
            early.prepare(make_image(80, 50, seed))
    early._early_encoding.result()
    assert len(encoder_runs) == 1


def test_an_image_that_cannot_be_prepared_fails_when_it_is_segmented(early):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = early._model.vision_encoder.register_forward_pre_hook(out_of_memory)
    early.prepare(make_image(80, 50))
    assert early._early_encoding.exception() is None
    with pytest.raises(BackendError, match="80 x 50 pixels with 1 prompts: OutOfMemoryError"):
        early.segment(make_image(80, 50), PROMPTS[:1])
    hook.remove()


def test_on_a_cpu_nothing_is_prepared(segmenter, encoder_runs):
    before = segmenter._early_encoding
    segmenter.prepare(make_image(80, 50))
    assert segmenter._early_encoding is before
    assert encoder_runs == []


def test_an_image_that_was_drawn_on_is_encoded_again(segmenter):
    image = make_image(80, 50)
    before = segmenter.segment(image, PROMPTS[:1])
    ImageDraw.Draw(image).rectangle((0, 0, 60, 40), fill="red")
    after = segmenter.segment(image, PROMPTS[:1])
    assert scores_of(before[0]).tolist() != scores_of(after[0]).tolist()


def test_images_of_equal_bytes_and_different_shapes_are_distinguished(segmenter):
    prompt = ObjectPrompt(Box(0, 0, 30, 30))
    wide = Image.new("RGB", (80, 50))
    assert segmenter.segment(wide, [prompt])[0].mask.shape == (50, 80)
    assert segmenter.segment(wide.resize((50, 80)), [prompt])[0].mask.shape == (80, 50)


def test_without_prompts_nothing_is_encoded(segmenter, encoder_runs):
    assert segmenter.segment(make_image(80, 50), []) == []
    assert encoder_runs == []


async def test_concurrent_async_calls_equal_sync_calls(segmenter):
    images = [make_image(80, 50, seed) for seed in range(3)]
    results = await asyncio.gather(*(segmenter.asegment(image, PROMPTS) for image in images))
    for image, objects in zip(images, results, strict=True):
        assert_equal_objects(objects, segmenter.segment(image, PROMPTS))


def test_grey_and_transparent_images_are_converted_to_rgb(segmenter):
    grey = make_image(80, 50).convert("L")
    expected = segmenter.segment(grey.convert("RGB"), PROMPTS)
    assert_equal_objects(segmenter.segment(grey, PROMPTS), expected)
    assert_equal_objects(segmenter.segment(grey.convert("RGBA"), PROMPTS), expected)


def test_boxes_over_the_edge_are_clipped_and_returned_so(segmenter):
    image = make_image(80, 50)
    (clipped,) = segmenter.segment(image, [ObjectPrompt(Box(-20, 10, 500, 40))])
    assert clipped.prompt.box == Box(0, 10, 80, 40)
    assert_equal_objects([clipped], segmenter.segment(image, [ObjectPrompt(Box(0, 10, 80, 40))]))


def test_invalid_prompts_are_refused(segmenter):
    with pytest.raises(ValueError, match="x1 < x2"):
        segmenter.segment(make_image(80, 50), [ObjectPrompt(Box(50, 10, 10, 40))])


def test_the_choice_follows_certain_points_except_by_score(sam_folder):
    image = make_image(80, 50)
    whole = Box(0, 0, 80, 50)
    prompts = [
        ObjectPrompt(whole, (PointPrompt(x, y, label, 0.99),))
        for x in range(8, 80, 16) for y in range(5, 50, 10) for label in (0, 1)
    ]  # fmt: skip
    by_score, by_both = (load_segmenter(str(sam_folder), by=by).segment(image, prompts) for by in ("score", "both"))
    for prompt, scored, chosen in zip(prompts, by_score, by_both, strict=True):
        (point,) = prompt.points
        labels = masks_of(scored)[:, point.y, point.x]
        assert scores_of(scored).tolist() == sorted(scores_of(scored), reverse=True)
        assert chosen.mask[point.y, point.x] == point.label or point.label not in labels
        assert agreement(chosen.mask, prompt.points) == pytest.approx(0.99 if point.label in labels else 0.01)
    assert any((scored.mask != chosen.mask).any() for scored, chosen in zip(by_score, by_both, strict=True))


def test_scores_stay_in_the_unit_interval_and_masks_may_be_empty(sam_folder):
    model, processor = AutoModelForMaskGeneration.from_pretrained(sam_folder), AutoProcessor.from_pretrained(sam_folder)
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.bias.copy_(torch.tensor([0, 5.0, -5, 0.5]))
        for mlp in model.mask_decoder.output_hypernetworks_mlps:
            mlp.proj_out.weight.zero_()
            mlp.proj_out.bias.zero_()
    (segmented,) = TransformersSegmenter(model, processor, name="own").segment(make_image(80, 50), PROMPTS[:1])
    assert (segmented.score, segmented.alternatives[-1].score) == (1.0, 0.0)
    assert not segmented.mask.any()


def test_half_precision_changes_scores_little(sam_folder):
    image = make_image(80, 50)
    exact = load_segmenter(str(sam_folder)).segment(image, PROMPTS)
    rough = load_segmenter(str(sam_folder), dtype="bfloat16").segment(image, PROMPTS)
    for full, half in zip(exact, rough, strict=True):
        np.testing.assert_allclose(np.sort(scores_of(full)), np.sort(scores_of(half)), atol=0.05)
    assert any((scores_of(full) != scores_of(half)).any() for full, half in zip(exact, rough, strict=True))


def test_a_failing_model_is_a_backend_error_that_names_the_input(segmenter):
    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    hook = segmenter._model.mask_decoder.register_forward_pre_hook(out_of_memory)
    with pytest.raises(BackendError, match=r"80 x 50 pixels with 4 prompts: OutOfMemoryError: CUDA out of memory\.$"):
        segmenter.segment(make_image(80, 50), PROMPTS)
    hook.remove()


def test_broken_weights_are_a_backend_error(sam_folder):
    model, processor = AutoModelForMaskGeneration.from_pretrained(sam_folder), AutoProcessor.from_pretrained(sam_folder)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.fill_(torch.nan)
    with pytest.raises(BackendError, match="not numbers"):
        TransformersSegmenter(model, processor, name="own").segment(make_image(80, 50), PROMPTS)


def test_a_loaded_segmenter_is_named_after_its_spec(sam_folder):
    segmenter: Segmenter = load_segmenter(str(sam_folder), device="cpu", dtype="float32")
    assert segmenter.name == str(sam_folder)


def test_loading_prints_nothing(sam_folder, capfd):
    load_segmenter(str(sam_folder))
    assert capfd.readouterr() == ("", "")


class TestBadSpecs:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            pytest.param("", "empty", id="empty"),
            pytest.param("./no/such/folder", r"no folder './no/such/folder'", id="no such folder"),
            pytest.param("not a hub id", "it can't be a hub id", id="spaces"),
            pytest.param("x" * 5000, "can't be a folder", id="longer than a path can be"),
            pytest.param("segment-anything:vit_h@sam.pth", r"no file 'sam\.pth'", id="no such file of weights"),
            pytest.param("nobody/has-this-model", "check the spelling", id="a hub id, offline"),
        ],
    )
    def test_a_spec_that_names_nothing_is_refused(self, spec, message):
        with pytest.raises(SpecError, match=message) as caught:
            load_segmenter(spec)
        assert "\n" not in str(caught.value)

    def test_a_file_is_refused(self, sam_folder):
        with pytest.raises(SpecError, match="is a file"):
            load_segmenter(str(sam_folder / "config.json"))

    @pytest.mark.parametrize(
        ("name", "architecture"), [("sam_vit_b_01ec64.pth", "vit_b"), ("mobile_sam.pt", "vit_t"), ("weights.bin", "vit_h")]
    )
    def test_a_released_file_given_alone_says_which_spec_to_use(self, tmp_path, name, architecture):
        (tmp_path / name).touch()
        with pytest.raises(SpecError, match=f"segment-anything:{architecture}@{tmp_path / name}"):
            load_segmenter(str(tmp_path / name))

    def test_a_folder_without_config_is_refused(self, tmp_path):
        with pytest.raises(SpecError, match=r"has no config\.json"):
            load_segmenter(str(tmp_path))

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            pytest.param('{"model_type": "llama"}', "of type 'llama': expected a segmenter, one of .*sam_hq", id="llama"),
            pytest.param('{"model_type": "sam9"}', "'sam9', which transformers .* doesn't know", id="unknown to transformers"),
            pytest.param("{}", "can't be loaded", id="no type"),
            pytest.param("{", "can't be loaded", id="not JSON"),
            pytest.param('{"model_type": "sam"}', r"no preprocessor_config\.json", id="no processor, no weights"),
        ],
    )
    def test_a_folder_that_holds_no_segmenter_is_refused(self, tmp_path, config, message):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(SpecError, match=message) as caught:
            load_segmenter(str(tmp_path))
        assert "\n" not in str(caught.value)

    def test_missing_or_broken_weights_are_refused(self, tmp_path):
        folder = save_sam(tmp_path)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(SpecError, match="can't be loaded"):
            load_segmenter(str(folder))
        weights.unlink()
        with pytest.raises(SpecError, match=r"no weights: expected model\.safetensors"):
            load_segmenter(str(folder))

    def test_pickled_weights_are_not_opened(self, tmp_path):
        folder = save_sam(tmp_path)
        weights = folder / "model.safetensors"
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
        with pytest.raises(SpecError, match=r"pickled weights alone .* never opened"):
            load_segmenter(str(folder))

    def test_weights_of_another_model_are_refused(self, tmp_path):
        folder = save_sam(tmp_path)
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["num_hidden_layers"] = 3
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(SpecError, match=r"lacks \d+ of the model's weights .*vision_encoder"):
            load_segmenter(str(folder))

    @pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
    def test_a_family_that_needs_torchvision_names_the_extra(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "sam2"}')
        (tmp_path / "processor_config.json").write_text(
            '{"processor_class": "Sam2Processor", "image_processor": {"image_processor_type": "Sam2ImageProcessor"}}'
        )
        with pytest.raises(MissingExtraError, match=r'torchvision.*: pip install "sam4mllm-tool\[sam\]"'):
            load_segmenter(str(tmp_path))

    def test_an_unknown_device_or_precision_is_refused(self, sam_folder):
        with pytest.raises(SpecError, match="device 'banana'"):
            load_segmenter(str(sam_folder), device="banana")
        with pytest.raises(SpecError, match="expected one of float32, bfloat16, float16"):
            load_segmenter(str(sam_folder), dtype="int4")


@pytest.mark.parametrize("part", CUSTOM_PARTS)
def test_a_checkpoints_own_code_is_never_run(sam_folder, tmp_path, monkeypatch, part):
    marker = copy_with_custom_code(sam_folder, tmp_path / "own", part)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(SpecError, match="needs its own code, which is never run: choose") as caught:
        load_segmenter(str(tmp_path / "own"))
    assert "\n" not in str(caught.value)
    assert not marker.exists()
