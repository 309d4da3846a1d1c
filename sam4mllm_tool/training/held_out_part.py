"""The held-out part of a tuning: samples that are segmented before and after, about images that are not trained on.

They come from `eval_data`, or else from images of `data` that are held back, chosen by the hash of their content.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sam4mllm_tool.data.build import Source
from sam4mllm_tool.data.image_hashes import choose_images, hash_image, resolve_share
from sam4mllm_tool.data.sample import Dataset, Sample
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.training.callbacks import load_held_out_samples
from sam4mllm_tool.training.config import TrainingConfig

__all__ = ["HeldOutPart", "hold_out_samples", "read_measurements"]

_DEFAULT_SHARE, _DEFAULT_MOST = 0.1, 20
"""Without a setting, this share of the images is held back, but at most so many images."""


@dataclass(frozen=True)
class HeldOutPart:
    """What is measured on.

    Attributes:
        samples: The samples, none where nothing is measured.
        held_back: Hashes of the images that are left out of the training conversations for it.
    """

    samples: tuple[Sample, ...] = ()
    held_back: frozenset[str] = frozenset()

    def describe(self) -> dict[str, int]:
        """Return the number of samples and of images, as training.json holds them."""
        return {"samples": len(self.samples), "images": len({sample.image_path for sample in self.samples})}


def hold_out_samples(config: TrainingConfig) -> HeldOutPart:
    """Return the samples to measure on, at most `eval_count`.

    Raises:
        DataError: A dataset can't be read, or as many images are to be held back as there are.
    """
    if config.eval_data:
        return HeldOutPart(tuple(load_held_out_samples(config.eval_data, config.eval_split, config.eval_count)))
    if not config.data or config.held_back == 0:
        return HeldOutPart()
    datasets = [Source.parse(text).open() for text in config.data]
    paths = {sample.image_path for sample in tqdm(_iter_samples(datasets), desc="images", unit="sample", disable=None)}
    hashes = {hash_image(path) for path in paths}
    held_back = choose_images(hashes, _count_held_back(config, len(hashes)), seed=config.seed)
    samples = (sample for sample in _iter_samples(datasets) if held_back and hash_image(sample.image_path) in held_back)
    return HeldOutPart(tuple(islice(samples, config.eval_count)), held_back)


def _iter_samples(datasets: list[Dataset]) -> Iterator[Sample]:
    for dataset in datasets:
        yield from (sample for sample in dataset if not sample.turns)


def _count_held_back(config: TrainingConfig, total: int) -> int:
    if config.held_back is None:
        return min(_DEFAULT_MOST, resolve_share(_DEFAULT_SHARE, total))
    count = resolve_share(config.held_back, total)
    if count >= total:
        raise DataError(f"held_back = {config.held_back:g} leaves no image to train on: the data has {total:,} images")
    return count


def read_measurements(metrics_file: Path) -> dict[str, dict[str, Any]]:
    """Return the first and the last evaluation in metrics.jsonl, as "before" and "after"; {} where there are not two.

    Raises:
        OSError: The file can't be read.
    """
    lines = [parse_json(line) for line in metrics_file.read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if any(name.startswith("eval_") for name in line)]
    if not measured or measured[0]["step"] or len(measured) < 2:
        return {}
    first, last = (
        {name: value for name, value in line.items() if name.startswith("eval_")} for line in (measured[0], measured[-1])
    )
    return {"before": first, "after": last}
