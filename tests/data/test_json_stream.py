"""Large JSON files are read record by record, whatever the chunks that they are parsed in."""

import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sam4mllm_tool.data import json_stream
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.errors import DataError, MissingExtraError

INTEGERS = st.integers(-(2**63) + 1, 2**63 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=30)
@example(arrays={"images": [0.5, -1e-7, 12]}, other=3, chunk_bytes=1)
@given(
    arrays=st.dictionaries(st.sampled_from(["images", "annotations"]), st.lists(VALUES, max_size=5)),
    other=VALUES,
    chunk_bytes=st.integers(1, 40),
)
def test_arrays_come_back_record_by_record_in_any_chunks(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any], other: Any, chunk_bytes: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "arrays.json"
    path.write_text(json.dumps({"info": other, **arrays}, indent=chunk_bytes % 3 or None), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_BYTES", chunk_bytes)
        records = list(stream_arrays(path, "images", "annotations"))
    for key in ("images", "annotations"):
        assert [record for name, record in records if name == key] == arrays.get(key, [])


def test_numbers_keep_the_types_that_json_gives_them(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 1.0, 1e2, -0.25]")
    assert [(type(record), record) for _, record in stream_arrays(tmp_path / "a.json")] == [
        (int, 1),
        (float, 1.0),
        (float, 100.0),
        (float, -0.25),
    ]


def test_an_array_alone_has_no_key_and_may_follow_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf [1, {"b": [2]}, "\xc3\xa9"] \n')
    assert list(stream_arrays(tmp_path / "a.json")) == [("", 1), ("", {"b": [2]}), ("", "\xe9")]


@pytest.mark.parametrize(
    ("content", "position"),
    [
        pytest.param(b"", "at the start", id="an empty file"),
        pytest.param(b"<html>", "at the start", id="a web page"),
        pytest.param(b'{"images": [{"id": 1}, {"id": 2', "after record 0 of 'images'", id="truncated in a record"),
        pytest.param(b'{"images": [{"id": 1}, {"id": 2}', "after record 1 of 'images'", id="truncated after a record"),
        pytest.param(b'{"images": [{"id": 1}, {"id": }]}', "after record 0 of 'images'", id="no value"),
        pytest.param(b'{"images": [1 2]}', "after record 0 of 'images'", id="no comma"),
        pytest.param(b'{"images": [1,]}', "after record 0 of 'images'", id="a trailing comma"),
        pytest.param(b'{"info": nul', "at the start", id="truncated outside the arrays"),
        pytest.param(b'{"images": [1]} [2]', "after record 0 of 'images'", id="a second value"),
        pytest.param(b'{"images": ' + b"[" * 5000, "at the start", id="nested without end"),
        pytest.param(b'{"images": ["caf\xe9"]}', "at the start", id="another encoding"),
    ],
)
def test_damage_is_an_error_that_names_the_file_and_the_last_record(tmp_path: Path, content: bytes, position: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.json is damaged or not JSON in UTF-8, {position}: \w"):
        list(stream_arrays(tmp_path / "a.json", "images"))


def test_records_before_the_damage_are_yielded(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"id": 1}, {"id": 2}, {"i')
    records = stream_arrays(tmp_path / "a.json")
    assert [next(records), next(records)] == [("", {"id": 1}), ("", {"id": 2})]
    with pytest.raises(DataError, match="after record 1 of the array"):
        next(records)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.json does not exist"):
        list(stream_arrays(tmp_path / "b.json"))


def test_without_ijson_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("[]")
    monkeypatch.setitem(sys.modules, "ijson", None)
    with pytest.raises(MissingExtraError, match=r'ijson is not installed: pip install "sam4mllm-tool\[train\]"'):
        list(stream_arrays(tmp_path / "a.json"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 1 << 14)
    record = json.dumps({"id": 1, "segmentation": [[1.5] * 100]})
    peaks = []
    for count in (200, 1_600):  # from 100 kB on
        (tmp_path / "a.json").write_text('{"annotations": [' + ",".join([record] * count) + "]}")
        tracemalloc.start()
        assert sum(1 for _ in stream_arrays(tmp_path / "a.json", "images", "annotations")) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 20_000
