"""The rows of a whole training set, tokenized once into one file, so that an epoch costs no tokenizing and little memory.

The file is an SQLite database beside the checkpoints; it appears under its name once it is complete. It holds no images: each
is opened and run through the model's processor when its row is due.
"""

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sam4mllm_tool.atomic_io import atomic_path
from sam4mllm_tool.data.training_conversations import read_conversations
from sam4mllm_tool.errors import DataError, ExpressionError, ImageError, SpecError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, PlaceholderExpansion
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.training.row_builder import RowBuilder, TokenRow

__all__ = ["RowWithImage", "TokenizedDataset", "write_rows"]


@dataclass(frozen=True, eq=False)
class RowWithImage:
    """A row and the processor's tensors for its image.

    Attributes:
        row: The tokens.
        image_inputs: Tensors for the image, such as `pixel_values`.
        token_inputs: Tensors with a value per token, (1, n), such as `token_type_ids`.
    """

    row: TokenRow
    image_inputs: dict[str, Tensor]
    token_inputs: dict[str, Tensor]


def write_rows(conversations_dir: Path, file: Path, builder: RowBuilder) -> Counter[str]:
    """Tokenize the training conversations of a folder into `file`.

    Returns:
        How many images with conversations ("lessons"), rows and predicted tokens ("taught") there are; the keys are those of
        training.json.

    Raises:
        DataError: A conversation can't be used, or nothing is left to learn.
        OSError: The file can't be written.
    """
    counts: Counter[str] = Counter()
    with atomic_path(file) as part:
        try:
            database = sqlite3.connect(part)
            try:
                _fill(database, conversations_dir, builder, counts)
            finally:
                database.close()
        except sqlite3.Error as error:
            raise OSError(f"the rows can't be written to {file}: {error}") from error
        if not counts["rows"]:
            why = ", ".join(f"{count:,} {reason}" for reason, count in builder.dropped.items()) or "the folder is empty"
            raise DataError(f"the training conversations in {conversations_dir} leave nothing to learn: {why}")
    return counts


def _fill(database: sqlite3.Connection, conversations_dir: Path, builder: RowBuilder, counts: Counter[str]) -> None:
    expansions: dict[
        tuple[int, int], list[PlaceholderExpansion]
    ] = {}  # how many tokens an image takes depends on its size alone
    database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, image TEXT, rendered TEXT, tokens INTEGER, body BLOB)")
    for conversations in tqdm(
        read_conversations(conversations_dir), desc="tokenizing", unit="image", mininterval=2, disable=None
    ):
        path = (conversations_dir / conversations.image).resolve()
        try:
            image = load_image(path)
            rows = builder.build_rows(conversations, ImageInputs(image, expansions=expansions.setdefault(image.size, [])))
        except (ImageError, DataError, ExpressionError, SpecError) as error:
            raise DataError(f"{conversations_dir}, training conversations {conversations.id!r}: {error}") from error
        _insert_rows(database, counts["rows"], path, rows)
        counts.update(lessons=1, rows=len(rows), taught=sum(int(row.predicted.sum()) for row in rows))
    database.execute("CREATE TABLE counts (what TEXT, count INTEGER)")
    database.executemany("INSERT INTO counts VALUES (?, ?)", [*counts.items(), *builder.dropped.items()])
    database.commit()


def _insert_rows(database: sqlite3.Connection, first: int, path: Path, rows: Iterable[TokenRow]) -> None:
    database.executemany(
        "INSERT INTO rows VALUES (?, ?, ?, ?, ?)",
        [
            (
                number,
                str(path),
                row.rendered,
                len(row),
                np.stack([row.ids, row.parents, row.predicted.astype(np.int32)]).tobytes(),
            )
            for number, row in enumerate(rows, start=first)
        ],
    )


class TokenizedDataset(Dataset[RowWithImage]):
    """The rows in a file that `write_rows` wrote, each with its image as the model's processor prepares it.

    Taking a row raises DataError if its image changed or is gone.

    Attributes:
        lengths: Number of tokens of every row.
        counts: Numbers of images, rows, predicted tokens, and of what was left out, by reason.
    """

    def __init__(self, file: Path, prompter: PromptRenderer, placeholder: int) -> None:
        self.file, self.prompter, self.placeholder = file, prompter, placeholder
        self._connections: dict[int, sqlite3.Connection] = {}
        self.counts: dict[str, int] = dict(self._database.execute("SELECT what, count FROM counts"))
        self.lengths: list[int] = [tokens for (tokens,) in self._database.execute("SELECT tokens FROM rows ORDER BY number")]

    @property
    def _database(self) -> sqlite3.Connection:
        """This process's own connection: connections don't survive a fork."""
        if os.getpid() not in self._connections:
            uri = f"{self.file.resolve().as_uri()}?mode=ro"
            self._connections[os.getpid()] = sqlite3.connect(uri, uri=True, check_same_thread=False)
        return self._connections[os.getpid()]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> RowWithImage:
        query = "SELECT image, rendered, body FROM rows WHERE number = ?"
        image, rendered, body = self._database.execute(query, (number,)).fetchone()
        ids, parents, predicted = np.frombuffer(body, np.int32).reshape(3, -1)
        row = TokenRow(ids, parents, predicted.astype(np.bool_), rendered)
        try:
            inputs = self.prompter.prepare(load_image(image), rendered)
        except ImageError as error:
            raise DataError(f"the image of a training conversation can't be opened any more: {error}") from error
        prompt_ids = inputs.pop("input_ids")
        if int((prompt_ids == self.placeholder).sum()) != int((ids == self.placeholder).sum()):
            raise DataError(f"{image} takes a different number of tokens than before: the image or the model has changed")
        per_token = {name for name, value in inputs.items() if value.shape == prompt_ids.shape}
        return RowWithImage(
            row,
            {name: value for name, value in inputs.items() if name not in per_token},
            {name: _extend_to_answer(inputs[name], len(row)) for name in per_token},
        )


def _extend_to_answer(value: Tensor, length: int) -> Tensor:
    """Pad with 0, which marks text, for the tokens after the prompt."""
    return F.pad(value, (0, length - value.shape[1]))
