"""Meta's `segment-anything` package: our backend, the package's own predictor and transformers on the same weights."""

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models.checkpoints import fingerprint
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.models.segmenter.segment_anything import SegmentAnythingSegmenter
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.types import Box, Image, Mask, ObjectPrompt, PointPrompt, SegmentedObject
from tests.models.segmenter.reference import (
    assert_equal_objects,
    make_image,
    masks_of,
    prompts_without_box_or_with_mask,
    resize_mask,
    scores_of,
)
from tests.sam_checkpoints import randomise_weights, save_sam

needs_package = pytest.mark.skipif(
    find_spec("segment_anything") is None or find_spec("torchvision") is None,
    reason="segment-anything or torchvision is missing",
)
SIZES = [(50, 80), (64, 64), (200, 51)]
PROMPTS = (
    ObjectPrompt(Box(10, 10, 50, 45), (PointPrompt(30, 20, 1, 0.9),)),
    ObjectPrompt(Box(5.5, 5, 48, 40.25), (PointPrompt(10, 20, 1, 0.8), PointPrompt(40, 39, 0, 0.95))),
    ObjectPrompt(Box(0, 0, 20, 20)),
)


def build_tiny() -> Any:
    """Return a Sam with the shapes of `save_sam`."""
    from segment_anything import modeling

    encoder = modeling.ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2, out_chans=32, use_rel_pos=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), window_size=3, global_attn_indexes=(1,),
    )  # fmt: skip
    prompts = modeling.PromptEncoder(embed_dim=32, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=4)
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=2, mlp_dim=64)
    decoder = modeling.MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_depth=3, iou_head_hidden_dim=32)
    return modeling.Sam(encoder, prompts, decoder)


