"""The dense targets of the vision stage, the prompts of the segmenter's stage, and the optimizer."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from recipes.embedded.architecture import CELLS, GRID, INPUT_SIDE, NOUNS, PARTS
from recipes.embedded.muon import orthogonalize
from recipes.embedded.patch_targets import PatchTargets, compute_targets
from recipes.embedded.sam_model import GRID as SAM_GRID
from recipes.embedded.sam_model import build_sam
from recipes.embedded.sam_prompts import PLACEMENTS, sample_prompts
from recipes.embedded.sam_stage import DenseEncoder, compute_dense_targets
from recipes.embedded.scene_cache import SIDE, SceneCache
from recipes.embedded.vision_stage import mirror_targets
from sam4mllm_tool.embedded.everyday import draw_scene


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    return SceneCache(tmp_path_factory.mktemp("world"), 4, chunk=4)


@pytest.fixture(scope="module")
def targets(cache: SceneCache, tmp_path_factory: pytest.TempPathFactory) -> PatchTargets:
    return compute_targets(cache, tmp_path_factory.mktemp("targets"))


def test_a_cached_scene_is_the_one_that_was_drawn(cache: SceneCache) -> None:
    cached, drawn = cache.scene(2), draw_scene(2)
    assert cached.regions == drawn.regions
    assert all(np.array_equal(cached.mask(i), drawn.mask(i)) for i in range(len(drawn.regions)))
    assert cache.trained_on == 3
    assert cache.held_out(10).tolist() == [3]


def test_patches_name_the_object_and_the_part_that_they_show(cache: SceneCache, targets: PatchTargets) -> None:
    for index in range(len(cache)):
        record, scene_targets = cache.records[index], targets.select(torch.tensor(index))
        owners, parts = scene_targets.owner.tolist(), scene_targets.part.tolist()
        nouns, names = scene_targets.looks[:, 0].tolist(), scene_targets.names.tolist()
        shown = {(owner, part) for owner, part in zip(owners, parts, strict=True) if part >= 0}
        assert {record.object_parts[part].owner == owner for owner, part in shown} == {True}
        assert [NOUNS[noun] for noun in nouns][: len(record.objects)] == [o.noun for o in record.objects]
        assert [PARTS[name] for name in names][: len(record.object_parts)] == [p.name for p in record.object_parts]
        assert len({part for _, part in shown}) > 0.85 * len(record.object_parts), "nearly every part has a patch"
        area = scene_targets.cells.float().sum() / 255 / (GRID * CELLS) ** 2
        assert float(area) == pytest.approx((cache.scene(index).instances > 0).mean(), abs=0.04)


def test_mirroring_twice_gives_the_targets_back(targets: PatchTargets) -> None:
    mirrored = mirror_targets(targets)
    assert not torch.equal(mirrored.owner, targets.owner)
    for field in fields(PatchTargets):
        if "box" not in field.name:
            assert torch.equal(getattr(mirror_targets(mirrored), field.name), getattr(targets, field.name)), field.name


@pytest.mark.parametrize("placement", sorted(set(PLACEMENTS)))
def test_labels_of_prompts_are_those_of_the_true_masks(cache: SceneCache, placement: str) -> None:
    prompts = sample_prompts(cache, torch.arange(4), np.random.default_rng(0), 3, placement, (0.0,))
    assert prompts.points is not None
    assert prompts.labels is not None
    assert (prompts.boxes is None) == (placement == "clicks")
    x, y = prompts.points.flatten(0, 2).long().clamp(0, INPUT_SIDE - 1).T
    masks = prompts.masks.flatten(0, 1).repeat_interleave(3, 0)
    agreement = (masks[torch.arange(len(x)), y, x] == prompts.labels.flatten()).float().mean()
    assert agreement > 0.85, "but for pixels at edges, which the smaller mask rounds"
    if placement == "clicks":
        assert prompts.labels[..., 0].all()


def test_one_click_and_a_box_alone_may_mean_two_regions(cache: SceneCache) -> None:
    for placement, count in (("clicks", 1), ("even", 0)):
        prompts = sample_prompts(cache, torch.arange(4), np.random.default_rng(1), count, placement, (0.0,))
        assert (prompts.masks != prompts.others).flatten(2).any(2).any()
    decided = sample_prompts(cache, torch.arange(4), np.random.default_rng(1), 5, "even")
    assert torch.equal(decided.masks, decided.others)


def test_a_fresh_segmenter_sees_the_image_and_its_dense_targets_are_those_of_the_scene(cache: SceneCache) -> None:
    dense = DenseEncoder(build_sam())
    index = torch.arange(2)
    embeddings = dense.encoder(cache.load_pixels(index)).last_hidden_state
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.01
    for kind, regions in (("object", cache.records[0].objects), ("part", cache.records[0].object_parts)):
        covered, cells, boxes = compute_dense_targets(cache, index[:1], kind)
        assert set(map(tuple, boxes[covered].tolist())) <= {tuple(np.float32(region.box) / SIDE) for region in regions}
        shown = cells[covered].sum() / (SAM_GRID * CELLS) ** 2
        masks = [cache.scene(0).mask(cache.scene(0).regions.index(region)) for region in regions]
        assert float(shown) == pytest.approx(np.any(masks, axis=0).mean(), abs=0.06)


def test_updates_are_orthogonalized() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0))
    for oriented in (matrix, matrix.T):
        values = torch.linalg.svdvals(orthogonalize(oriented))
        assert orthogonalize(oriented).shape == oriented.shape
        assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
