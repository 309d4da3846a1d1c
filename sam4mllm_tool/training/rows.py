"""The rows of all lessons, made once and kept in one file, so that an epoch costs no tokenising and no memory.

The file is an SQLite data base beside the checkpoints; it appears under its name once it is whole. Pictures are not in it:
each is opened and run through the model's processor when its row is due.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sam4mllm_tool.data.training_conversations import ImageConversations, read_conversations
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError, SpecError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PlaceholderExpansion, PromptRenderer
from sam4mllm_tool.training.examples import Maker, Row

__all__ = ["Item", "Rows", "make_rows"]


@dataclass(frozen=True, eq=False)
class Item:
    """A row with its picture. inputs: the processor's tensors for the picture; along: those that run along the ids, (1, n)."""

    row: Row
    inputs: dict[str, Tensor]
    along: dict[str, Tensor]


def make_rows(lessons: Path, file: Path, maker: Maker) -> Counter[str]:
    """Writes the rows of a folder of lessons; returns how many lessons and rows there are and how much was left out.

    Raises DataError naming the lesson that can't be used, or where nothing is left.
    """
    beside = file.with_suffix(".part")
    beside.unlink(missing_ok=True)
    counts: Counter[str] = Counter()
    expansions: dict[
        tuple[int, int], list[PlaceholderExpansion]
    ] = {}  # how many tokens a picture takes depends on its size alone
    data = sqlite3.connect(beside)
    try:
        data.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, image TEXT, rendered TEXT, tokens INTEGER, body BLOB)")
        for lesson in tqdm(read_conversations(lessons), desc="lessons to tokens", unit="lesson", mininterval=2):
            counts["lessons"] += 1
            path = (lessons / lesson.image).resolve()
            made = _rows_of(lesson, path, maker, expansions, lessons)
            _insert(data, counts["rows"], path, made)
            counts["rows"] += len(made)
            counts["taught"] += sum(int(row.taught.sum()) for row in made)
        data.execute("CREATE TABLE counts (what TEXT, count INTEGER)")
        data.executemany("INSERT INTO counts VALUES (?, ?)", [*counts.items(), *maker.dropped.items()])
        data.commit()
    except sqlite3.Error as error:
        raise OSError(f"the rows can't be written to {beside}: {error}") from error
    finally:
        data.close()
    if not counts["rows"]:
        why = ", ".join(f"{count:,} {what}" for what, count in maker.dropped.items()) or "the folder is empty"
        raise DataError(f"the lessons in {lessons} leave nothing to learn: {why}")
    beside.replace(file)
    return counts


def _rows_of(
    lesson: ImageConversations,
    path: Path,
    maker: Maker,
    expansions: dict[tuple[int, int], list[PlaceholderExpansion]],
    lessons: Path,
) -> list[Row]:
    try:
        image = load_image(path)
        return maker.rows(lesson, ImageInputs(image, expansions=expansions.setdefault(image.size, [])))
    except (ImageError, DataError, ExpressionError, SpecError) as error:
        raise DataError(f"{lessons}, lesson {lesson.id!r}: {error}") from error


def _insert(data: sqlite3.Connection, first: int, path: Path, rows: Iterable[Row]) -> None:
    data.executemany(
        "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
        [
            (number, str(path), row.rendered, len(row), np.stack([row.ids, row.parents, row.taught.astype(np.int32)]).tobytes())
            for number, row in enumerate(rows, start=first)
        ],
    )


class Rows(Dataset[Item]):
    """The rows in a file that `make_rows` wrote, each with its picture as the model's processor prepares it.

    lengths: how many tokens each has. counts: of lessons, rows, taught tokens, and what was left out.
    Raises DataError, when a row is taken, for a picture that changed or went away.
    """

    def __init__(self, file: Path, prompter: PromptRenderer, placeholder: int) -> None:
        self.file, self.prompter, self.placeholder = file, prompter, placeholder
        self._connections: dict[int, sqlite3.Connection] = {}
        self.counts: dict[str, int] = dict(self._data.execute("SELECT what, count FROM counts"))
        self.lengths: list[int] = [tokens for (tokens,) in self._data.execute("SELECT tokens FROM rows ORDER BY number")]

    @property
    def _data(self) -> sqlite3.Connection:
        """This process's own: a connection doesn't survive a fork."""
        if os.getpid() not in self._connections:
            uri = f"{self.file.resolve().as_uri()}?mode=ro"
            self._connections[os.getpid()] = sqlite3.connect(uri, uri=True, check_same_thread=False)
        return self._connections[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Item:
        image, rendered, body = self._data.execute(
            "SELECT image, rendered, body FROM rows WHERE number = ?", (number,)
        ).fetchone()
        ids, parents, taught = np.frombuffer(body, np.int32).reshape(3, -1)
        row = Row(ids, parents, taught.astype(np.bool_), rendered)
        try:
            prepared = self.prompter.prepare(load_image(image), rendered)
        except ImageError as error:
            raise DataError(f"the picture of a lesson can't be opened any more: {error}") from error
        read = prepared.pop("input_ids")
        if int((read == self.placeholder).sum()) != int((ids == self.placeholder).sum()):
            raise DataError(f"{image} takes another number of tokens than before: it was changed, or the model was")
        along = {name: _padded(value, len(row)) for name, value in prepared.items() if value.shape == read.shape}
        return Item(row, {name: value for name, value in prepared.items() if name not in along}, along)


def _padded(value: Tensor, length: int) -> Tensor:
    """0, text, for the tokens after the prompt."""
    return torch.nn.functional.pad(value, (0, length - value.shape[1]))