RENAMED = (
    ("image_encoder.", "vision_encoder."),
    ("patch_embed.proj.", "patch_embed.projection."),
    (".blocks.", ".layers."),
    (".norm", ".layer_norm"),
    ("neck.0.", "neck.conv1."),
    ("neck.1.", "neck.layer_norm1."),
    ("neck.2.", "neck.conv2."),
    ("neck.3.", "neck.layer_norm2."),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("point_embeddings.", "point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("output_upscaling.0.", "upscale_conv1."),
    ("output_upscaling.1.", "upscale_layer_norm."),
    ("output_upscaling.3.", "upscale_conv2."),
)


def transformers_key(key: str) -> str:
    """Return the name that transformers has for a weight of the package."""
    for theirs, ours in RENAMED:
        key = key.replace(theirs, ours)
    if "hypernetworks_mlps" in key or "iou_prediction_head" in key:
        for theirs, ours in ((".layers.0.", ".proj_in."), (".layers.1.", ".layers.0."), (".layers.2.", ".proj_out.")):
            if theirs in key:
                return key.replace(theirs, ours)
    return key


def predict(sam: Any, image: Image, prompt: ObjectPrompt, *, package: str = "segment_anything") -> tuple[Mask, Any]:
    """Return masks (3, H, W) and scores (3,), best first, computed with the package's own predictor."""
    predictor = import_module(package).SamPredictor(sam)
    predictor.set_image(np.asarray(image))
    masks, scores, _ = predictor.predict(
        point_coords=np.array([(point.x, point.y) for point in prompt.points]) if prompt.points else None,
        point_labels=np.array([point.label for point in prompt.points]) if prompt.points else None,
        box=None if prompt.points_only else np.array(prompt.box),
        mask_input=None
        if prompt.mask_input is None
        else resize_mask(prompt.mask_input.mask(), 4 * sam.prompt_encoder.image_embedding_size[0], pads=True)[0].numpy(),
    )
    order = np.argsort(-scores, kind="stable")
    return masks[order], scores[order]


def mean_iou(segmented: SegmentedObject, masks: Mask) -> float:
    ours = masks_of(segmented)
    return float(np.mean((ours & masks).sum((1, 2)) / np.maximum((ours | masks).sum((1, 2)), 1)))


@pytest.fixture(scope="session")
def tiny() -> Any:
    sam = build_tiny().eval()
    randomise_weights(sam)
    return sam


@needs_package
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_are_those_of_the_packages_own_predictor(tiny: Any, size: tuple[int, int]) -> None:
    image, segmenter = make_image(*size), SegmentAnythingSegmenter(tiny, by="score")
    for prompt in (*PROMPTS, *prompts_without_box_or_with_mask(size)):
        masks, scores = predict(tiny, image, prompt)
        (segmented,) = segmenter.segment(image, [prompt])
        np.testing.assert_allclose(scores_of(segmented), scores, atol=1e-5)
        assert mean_iou(segmented, masks) >= 0.999
        assert 0 < masks.mean() < 1, "a constant reference would prove nothing"


@needs_package
def test_many_prompts_give_what_each_gives_alone(tiny: Any) -> None:
    image, segmenter = make_image(80, 50), SegmentAnythingSegmenter(tiny)
    prompts = [*PROMPTS, *prompts_without_box_or_with_mask((80, 50))]
    assert_equal_objects(segmenter.segment(image, prompts), [segmenter.segment(image, [prompt])[0] for prompt in prompts])


@needs_package
def test_transformers_gives_the_same_masks_on_converted_weights(tmp_path: Path) -> None:
    """Converted from transformers to the package."""
    folder, sam = save_sam(tmp_path), build_tiny()
    theirs = load_file(folder / "model.safetensors")
    sam.load_state_dict({key: theirs[transformers_key(key)] for key in sam.state_dict()})
    image, ours = make_image(80, 50), SegmentAnythingSegmenter(sam)
    for first, second in zip(ours.segment(image, PROMPTS), load_segmenter(str(folder)).segment(image, PROMPTS), strict=True):
        assert mean_iou(first, masks_of(second)) >= 0.99


@needs_package
@pytest.mark.slow
def test_the_predictor_and_transformers_agree_on_a_released_files_architecture(tmp_path: Path) -> None:
    """A file of vit_b as Meta released it, with random weights; converted from the package to transformers."""
    from segment_anything import sam_model_registry

    sam = sam_model_registry["vit_b"]().eval()
    randomise_weights(sam)
    torch.save(sam.state_dict(), tmp_path / "sam_vit_b_01ec64.pth")
    segmenter = load_segmenter(f"segment-anything:vit_b@{tmp_path}/sam_vit_b_01ec64.pth", by="score")
    with torch.device("meta"):
        model = SamModel(SamConfig())
    weights = {transformers_key(key): weight for key, weight in sam.state_dict().items()}
    weights["prompt_encoder.shared_embedding.positional_embedding"] = weights["shared_image_embedding.positional_embedding"]
    model.load_state_dict(weights, assign=True)
    converted = TransformersSegmenter(model, SamProcessor(SamImageProcessorPil()), by="score")
    image = make_image(320, 240)
    masks, _ = predict(sam, image, PROMPTS[1])
    (segmented,), (other,) = segmenter.segment(image, PROMPTS[1:2]), converted.segment(image, PROMPTS[1:2])
    assert mean_iou(segmented, masks) >= 0.999
    assert mean_iou(segmented, masks_of(other)) >= 0.99
    assert 0.01 < masks.mean() < 0.99, "a constant mask would prove nothing"


@needs_package
@pytest.mark.skipif(find_spec("mobile_sam") is None, reason="MobileSAM's package is missing")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_mobile_sam_gives_the_masks_of_its_own_predictor(tmp_path: Path) -> None:
    mobile_sam = import_module("mobile_sam")
    sam = mobile_sam.sam_model_registry["vit_t"]()
    randomise_weights(sam)
    sam.train().eval()  # its encoder keeps a copy of weights from when it was last put into evaluation mode
    torch.save(sam.state_dict(), tmp_path / "mobile_sam.pt")
    segmenter, image = load_segmenter(f"segment-anything:vit_t@{tmp_path}/mobile_sam.pt", by="score"), make_image(320, 240)
    (segmented,) = segmenter.segment(image, PROMPTS[1:2])
    assert mean_iou(segmented, predict(sam, image, PROMPTS[1], package="mobile_sam")[0]) >= 0.999


class TestFiles:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("segment-anything:vit_x@sam.pth", "expected segment-anything:ARCHITECTURE@FILE, .* vit_b, vit_l, vit_h, vit_t"),
            ("segment-anything:vit_h", "expected segment-anything:ARCHITECTURE@FILE"),
            ("segment-anything:vit_h@./nowhere.pth", "there is no file './nowhere.pth'|there is no file 'nowhere.pth'"),
        ],
    )
    def test_a_spec_of_another_form_says_what_is_expected(self, spec: str, message: str) -> None:
        with pytest.raises(SpecError, match=message):
            load_segmenter(spec)

    def test_a_pickle_is_never_opened(self, tmp_path: Path) -> None:
        marker = tmp_path / "ran"
        torch.save({"image_encoder": _Writer(marker)}, tmp_path / "sam.pth")
        with pytest.raises(SpecError, match="more than tensors") as caught:
            load_segmenter(f"segment-anything:vit_h@{tmp_path}/sam.pth")
        assert "\n" not in str(caught.value)
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"model": {}}, "no weights by name: .* as facebook/sam2"),
            ({"weight": torch.zeros(1)}, "no weights of a Segment Anything model"),
            ({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 1)}, "holds the weights of vit_b: write .*vit_b@"),
            ({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}, "holds the weights of vit_t"),
        ],
        ids=["SAM 2's form", "another model", "vit_b", "MobileSAM"],
    )
    def test_the_weights_of_another_model_are_refused(self, tmp_path: Path, content: Any, message: str) -> None:
        torch.save(content, tmp_path / "sam.pth")
        with pytest.raises(SpecError, match=message):
            load_segmenter(f"segment-anything:vit_h@{tmp_path}/sam.pth")

    def test_a_file_has_a_fingerprint(self, tmp_path: Path) -> None:
        for name, value in (("one", 1.0), ("other", 2.0)):
            torch.save({"weight": torch.full((3,), value)}, tmp_path / f"{name}.pth")
        one, other = (fingerprint(f"segment-anything:vit_h@{tmp_path}/{name}.pth") for name in ("one", "other"))
        assert None not in (one, other)
        assert one != other
        assert fingerprint(f"segment-anything:vit_h@{tmp_path}/none.pth") is None

    def test_a_broken_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "sam.safetensors").write_bytes(b"none")
        with pytest.raises(SpecError, match="can't be read as weights"):
            load_segmenter(f"segment-anything:vit_h@{tmp_path}/sam.safetensors")

    @pytest.mark.skipif(find_spec("segment_anything") is not None, reason="segment-anything is installed")
    def test_a_missing_package_names_its_extra(self, tmp_path: Path) -> None:
        save_file({"image_encoder.patch_embed.proj.weight": torch.zeros(1280, 1)}, tmp_path / "sam.safetensors")
        with pytest.raises(MissingExtraError, match=r'segment-anything.*: pip install "sam4mllm-tool\[sam\]"'):
            load_segmenter(f"segment-anything:vit_h@{tmp_path}/sam.safetensors")

    @pytest.mark.skipif(find_spec("mobile_sam") is not None, reason="MobileSAM is installed")
    def test_mobile_sam_without_its_package_says_how_to_install_it(self, tmp_path: Path) -> None:
        save_file({"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(1)}, tmp_path / "mobile_sam.safetensors")
        with pytest.raises(SpecError, match=r"MobileSAM's package.* pip install git"):
            load_segmenter(f"segment-anything:vit_t@{tmp_path}/mobile_sam.safetensors")

    @needs_package
    def test_weights_of_other_shapes_are_refused(self, tmp_path: Path) -> None:
        save_file({"image_encoder.patch_embed.proj.weight": torch.zeros(768, 1)}, tmp_path / "sam.safetensors")
        with pytest.raises(SpecError, match=r"doesn't fit vit_b: \d+ weights missing, unknown or of another shape, .* first"):
            load_segmenter(f"segment-anything:vit_b@{tmp_path}/sam.safetensors")


class _Writer:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))
