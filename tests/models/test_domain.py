"""Images unlike those of the training are recognised: the distance, the file beside the weights, the embedded pair."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from scipy.spatial import distance

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.domain import DOMAIN_FILE, ImageDomain, find_domain, fit_domain, pool_features
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.embedded_world import TEST_SEEDS, draw_image
from tests.unlike_images import COUNT, load_photograph, unlike_images

RNG = np.random.default_rng(0)
TRAINING = list(RNG.normal(3, 2, (400, 8)) @ RNG.normal(size=(8, 8)))
TUNING, WARNING = TRAINING[:200], "this model knows maps only"


@pytest.fixture(scope="module")
def embedded() -> TransformersMLLM:
    return TransformersMLLM.load(embedded_folder("mllm"), embedded_folder("adapter"))


def test_the_distance_is_mahalanobis_per_feature() -> None:
    domain = fit_domain(
        TRAINING, TUNING, WARNING, layer=4, components=7
    )  # so that the rest is one direction, with its own variance
    inverse = np.linalg.inv(np.cov(np.stack(TRAINING), rowvar=False))
    for features in RNG.normal(0, 9, (20, 8)):
        expected = distance.mahalanobis(features, np.mean(TRAINING, 0), inverse)
        assert domain.distance(features) == pytest.approx(expected / np.sqrt(8))


def test_pooled_features_are_the_patches_means_and_the_logarithms_of_their_deviations() -> None:
    assert pool_features(np.array([[1.0, 5], [3, 7]])) == pytest.approx([2, 6, 0, 0], abs=1e-5)
    assert np.isfinite(pool_features(np.ones((4, 3)))).all(), "of patches that are all the same"


def test_the_threshold_leaves_the_given_share_of_tuning_images_outside() -> None:
    domain = fit_domain(TRAINING, TUNING, WARNING, layer=4, components=3, outside=0.1)
    assert sum(not domain.contains(features) for features in TUNING) == 20
    assert not domain.contains(np.full(8, np.nan)), "what can't be compared is not like the training images"


def test_a_domain_survives_its_file() -> None:
    domain = fit_domain(TRAINING, TUNING, WARNING, layer=4, components=3)
    read = ImageDomain.from_json(domain.to_json())
    assert read.warning == WARNING
    for features in TUNING:
        assert read.distance(features) == pytest.approx(domain.distance(features), rel=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"warning": ""}, "'warning' must be a sentence"),
        ({"warning": None}, "'warning' must be a sentence"),
        ({"layer": -1}, "'layer' must be a number of at least 0"),
        ({"layer": "last"}, "'layer' must be a number of at least 0"),
        ({"mean": [1.0]}, r"expected a mean \(d,\)"),
        ({"variances": [1.0, 2.0, 0.0]}, "above 0"),
        ({"threshold": float("nan")}, "not finite"),
        ({"components": [[1.0], [2.0, 3.0]]}, "not an image domain"),
        ({"colour": "red"}, "unexpected keyword argument 'colour'"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(change: dict[str, object], reason: str, tmp_path: Path) -> None:
    fields = json.loads(fit_domain(TRAINING, TUNING, WARNING, layer=4, components=3).to_json())
    (tmp_path / DOMAIN_FILE).write_text(json.dumps({**fields, **change}))
    with pytest.raises(SpecError, match=f"{DOMAIN_FILE}: .*{reason}"):
        find_domain(str(tmp_path))


@pytest.mark.parametrize(("count", "tuning"), [(3, TUNING), (400, [])])
def test_too_few_images_are_refused(count: int, tuning: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="expected more than 3 training images"):
        fit_domain(TRAINING[:count], tuning, WARNING, layer=4, components=3)


def test_an_adapter_of_ones_own_does_not_inherit_a_domain(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    assert find_domain("embedded") is not None
    assert find_domain(f"embedded+{own}") is None
    assert find_domain(f"{embedded_folder('adapter')}+{own}") is None
    (own / DOMAIN_FILE).write_text(fit_domain(TRAINING, TUNING, WARNING, layer=4, components=3).to_json())
    found = find_domain(f"embedded+{own}")
    assert found is not None
    assert found.warning == WARNING


def test_the_embedded_pair_warns_of_a_photograph_and_not_of_a_scene(embedded: TransformersMLLM) -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for image in (load_photograph("astronaut.png"), load_photograph("chelsea.png"), load_photograph("coffee.png"), noise):
        warning = embedded.check_image(image)
        assert warning is not None
        assert "drawn scenes" in warning
        assert "--mllm" in warning
        assert "--segmenter" in warning
        assert "\n" not in warning
    for seed in range(TEST_SEEDS, TEST_SEEDS + 8):
        assert embedded.check_image(draw_image(seed)) is None


def test_the_check_shares_the_vision_pass_of_the_questions() -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    passes: list[object] = []
    tower = models.mllm._runner.model.model.vision_tower  # type: ignore[attr-defined]
    hook = tower.register_forward_hook(lambda *_: passes.append(None))
    result = models.segment(load_photograph("astronaut.png"), "the red ring", method="box")
    hook.remove()
    assert len(result.warnings) == 1
    assert len(passes) == 1


def test_a_domain_of_any_models_folder_is_used(embedded: TransformersMLLM, tmp_path: Path) -> None:
    """A model that knows noise only, in its own words."""
    noise = [PIL.Image.fromarray(RNG.integers(0, 256, (60, 60, 3), dtype=np.uint8)) for _ in range(24)]
    features = [features for image in noise if (features := embedded.image_features(image, 2)) is not None]
    domain = fit_domain(features[:12], features[12:], WARNING, layer=2, components=3)
    for part in Path(embedded_folder("mllm")).iterdir():
        (tmp_path / part.name).symlink_to(part)
    (tmp_path / DOMAIN_FILE).write_text(domain.to_json())
    model = TransformersMLLM.load(str(tmp_path))
    assert model.check_image(draw_image(TEST_SEEDS)) == WARNING
    assert model.check_image(noise[-1]) is None
    assert TransformersMLLM.load(embedded_folder("mllm")).check_image(draw_image(TEST_SEEDS)) is None, "it has no such file"


@pytest.mark.slow
def test_unlike_images_are_recognised_and_test_scenes_are_not_taken_for_them(embedded: TransformersMLLM) -> None:
    missed = [name for name, image in unlike_images() if embedded.check_image(image) is None]
    seeds = range(TEST_SEEDS, TEST_SEEDS + 300)
    wrong = [seed for seed in seeds if embedded.check_image(draw_image(seed)) is not None]
    print(
        f"recognised: {1 - len(missed) / COUNT:.1%} of {COUNT}; wrongly: {len(wrong) / len(seeds):.1%} of {len(seeds)} scenes"
    )
    assert len(missed) <= 0.05 * COUNT, missed
    assert len(wrong) <= 0.01 * len(seeds), wrong
