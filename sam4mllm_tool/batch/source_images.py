"""Read the image of a planned row, wherever it is; each failure is an ImageError of that row."""

from collections.abc import Iterator
from typing import Any

from sam4mllm_tool.batch.archive_rows import PARQUET_OPTIONS
from sam4mllm_tool.batch.planned_rows import RowSource
from sam4mllm_tool.batch.storage import Storage, import_batch_library, open_storage
from sam4mllm_tool.errors import DataError, ImageError, quote_text
from sam4mllm_tool.images.load import ImagePolicy

__all__ = ["SourceImages"]

_ROWS_AT_ONCE = 16
"""Rows of a Parquet file whose images are in memory together."""


class SourceImages:
    """Opens images. Those of a Parquet file are read forwards: ask for them in the order of their rows.

    Args:
        policy: What may be opened, and how large it may be. URLs of http and https are fetched as it says.
        protocol: The input's protocol in fsspec, as in "s3": its URLs are opened without `policy.allow_urls`, too.
    """

    def __init__(self, policy: ImagePolicy, protocol: str) -> None:
        self._policy, self._protocol = policy, protocol
        self._storages: dict[str, Storage] = {}
        self._parquet: _ParquetReader | None = None

    def read(self, source: RowSource) -> str | bytes:
        """Return what `load_image` takes: an encoded image, or a path, a data URI or an http(s) URL as it is.

        Raises:
            ImageError: It can't be read.
        """
        try:
            if not isinstance(source, str):
                return self._read_parquet(source) if "parquet" in source else self._read_tar(source)
            protocol = source.partition("://")[0].lower() if "://" in source else ""
            if protocol in ("", "http", "https") or source.lstrip().lower().startswith("data:"):
                return source
            return self._read_url(source, protocol)
        except DataError as error:
            raise ImageError(str(error)) from error

    def _read_url(self, url: str, protocol: str) -> bytes:
        if protocol != self._protocol and not self._policy.allow_urls:
            raise ImageError(f"the image {quote_text(url)} is a URL: add --allow-url to open it")
        folder, _, name = url.rpartition("/")
        return self._open(folder).read(name, 0, self._policy.max_bytes + 1)

    def _read_tar(self, source: Any) -> bytes:
        folder, _, name = source["tar"].rpartition("/")
        end = source["offset"] + min(source["size"], self._policy.max_bytes + 1)
        return self._open(folder or "/").read(name, source["offset"], end)

    def _read_parquet(self, source: Any) -> bytes:
        place, row = (source["parquet"], source["group"]), source["row"]
        if self._parquet is None or self._parquet.place != place or self._parquet.row > row:
            self._parquet = _ParquetReader(self._open(source["parquet"]), place)
        return self._parquet.read(row)

    def _open(self, url: str) -> Storage:
        if url not in self._storages:
            self._storages[url] = open_storage(url)
        return self._storages[url]


class _ParquetReader:
    """Reads the images of one row group, forwards.

    Attributes:
        place: The file's URL, and the row group.
        row: The row that was read last; -1 before the first.
    """

    def __init__(self, storage: Storage, place: tuple[str, int]) -> None:
        self.place, self.row = place, -1
        self._values = self._iter_values(storage)
        self._value: Any = None

    def read(self, row: int) -> bytes:
        """Return the bytes of a row's image. Raises ImageError, DataError."""
        while self.row < row:
            self._value = next(self._values, None)
            self.row += 1
        value = self._value.get("bytes") if isinstance(self._value, dict) else self._value  # as the library datasets keeps it
        if not isinstance(value, bytes):
            raise ImageError("the row has no image: expected its bytes")
        return value

    def _iter_values(self, storage: Storage) -> Iterator[Any]:
        parquet = import_batch_library("pyarrow.parquet")
        with storage.reading(storage.path) as opened:
            table = parquet.ParquetFile(opened, **PARQUET_OPTIONS)
            options = {"batch_size": _ROWS_AT_ONCE, "row_groups": [self.place[1]], "columns": ["image"], "use_threads": False}
            for piece in table.iter_batches(**options):
                for value in piece.column(0):
                    yield value.as_py()
