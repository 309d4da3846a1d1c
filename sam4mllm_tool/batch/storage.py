"""Folders and files by path or by any URL that fsspec knows, and files that appear there whole or not at all."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import IO, Any

from sam4mllm_tool.errors import DataError, MissingExtraError, Sam4MllmError, quote_text
from sam4mllm_tool.text import first_line

__all__ = ["Storage", "import_batch_library", "open_storage"]

_TEMPORARY = "_temporary"
"""The folder of files that are being written. What kills leave behind is removed with it at the end of a job."""


def import_batch_library(name: str, extra: str = "batch") -> Any:
    """Import a library that only batch jobs need. Raises MissingExtraError."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(name.partition(".")[0], extra) from error


class Storage:
    """A file system of fsspec, and a place there.

    Args:
        fs: The file system.
        path: The place, as the file system names it.
        url: The place as the user names it, without a slash at the end.
    """

    def __init__(self, fs: Any, path: str, url: str) -> None:
        self.fs, self.path, self.url = fs, path.rstrip("/") or "/", url

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disks."""
        protocols = self.fs.protocol
        return "file" in ((protocols,) if isinstance(protocols, str) else protocols)

    def name_url(self, path: str) -> str:
        """Return a path of the file system so that `open_storage` takes it anywhere: an absolute path, or a URL."""
        return path if self.is_local else str(self.fs.unstrip_protocol(path))

    @property
    def absolute_url(self) -> str:
        """This place, as `name_url` names it."""
        return self.name_url(self.path)

    def has(self, name: str) -> bool:
        """Whether there is such a file in this folder."""
        return bool(self.fs.exists(f"{self.path}/{name}"))

    def list_sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of the files of this folder, by name; none where there is no folder. Raises DataError."""
        with _reporting("read", self.url):
            self.fs.invalidate_cache()  # other processes write files, too
            try:
                entries = self.fs.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
        return {str(entry["name"]).rpartition("/")[2]: int(entry["size"]) for entry in entries if entry["type"] == "file"}

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return a file's bytes, or those from `start` to `end`. Raises DataError."""
        with self._reporting("read", name):
            return bytes(self.fs.cat_file(f"{self.path}/{name}", start=start, end=end))

    @contextmanager
    def reading(self, path: str, compression: str | None = None) -> Iterator[IO[bytes]]:
        """Yield a file of the file system, by its whole path; what goes wrong in the block is a DataError that names it."""
        with _reporting("read", path), self.fs.open(path, "rb", compression=compression) as file:
            yield file

    def write(self, name: str, content: bytes) -> None:
        """Write a file of this folder: beside its place, then it is renamed. Raises DataError."""
        with self.writing(name) as file:
            file.write(content)

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """Yield a file to write to; it has its name once the block ends, and doesn't appear if the block raises.

        Raises:
            DataError: The folder can't be written to.
        """
        part = f"{self.path}/{_TEMPORARY}/{uuid.uuid4().hex}-{name}"
        with self._reporting("written", name):
            self.fs.makedirs(f"{self.path}/{_TEMPORARY}", exist_ok=True)
            file = self.fs.open(part, "wb")
        try:
            yield file
        finally:
            with self._reporting("written", name):
                file.close()
        with self._reporting("written", name):  # a rename on disks and in HDFS; object stores copy, then show the copy
            self.fs.mv(part, f"{self.path}/{name}")

    def remove_leftovers(self) -> None:
        """Remove what was being written when a job was killed. Raises DataError."""
        with self._reporting("written", _TEMPORARY):
            if self.fs.exists(f"{self.path}/{_TEMPORARY}"):
                self.fs.rm(f"{self.path}/{_TEMPORARY}", recursive=True)

    @contextmanager
    def _reporting(self, what: str, name: str) -> Iterator[None]:
        with _reporting(what, f"{self.url}/{name}"):
            yield


def open_storage(url: str) -> Storage:
    """Open a path or a URL; nothing needs to be there. Raises DataError, MissingExtraError."""
    fsspec = import_batch_library("fsspec.core")
    if not url.strip():
        raise DataError("the path is empty: give a file or a folder")
    if "::" in url:
        raise DataError(f"{quote_text(url)} is a chain of URLs, which are not opened: give the URL of the files themselves")
    url = url.rstrip("/") or "/"
    with _reporting("opened", url):
        fs, path = fsspec.url_to_fs(url)
        return Storage(fs, path, url)


@contextmanager
def _reporting(what: str, url: str) -> Iterator[None]:
    """Turn what a file system raises into a DataError; each of fsspec's has errors of its own."""
    try:
        yield
    except (Sam4MllmError, KeyboardInterrupt, GeneratorExit):
        raise
    except FileNotFoundError as error:
        raise DataError(f"{quote_text(url)} does not exist") from error
    except ImportError as error:
        raise MissingExtraError(f"the file system of {quote_text(url)} ({first_line(error)})") from error
    except Exception as error:
        raise DataError(f"{quote_text(url)} can't be {what}: {first_line(error)}") from error
