"""Segment several expressions in one process: an image at a time, one item's error leaving the others alone."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from sam4mllm_tool.cli.batch_file import BatchFault, BatchItem
from sam4mllm_tool.cli.batch_results import BatchResults, make_record
from sam4mllm_tool.cli.image_arguments import image_name, is_path, open_image
from sam4mllm_tool.cli.messages import print_warnings, say
from sam4mllm_tool.errors import ImageError, Sam4MllmError, count_noun, quote_text
from sam4mllm_tool.images.export import summary
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.images.output_formats import list_file_names
from sam4mllm_tool.types import Image, Segmentation

if TYPE_CHECKING:
    from sam4mllm_tool.config import Method
    from sam4mllm_tool.pipeline.lockstep import OnError
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["refuse_overwriting_images", "run_batch"]

_GROUP = 16
"""Expressions about one image that are segmented together."""
Outcome = tuple[BatchItem, Image | None, Segmentation | str]
"""An item with its image and result, or with the message of its error."""


class _Report:
    """Prints and counts outcomes, and keeps them in a folder if there is one."""

    def __init__(self, results: BatchResults | None, as_json: bool) -> None:
        self._results, self._as_json = results, as_json
        self._warnings: set[str] = set()
        self.done = self.failed = 0

    def add_fault(self, fault: BatchFault) -> None:
        self._print_failure(f"{fault.place}: {fault.reason}")

    def add(self, outcome: Outcome) -> None:
        item, image, result = outcome
        if isinstance(result, str) or image is None:
            self._print_failure(f"{item.describe()}: {result}")
            if self._results:
                self._results.add(make_record(item, result))
        else:
            if self._results:
                self._results.write(item, image, result)
            self.done += 1
            print_warnings(result.warnings, self._warnings)
        if self._as_json:
            self.print_record(make_record(item, result))
        elif not isinstance(result, str):
            tqdm.write(f"{item.image}: {summary(result, with_warnings=False)}", file=sys.stdout)

    def print_record(self, record: dict[str, Any]) -> None:
        tqdm.write(json.dumps(record), file=sys.stdout)

    def say_ended(self, count: int, how: str = "interrupted") -> None:
        """Say how far the batch came."""
        advice = "; the same command goes on" if self._results else ""
        say(f"{how} after {self.done:,} of {count_noun(count, 'result')}{advice}")

    def _print_failure(self, message: str) -> None:
        self.failed += 1
        say(message)


def run_batch(
    items: Sequence[BatchItem],
    faults: Sequence[BatchFault],
    load: Callable[[], "Sam4Mllm"],
    *,
    method: "Method",
    policy: ImagePolicy,
    results: BatchResults | None,
    as_json: bool,
    on_error: "OnError" = "return",
) -> int:
    """Segment the items, print each result, and return the exit code: 1 if one of them failed.

    Args:
        items: What to segment.
        faults: Lines that can't be used; they are printed, and count as failed.
        load: Loads the models; not called where nothing is left to do.
        method: How to segment.
        policy: Which images may be opened.
        results: Where to keep the results; None only prints them.
        as_json: Print a line of JSON per result in place of the summary.
        on_error: "return" reports an item's error and goes on; "raise" ends the batch after reporting it.

    Raises:
        Sam4MllmError: There is nothing to segment, or a file can't be written.
    """
    report = _Report(results, as_json)
    for fault in faults:
        report.add_fault(fault)
    records = [(item, results.find(item) if results else None) for item in items]
    pending = [item for item, record in records if record is None]
    if results and len(pending) < len(items):
        count = f"{len(items) - len(pending):,} of {count_noun(len(items), 'result')}"
        say(f"{count} in {quote_text(str(results.folder))} already; remove {results.file.name} there to segment all again")
    for _, record in records if as_json else ():
        if record:
            report.print_record(record)
    missing = [item for item in pending if is_path(item.source) and not _exists(item.source)]
    if not items or len(missing) == len(items):
        names = ", ".join(sorted({quote_text(item.image) for item in missing})[:3])
        raise Sam4MllmError(f"none of the images exists: {names}" if missing else "no line can be used; nothing was segmented")
    if pending:
        _segment(_segment_items(load(), pending, method, policy), len(pending), report, on_error)
    if results and not as_json:
        print(f"wrote {results.file}: {count_noun(report.done, 'new result')}, {count_noun(report.failed, 'error')}")
    return 1 if report.failed else 0


def _exists(source: str) -> bool:
    try:
        return Path(source).exists()
    except (OSError, ValueError):
        return False


def _segment(outcomes: Iterator[Outcome], count: int, report: _Report, on_error: "OnError") -> None:
    began = time.perf_counter()
    bar = tqdm(total=count, desc="segment", unit="expression", disable=None)
    failed = report.failed
    try:
        for outcome in outcomes:
            report.add(outcome)
            bar.update()
            if on_error == "raise" and report.failed > failed:
                report.say_ended(count, "ended by an error")
                return
    except KeyboardInterrupt:
        bar.close()
        report.say_ended(count)
        raise
    finally:
        bar.close()
    seconds = time.perf_counter() - began
    say(f"segmenting took {seconds:.1f} s, {seconds / count:.1f} s per expression")


def _segment_items(models: "Sam4Mllm", items: Sequence[BatchItem], method: "Method", policy: ImagePolicy) -> Iterator[Outcome]:
    """Yield an outcome per item, those of one image together."""
    by_source: dict[str, list[BatchItem]] = {}
    for item in items:
        by_source.setdefault(item.source, []).append(item)
    for source, group in by_source.items():
        try:
            image = open_image(source, policy)
        except ImageError as error:
            yield from ((item, None, str(error)) for item in group)
            continue
        rest = iter(group)
        while part := list(islice(rest, _GROUP)):
            yield from _segment_group(models, image, part, method)


def _segment_group(models: "Sam4Mllm", image: Image, items: Sequence[BatchItem], method: "Method") -> Iterator[Outcome]:
    try:
        outcomes = models.segment_group(image, [item.expression for item in items], method=method)
    except Sam4MllmError as error:  # a model failed, perhaps because of one of them
        if len(items) == 1:
            yield items[0], image, str(error)
        else:
            for item in items:
                yield from _segment_group(models, image, [item], method)
        return
    for item, outcome in zip(items, outcomes, strict=True):
        yield item, image, outcome if isinstance(outcome, Segmentation) else str(outcome)


def refuse_overwriting_images(items: Sequence[BatchItem], folder: Path, formats: Sequence[str]) -> None:
    """Refuse to write a result in these formats over one of the images. Raises Sam4MllmError."""
    names = {item.name: list_file_names(formats, image_name(item.source) or "image.png") for item in items}
    outputs = {(folder / item / name).resolve() for item, files in names.items() for name in files}
    for item in items:
        if is_path(item.source) and _exists(item.source) and Path(item.source).resolve() in outputs:
            raise Sam4MllmError(f"--out would replace the image {quote_text(item.image)} itself: choose another folder")
