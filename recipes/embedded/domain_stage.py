"""Which images the embedded pair knows: domain.json, fitted to the vision tower's features of drawn scenes.

Training scenes give the statistics, tuning scenes the threshold; the test split is never used. Layer 4 with 6 to 10
components tells most of the images of tests/unlike_images.py from scenes, by which they were chosen.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.embedded.everyday import draw_scene
from sam4mllm_tool.models.domain import DOMAIN_FILE, fit_domain
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM

TRAINING_SEEDS = range(3000)
TUNING_SEEDS = range(960_000, 961_200)
LAYER, COMPONENTS = 4, 8
WARNING = (
    "the embedded pair knows drawn scenes of everyday things only, and this image is unlike them: the answer may mean nothing. "
    "Name models for it with --mllm and --segmenter, such as --mllm BASE+ADAPTER --segmenter facebook/sam-vit-huge"
)


def write_domain(out: Path) -> None:
    """Write OUT/adapter/domain.json for the vision tower in OUT/mllm."""
    model = TransformersMLLM.load(str(out / "mllm"))
    training, tuning = (_compute_features(model, seeds) for seeds in (TRAINING_SEEDS, TUNING_SEEDS))
    # Scenes and other images are far apart, so that no tuning scene has to be beyond the threshold.
    domain = fit_domain(training, tuning, WARNING, layer=LAYER, components=COMPONENTS, outside=0)
    print(f"domain: {len(training)} training and {len(tuning)} tuning scenes, threshold {domain.threshold:.3f}")
    write_bytes(out / "adapter" / DOMAIN_FILE, domain.to_json().encode())


def _compute_features(model: TransformersMLLM, seeds: Iterable[int]) -> list[npt.NDArray[np.float64]]:
    torch.set_num_threads(1)  # the tower is too small for more to be faster
    computed = []
    for seed in tqdm(seeds, desc="features", unit="scene", mininterval=5, disable=None):
        features = model.image_features(Image.fromarray(draw_scene(seed).image), LAYER)
        assert features is not None, "the tower is SigLIP's, which gives its hidden states"
        computed.append(features)
    return computed
