"""The folder of a batch: a folder per result, and results.jsonl with a line per result, the failed ones included.

After an interruption the same command goes on: what has a result is not segmented again, what failed is tried again.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import write_json, write_text
from sam4mllm_tool.cli.batch_file import BatchItem
from sam4mllm_tool.cli.image_arguments import image_name
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.images.export import make_folder, write_outputs
from sam4mllm_tool.images.output_formats import DEFAULT_OUTPUTS
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.types import Image, Segmentation

__all__ = ["BatchResults", "make_record"]

RESULTS_FILE, SETTINGS_FILE = "results.jsonl", "batch.json"
_KEYS = ("name", "image", "expression")


def make_record(item: BatchItem, outcome: Segmentation | str) -> dict[str, Any]:
    """Return an item's line: its name, image and expression, with the result or the error's message."""
    key = "error" if isinstance(outcome, str) else "result"
    value = outcome if isinstance(outcome, str) else outcome.to_dict()
    return {**{name: getattr(item, name) for name in _KEYS}, key: value}


class BatchResults:
    """Reads and writes a batch's folder.

    Args:
        folder: A new folder, or that of an earlier run with these settings.
        settings: What the results depend on besides image and expression, as plain JSON.
        points: Whether the overlays show the points.
        formats: What to write of each result, keys of `OUTPUT_FORMATS`.

    Raises:
        Sam4MllmError: The folder can't be written to, or holds something else.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], *, points: bool = True, formats: Sequence[str] = DEFAULT_OUTPUTS
    ) -> None:
        self.folder, self.file, self._points, self._formats = folder, folder / RESULTS_FILE, points, formats
        make_folder(folder)
        self._require_settings(dict(settings))
        self._records = self._read()
        write_text(self.file, "".join(map(_format_line, self._records.values())))  # without a line that was cut off

    def find(self, item: BatchItem) -> dict[str, Any] | None:
        """Return the line of an item that has its result; None if it is still to be segmented."""
        record = self._records.get(item.name)
        return record if record and "result" in record and all(record[key] == getattr(item, key) for key in _KEYS) else None

    def write(self, item: BatchItem, image: Image, result: Segmentation) -> None:
        """Write a result into its folder, then its line. Raises Sam4MllmError."""
        name = image_name(item.source) or "image.png"
        write_outputs(self.folder / item.name, image, result, points=self._points, formats=self._formats, image_name=name)
        self.add(make_record(item, result))

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a line. Raises Sam4MllmError."""
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(_format_line(record))
        except OSError as error:
            raise Sam4MllmError(f"{quote_text(str(self.file))} can't be written: {error.strerror or error}") from error

    def _require_settings(self, settings: Mapping[str, Any]) -> None:
        file = self.folder / SETTINGS_FILE
        if not file.exists():
            if self.file.exists():
                raise Sam4MllmError(f"{quote_text(str(self.file))} is not of a batch: choose another folder for --out")
            write_json(file, settings)
            return
        try:
            before = dict(parse_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise Sam4MllmError(f"{quote_text(str(file))} is damaged, or not of a batch: choose another folder") from error
        names = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if names:
            changes = "; ".join(f"{name}: {before.get(name)} there, {settings.get(name)} now" for name in names)
            raise Sam4MllmError(
                f"{quote_text(str(self.folder))} holds results of other settings ({changes}): choose another folder"
            )

    def _read(self) -> dict[str, dict[str, Any]]:
        """Return the newest line of each name."""
        if not self.file.exists():
            return {}
        records: dict[str, dict[str, Any]] = {}
        lines = self.file.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                record = parse_json(line) if line.strip() else None
                if record is not None:
                    records[record["name"]] = {**dict.fromkeys(_KEYS), **record}
            except (ValueError, KeyError, TypeError) as error:
                if number < len(lines):  # only the last one can have been cut off by an interruption
                    raise Sam4MllmError(
                        f"{quote_text(str(self.file))}, line {number}, is damaged: choose another folder"
                    ) from error
        return records


def _format_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record) + "\n"
