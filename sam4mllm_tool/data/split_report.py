"""What is there of a data set, and what is wrong with it: every sample is read as training would read it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from sam4mllm_tool.data import Dataset, Problems, Sample
from sam4mllm_tool.data.class_reader import BY_CHOICE
from sam4mllm_tool.data.published import published_count
from sam4mllm_tool.data.reader import picture_size
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.types import Size

__all__ = ["SplitReport", "check_split"]


@dataclass
class SplitReport:
    """What was found in a split. counts: of samples, objects, pictures, samples without an object, conversations.

    problems: what the reader met and what was found beyond it. published: a line about the published count, and whether the
    split agrees with it; both empty where nothing is published.
    """

    split: str
    place: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: Problems = field(default_factory=Problems)
    published: str = ""
    complete: bool = True

    @property
    def good(self) -> bool:
        """Nothing is missing or wrong; what a reader leaves out by choice is not wrong."""
        return self.complete and all(what in BY_CHOICE for _, what in self.problems.counts)

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield f"{self.split}: {self.place}"
        yield "  " + ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        if self.published:
            yield f"  {self.published}"
        for line in self.problems.lines():
            yield f"  {line}"
        if self.problems.first:
            yield f"  the first {len(self.problems.first)}:" if len(self.problems.first) > 1 else "  it is:"
            yield from (f"    {told}" for told in self.problems.first)


def check_split(dataset: Dataset, *, deep: bool = False) -> SplitReport:
    """Reads every sample: its picture's header, its boxes, its masks. deep: decodes the pictures too.

    Raises DataError where the split can't be read to its end, or nothing in it can be used.
    """
    report = SplitReport(dataset.split, str(getattr(dataset, "path", "")))
    found = Problems()
    pictures: dict[Path, Size | str] = {}
    regions: tuple[int, ...] = ()
    counts = report.counts
    counts.update({"samples": 0})
    for sample in tqdm(dataset, desc=f"{dataset.name} {dataset.split}", unit="sample"):
        counts["samples"] += 1
        counts["objects"] += len(sample.regions)
        counts["samples with no such object"] += not sample.regions and not sample.turns
        counts["conversations"] += bool(sample.turns)
        if sample.image_path not in pictures:
            pictures[sample.image_path] = _look(sample.image_path, deep)
            counts["pictures"] += 1
        if not sample.turns:
            _check_expression(sample, found)
        fits = _check_picture(sample, pictures[sample.image_path], found)
        same = tuple(map(id, (*sample.regions, sample.ignored)))
        if fits and same != regions:  # the sentences of one reference share its regions
            _check_masks(sample, found)
        regions = same
    report.problems = _together(dataset.problems, found)
    _compare(report, dataset)
    return report


def _look(path: Path, deep: bool) -> Size | str:
    """The picture's size, or what is wrong with it."""
    size = picture_size(path)
    if deep and not isinstance(size, str):
        try:
            return Size(*load_image(path).size)
        except ImageError:
            return "the picture is damaged"
    return size


def _check_picture(sample: Sample, size: Size | str, found: Problems) -> bool:
    if isinstance(size, str):
        found.add("dropped", size, f"{sample.id}, {sample.image_path}")
    elif size != sample.size:
        told = f"{size.width} x {size.height} pixels, {sample.size.width} x {sample.size.height} expected"
        found.add("dropped", "the picture is of another size than annotated", f"{sample.id}, {sample.image_path}, {told}")
    return size == sample.size


def _check_expression(sample: Sample, found: Problems) -> None:
    try:
        validate_expression(sample.expression)
    except ExpressionError as error:
        found.add("dropped", "the expression can't be asked", f"{sample.id}: {error}")


def _check_masks(sample: Sample, found: Problems) -> None:
    try:
        masks = sample.masks()
        sample.ignore()
    except DataError as error:
        found.add("dropped", "a mask can't be decoded", f"{sample.id}: {error}")
        return
    if not all(mask.any() for mask in masks):
        found.add("dropped", "a mask is empty", sample.id)


def _together(*several: Problems) -> Problems:
    together = Problems()
    for problems in several:
        together.counts.update(problems.counts)
        together.first.extend(problems.first[: together.MOST_TOLD - len(together.first)])
    return together


def _compare(report: SplitReport, dataset: Dataset) -> None:
    """With what is published of the split."""
    published, units = published_count(dataset), getattr(dataset, "units", None)
    if published is None or units is None:
        return
    there = units()
    report.complete = there == published.count
    verdict = "as published" if report.complete else f"{published.count:,} are published"
    report.published = f"{there:,} {published.unit}, {verdict}"
