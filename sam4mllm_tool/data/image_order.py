"""The images of datasets in the order in which they are built, each with its neighbouring samples; VQA images are mixed in."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby

from sam4mllm_tool.data.heldout import HeldOut
from sam4mllm_tool.data.image_hashes import hash_image
from sam4mllm_tool.data.sample import Dataset, Sample
from sam4mllm_tool.data.workers import ImageSamples

__all__ = ["count_missing_vqa", "group_by_image", "leave_out", "mark_held_out", "mix_in_vqa"]

_EXHAUSTED: ImageSamples = []


def group_by_image(datasets: Iterable[Dataset]) -> Iterator[list[Sample]]:
    """Yield the neighbouring samples of one image as a list."""
    for dataset in datasets:
        for _, samples in groupby(dataset, key=lambda sample: sample.image_path):
            yield list(samples)


def leave_out(images: Iterable[list[Sample]], hashes: Collection[str]) -> Iterator[list[Sample]]:
    """Yield the images whose hash is not among `hashes`."""
    for samples in images:
        if not hashes or hash_image(samples[0].image_path) not in hashes:
            yield samples


def mark_held_out(images: Iterable[list[Sample]], held_out: HeldOut) -> Iterator[ImageSamples]:
    """Replace the samples of held-out images by None, so that the images can be counted."""
    for samples in images:
        path = samples[0].image_path
        ids = {sample.image_id for sample in samples}
        is_held_out = any(held_out.contains(image_id, name) for image_id in ids for name in (path, path.resolve()))
        yield None if is_held_out else samples


def mix_in_vqa(with_masks: Iterable[ImageSamples], vqa: Iterator[ImageSamples], share: float) -> Iterator[ImageSamples]:
    """Insert VQA images evenly among the others until the VQA datasets are exhausted."""
    mask_images = vqa_images = 0
    for samples in with_masks:
        yield samples
        mask_images += samples is not None
        while vqa_images < _wanted_vqa_images(mask_images, share) and (more := next(vqa, _EXHAUSTED)) is not _EXHAUSTED:
            yield more
            vqa_images += more is not None


def _wanted_vqa_images(mask_images: int, share: float) -> int:
    return int(mask_images * share / (1 - share) + 1e-9)


def count_missing_vqa(counts: Mapping[str, int], share: float) -> int:
    """Return how many VQA images are missing from the share, because the VQA datasets were exhausted."""
    return max(0, _wanted_vqa_images(counts.get("pictures", 0), share) - counts.get("vqa pictures", 0))
