"""Warn where an evaluation measures on images that the model was trained on, by the list beside its adapter."""

from collections.abc import Iterable
from itertools import groupby

from sam4mllm_tool.data.image_hashes import TRAINED_IMAGES_FILE, TrainedImages, hash_image
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.models.metadata import read_metadata

__all__ = ["describe_trained_images"]


def describe_trained_images(mllm: str, samples: Iterable[Sample]) -> str | None:
    """Return a warning if images of the samples are among those that the model was trained on, else None.

    Args:
        mllm: The model's spec. Models without a list of trained images give no warning.
        samples: What is evaluated.

    Raises:
        SpecError: The list can't be read.
    """
    trained = read_metadata(mllm, TRAINED_IMAGES_FILE, TrainedImages.from_json)
    if trained is None:
        return None
    hashes, known = set(), set()
    for path, _ in groupby(samples, key=lambda sample: sample.image_path):
        if path.is_file():
            hashes.add(hash_image(path))
            if path in trained:
                known.add(hash_image(path))
    if not known:
        return None
    return (
        f"{mllm} was trained on {len(known):,} of the {count_noun(len(hashes), 'image')} evaluated here (its "
        f"{TRAINED_IMAGES_FILE} lists them), so the figures say little about new images: evaluate on others"
    )
