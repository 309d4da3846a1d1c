"""Segment the rows of one shard and write its file. A worker holds the models, and works off one shard after another.

What a shard's file holds depends on its rows alone, to the last bit: they are grouped by image in a fixed order, and what the
models keep from earlier rows is forgotten first, since it would change what is computed together, and by that the rounding.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from typing import TypeAlias

from sam4mllm_tool.batch.batch_config import BatchConfig
from sam4mllm_tool.batch.plan import read_plan
from sam4mllm_tool.batch.planned_rows import PlannedRow
from sam4mllm_tool.batch.shard_files import describe_error, new_shard_file
from sam4mllm_tool.batch.source_images import SourceImages
from sam4mllm_tool.batch.storage import open_storage
from sam4mllm_tool.data.batch_output import shard_name
from sam4mllm_tool.errors import BackendError, DataError, ImageError, MissingExtraError, Sam4MllmError, SpecError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.types import Segmentation

__all__ = ["ShardReport", "ShardWorker"]

_GROUP = 16
"""Expressions about one image that are segmented together; the image's encoding is kept between groups."""
_LEAST_FAILURES = 8
"""Where the models fail at all rows of a shard, and at as many at least, the job stops: its cause is not in the rows."""
_FIRST_MESSAGES = 20
_Outcome: TypeAlias = Segmentation | Sam4MllmError
_Group: TypeAlias = tuple[str | bytes, list[PlannedRow]]
"""An image as `load_image` takes it, with some of its rows."""


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        shard: Its number.
        rows: How many rows it has.
        errors: How many of them have an error.
        messages: The first errors, each with its row's place.
        warnings: The warnings of results, each once.
    """

    shard: int
    rows: int
    errors: int
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


class ShardWorker:
    """Loads the models, and works off shards.

    Args:
        config: The job.
        models: Used in place of the config's.

    Raises:
        DataError: The job has no plan yet.
        SpecError, MissingExtraError: The models can't be loaded.
    """

    def __init__(self, config: BatchConfig, models: Sam4Mllm | None = None) -> None:
        self._config, self._storage = config, open_storage(config.output)
        plan = read_plan(self._storage)
        if plan is None:
            raise DataError(f"{config.output} has no plan: run sam4mllm batch, or see that all machines share the folder")
        self._plan = plan
        self._protocol = config.input.url.partition("://")[0] if "://" in config.input.url else ""
        self._models = models or config.models.load()

    def work(self, shard: int, on_row: Callable[[], None] = lambda: None) -> ShardReport:
        """Segment a shard's rows and write its file.

        Args:
            shard: Its number.
            on_row: Called after each row.

        Raises:
            DataError: The plan can't be read or the file can't be written.
            BackendError: The models fail at every row.
            SpecError, MissingExtraError: The models can't do what is asked at all.
        """
        file, messages, warnings = new_shard_file(self._config.format), dict[int, str](), dict[str, None]()
        rows = self._plan.read_rows(shard)
        failures = list[str]()
        for row, outcome in self._segment_rows(rows):
            if isinstance(outcome, Segmentation):
                file.add(row, outcome)
                warnings |= dict.fromkeys(outcome.warnings)
            else:
                text = outcome if isinstance(outcome, str) else describe_error(outcome)
                file.add(row, text)
                failures += [text] if isinstance(outcome, BackendError) else []
                messages[row.row] = f"row {row.row} ({row.place}): {text}"
            on_row()
        if len(messages) == len(rows) and len(failures) >= _LEAST_FAILURES:
            raise BackendError(f"the models fail at all {len(failures)} rows of shard {shard} that can be used: {failures[0]}")
        self._storage.write(shard_name(shard, self._config.format), file.encode())
        first = tuple(messages[row] for row in sorted(messages)[:_FIRST_MESSAGES])
        return ShardReport(shard, len(rows), len(messages), first, tuple(warnings))

    def _segment_rows(self, rows: Sequence[PlannedRow]) -> Iterator[tuple[PlannedRow, _Outcome | str]]:
        """Yield each row with its outcome; those of one image together."""
        yield from ((row, row.error) for row in rows if row.error)
        self._models.forget()
        unreadable: list[tuple[PlannedRow, ImageError]] = []
        in_work: deque[_Group] = deque()

        def take_groups() -> Iterator[_Group]:
            for group in self._group_rows([row for row in rows if not row.error], unreadable):
                in_work.append(group)
                yield group

        for outcomes in self._segment_groups(take_groups()):
            image, group = in_work.popleft()
            if isinstance(outcomes, ImageError):
                yield from ((row, outcomes) for row in group)
                continue
            for row, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, BackendError) and len(group) > 1:  # perhaps because of another expression
                    outcome = self._segment_alone(image, row)
                if isinstance(outcome, SpecError | MissingExtraError):
                    raise outcome
                yield row, outcome
        yield from unreadable

    def _segment_alone(self, image: str | bytes, row: PlannedRow) -> _Outcome:
        (outcomes,) = self._segment_groups(iter([(image, [row])]))
        return outcomes if isinstance(outcomes, ImageError) else outcomes[0]

    def _segment_groups(self, groups: Iterator[_Group]) -> Iterator[Sequence[_Outcome] | ImageError]:
        config = self._config
        return self._models.segment_groups(
            ((image, [row.expression for row in rows]) for image, rows in groups),
            method=config.method,
            policy=config.policy,
            images_at_once=config.images_at_once,
            on_error="return",
        )

    def _group_rows(self, rows: Sequence[PlannedRow], unreadable: list[tuple[PlannedRow, ImageError]]) -> Iterator[_Group]:
        """Yield each image with some of its rows; rows whose image can't be read are added to `unreadable`."""
        for image, pairs in groupby(self._read_images(rows, unreadable), key=itemgetter(0)):
            while group := [row for _, row in islice(pairs, _GROUP)]:
                yield image, group

    def _read_images(
        self, rows: Sequence[PlannedRow], unreadable: list[tuple[PlannedRow, ImageError]]
    ) -> Iterator[tuple[str | bytes, PlannedRow]]:
        """Yield each row with its image, the rows of one image after another, which is read once."""
        images = SourceImages(self._config.policy, self._protocol)
        by_source: dict[str, list[PlannedRow]] = {}
        for row in rows:
            by_source.setdefault(str(row.source), []).append(row)
        for same in by_source.values():
            try:
                image = images.read(same[0].source)
            except ImageError as error:
                unreadable += [(row, error) for row in same]
            else:
                yield from ((image, row) for row in same)
