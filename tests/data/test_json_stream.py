"""Large JSON files are read a record at a time, whatever the pieces that they come in."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sam4mllm_tool.data import json_stream
from sam4mllm_tool.data.json_stream import stream_arrays
from sam4mllm_tool.errors import DataError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@example(told={"cut in a number": [0.5, -1e-7, 12]}, piece=1)
@given(told=st.dictionaries(st.text(max_size=5), st.lists(VALUES, max_size=5) | VALUES, max_size=5), piece=st.integers(1, 40))
def test_an_objects_arrays_come_back_record_by_record(
    tmp_path_factory: pytest.TempPathFactory, told: dict[str, Any], piece: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "told.json"
    path.write_text(json.dumps(told, indent=piece % 3 or None), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_PIECE", piece)
        records = list(stream_arrays(path))
    assert records == [(key, record) for key, value in told.items() if isinstance(value, list) for record in value]


def test_an_array_alone_has_no_key(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf [1, {"b": [2]}, "\xc3\xa9"] \n')
    assert list(stream_arrays(tmp_path / "a.json")) == [("", 1), ("", {"b": [2]}), ("", "\xe9")]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        pytest.param(b"", "at its start", id="an empty file"),
        pytest.param(b"<html>", "at its start", id="a web page"),
        pytest.param(b'{"images": [{"id": 1}, {"id": 2', "in record 1 of 'images'", id="cut in a record"),
        pytest.param(b'{"images": [{"id": 1}', "in record 0 of 'images'", id="cut after a record"),
        pytest.param(b'{"images": [{"id": 1}, {"id": }]}', "in record 1 of 'images'", id="no value"),
        pytest.param(b'{"images": [1 2]}', "in record 0 of 'images'", id="no comma"),
        pytest.param(b'{"images": [1,]}', "in record 0 of 'images'", id="a comma too many"),
        pytest.param(b'{"info": nul', "in 'info'", id="cut beside the arrays"),
        pytest.param(b"[1] [2]", "record 0", id="a second array"),
        pytest.param(b"[" * 5000, "in record 0", id="nested without end"),
    ],
)
def test_damage_is_told_by_file_and_record(tmp_path: Path, content: bytes, where: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=where) as told:
        list(stream_arrays(tmp_path / "a.json"))
    assert "a.json" in str(told.value)


def test_what_came_before_the_damage_has_been_given(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'[{"id": 1}, {"id": 2}, {"i')
    records = stream_arrays(tmp_path / "a.json")
    assert [next(records), next(records)] == [("", {"id": 1}), ("", {"id": 2})]
    with pytest.raises(DataError, match="record 2"):
        next(records)


def test_other_encodings_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["caf\xe9"]')
    with pytest.raises(DataError, match=r"a\.json is not UTF-8"):
        list(stream_arrays(tmp_path / "a.json"))
    with pytest.raises(DataError, match=r"b\.json is not there"):
        list(stream_arrays(tmp_path / "b.json"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    record = json.dumps({"id": 1, "segmentation": [[1.5] * 100]})
    peaks = []
    for count in (2_000, 8_000):
        (tmp_path / "a.json").write_text('{"annotations": [' + ",".join([record] * count) + "]}")
        tracemalloc.start()
        assert sum(1 for _ in stream_arrays(tmp_path / "a.json")) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 100_000
