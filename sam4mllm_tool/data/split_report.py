"""Check a split of a dataset: every sample is read as training would read it, and faults and counts are reported."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from sam4mllm_tool.data import Dataset, Problems, Sample
from sam4mllm_tool.data.class_reader import LEFT_OUT_BY_CHOICE
from sam4mllm_tool.data.published import published_count
from sam4mllm_tool.data.reader import read_image_size
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError, count_noun
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.types import Size

__all__ = ["SplitReport", "check_split"]


_NOUNS = {
    "samples": ("sample",),
    "objects": ("object",),
    "samples with no such object": ("sample with no such object", "samples with no such object"),
    "conversations": ("conversation",),
    "images": ("image",),
}
"""Singular, and plural where it doesn't end in s, by the key of the counts."""


@dataclass
class SplitReport:
    """The content of a split and its faults.

    Attributes:
        split: The split's name.
        place: The file or folder that the split was read from.
        counts: Samples, objects, samples without an object, conversations and images.
        problems: The faults that the reader met, and those that the check found in its samples.
        published: A line about the published count; empty where nothing is published.
        complete: Whether the split has the published count.
    """

    split: str
    place: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)
    published: str = ""
    complete: bool = True

    @property
    def good(self) -> bool:
        """Whether nothing is missing or wrong, apart from what a reader leaves out by choice."""
        return self.complete and all(what in LEFT_OUT_BY_CHOICE for _, what in self.problems.counts)

    def lines(self) -> Iterator[str]:
        """Yield the report's lines for people."""
        yield f"{self.split}: {self.place}"
        yield "  " + ", ".join(count_noun(count, *_NOUNS[what]) for what, count in self.counts.items())
        if self.published:
            yield f"  {self.published}"
        for line in self.problems.lines():
            yield f"  {line}"
        if self.problems.first:
            yield f"  the first {len(self.problems.first)}:"
            yield from (f"    {example}" for example in self.problems.first)
        if any(what not in LEFT_OUT_BY_CHOICE for _, what in self.problems.counts):
            yield "  what to do: correct or remove these records, then check again; training and evaluation leave them out"


def check_split(dataset: Dataset, *, deep: bool = False) -> SplitReport:
    """Read every sample's image header, boxes and masks.

    Args:
        dataset: The split.
        deep: Also decode the images.

    Raises:
        DataError: The split can't be read to its end, or no sample can be used.
    """
    report = SplitReport(dataset.split, str(getattr(dataset, "path", "")))
    faults = Problems()
    image_sizes: dict[Path, Size | str] = {}
    checked_regions: tuple[int, ...] = ()
    counts = report.counts
    counts.update({"samples": 0})
    for sample in tqdm(dataset, desc=f"{dataset.name} {dataset.split}", unit="sample", disable=None):
        counts["samples"] += 1
        counts["objects"] += len(sample.regions)
        counts["samples with no such object"] += not sample.regions and not sample.turns
        counts["conversations"] += bool(sample.turns)
        if sample.image_path not in image_sizes:
            image_sizes[sample.image_path] = _measure_image(sample.image_path, deep)
            counts["images"] += 1
        if not sample.turns:
            _check_expression(sample, faults)
        size_matches = _check_image(sample, image_sizes[sample.image_path], faults)
        regions = tuple(map(id, (*sample.regions, sample.ignored)))
        if size_matches and regions != checked_regions:  # the sentences of one reference share its regions
            _check_masks(sample, faults)
        checked_regions = regions
    report.problems.extend(dataset.problems)
    report.problems.extend(faults)
    _compare_with_published(report, dataset)
    return report


def _measure_image(path: Path, deep: bool) -> Size | str:
    """Return the image's size, or what is wrong with it."""
    size = read_image_size(path)
    if deep and not isinstance(size, str):
        try:
            return Size(*load_image(path).size)
        except ImageError:
            return "the image is damaged"
    return size


def _check_image(sample: Sample, size: Size | str, faults: Problems) -> bool:
    if isinstance(size, str):
        faults.add("dropped", size, f"{sample.id}, {sample.image_path}")
    elif size != sample.size:
        sizes = f"{size.width} x {size.height} pixels, {sample.size.width} x {sample.size.height} expected"
        where = f"{sample.id}, {sample.image_path}, {sizes}"
        faults.add("dropped", "the image's size differs from the annotated size", where)
    return size == sample.size


def _check_expression(sample: Sample, faults: Problems) -> None:
    try:
        validate_expression(sample.expression)
    except ExpressionError as error:
        faults.add("dropped", "the expression is not valid", f"{sample.id}: {error}")


def _check_masks(sample: Sample, faults: Problems) -> None:
    try:
        masks = sample.masks()
        sample.ignore()
    except DataError as error:
        faults.add("dropped", "a mask can't be decoded", f"{sample.id}: {error}")
        return
    if not all(mask.any() for mask in masks):
        faults.add("dropped", "a mask is empty", sample.id)


def _compare_with_published(report: SplitReport, dataset: Dataset) -> None:
    published, units = published_count(dataset), getattr(dataset, "units", None)
    if published is None or units is None:
        return
    count = units()
    report.complete = count == published.count
    verdict = "as published" if report.complete else f"{published.count:,} are published"
    report.published = f"{count_noun(count, published.unit.removesuffix('s'))}, {verdict}"
