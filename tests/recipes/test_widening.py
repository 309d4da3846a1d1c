"""A Segment Anything is widened without changing what it gives."""

import pytest
import torch
from torch import Tensor
from transformers import SamModel

from recipes.embedded.architecture import INPUT_SIDE
from recipes.embedded.sam_model import MASK_SIDE, build_sam
from recipes.embedded.widening import widen_sam


@pytest.fixture(scope="module")
def narrow() -> SamModel:
    model, generator = build_sam(32).eval(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh ones are too small for masks that differ
            parameter.normal_(0, 0.2, generator=generator)
    return model


@pytest.fixture(scope="module")
def wide(narrow: SamModel) -> SamModel:
    model = build_sam(64).eval()
    widen_sam(narrow, model)
    return model


@pytest.mark.parametrize("has_mask", [False, True], ids=["points and a box", "a mask, too"])
def test_the_wide_model_gives_what_the_narrow_one_gives(narrow: SamModel, wide: SamModel, has_mask: bool) -> None:
    generator = torch.Generator().manual_seed(1)

    def predict(model: SamModel) -> tuple[Tensor, Tensor]:
        out = model(
            pixel_values=torch.randn(1, 3, INPUT_SIDE, INPUT_SIDE, generator=generator.manual_seed(1)),
            input_boxes=torch.tensor([[[30.0, 40, 120, 160]]]),
            input_points=torch.tensor([[[[60.0, 70], [100, 100]]]]),
            input_labels=torch.tensor([[[1, 0]]]),
            input_masks=torch.randn(1, 1, MASK_SIDE, MASK_SIDE, generator=generator) if has_mask else None,
        )
        return out.pred_masks, out.iou_scores

    with torch.inference_mode():
        (masks, scores), (wide_masks, wide_scores) = predict(narrow), predict(wide)
    assert masks.std() > 0.02, "masks differ from pixel to pixel"
    assert torch.allclose(wide_masks, masks, atol=1e-4 * float(masks.abs().max()))
    assert torch.allclose(wide_scores, scores, atol=1e-4)


def test_the_copies_of_a_channel_are_read_in_different_shares(wide: SamModel) -> None:
    weight = wide.mask_decoder.transformer.layers[0].mlp.lin1.weight
    first, copy = weight[:, :16], weight[:, 16:32]  # each half of the channels comes twice in a row
    assert not torch.allclose(first, copy, rtol=0.01)


def test_only_twice_the_channels_are_possible(narrow: SamModel) -> None:
    with pytest.raises(ValueError, match=r"of 32 can be widened to 64, not to 128"):
        widen_sam(narrow, build_sam(128))
