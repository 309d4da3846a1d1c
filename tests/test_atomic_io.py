"""Files are whole or absent, whatever interrupts the write."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sam4mllm_tool.atomic_io import atomic_path, file_sha256, write_bytes, write_files, write_json, write_text


def test_text_is_utf8_with_its_own_newlines(tmp_path: Path) -> None:
    write_text(tmp_path / "text", "ключ\r\nend")
    assert (tmp_path / "text").read_bytes() == "ключ\r\nend".encode()


@pytest.mark.parametrize(("ascii_only", "written"), [(False, '"ключ"'), (True, r'"\u043a\u043b\u044e\u0447"')])
def test_json_is_indented_and_ends_with_a_newline(tmp_path: Path, ascii_only: bool, written: str) -> None:
    write_json(tmp_path / "value.json", {"key": "ключ"}, ensure_ascii=ascii_only)
    assert (tmp_path / "value.json").read_text(encoding="utf-8") == f'{{\n  "key": {written}\n}}\n'


def test_a_value_that_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", [object()])
    assert json.loads((tmp_path / "value.json").read_text()) == [1]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        write_bytes(tmp_path / "pipe", b"new")
    assert [(path.name, path.is_fifo()) for path in tmp_path.iterdir()] == [("pipe", True)]


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / "file.png"
    write_bytes(target, b"old")
    with pytest.raises(UnicodeEncodeError), atomic_path(target) as part:
        part.write_text("half \udc80", encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["file.png"]
    assert target.read_bytes() == b"old"


def test_the_target_keeps_its_content_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "file.png"
    write_bytes(target, b"old")
    with atomic_path(target) as part:
        part.write_bytes(b"new")
        assert (part.parent, part.suffix, target.read_bytes()) == (tmp_path, ".png", b"old")
    assert target.read_bytes() == b"new"


def test_concurrent_writers_of_one_target_leave_one_whole_file(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda content: write_bytes(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_that_belong_together_are_of_one_writer(tmp_path: Path) -> None:
    names = [f"{number}.json" for number in range(5)]
    stop = threading.Event()

    def write(writer: int) -> None:
        while not stop.is_set():
            write_files(tmp_path, dict.fromkeys(names, b"%d" % writer))

    def look() -> set[bytes]:
        descriptor = os.open(tmp_path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        try:
            return {(tmp_path / name).read_bytes() for name in names}
        finally:
            os.close(descriptor)

    write_files(tmp_path, dict.fromkeys(names, b"0"))
    with ThreadPoolExecutor(3) as threads:
        writers = [threads.submit(write, writer) for writer in range(3)]
        looks = [look() for _ in range(100)]
        stop.set()
        assert [writer.result() for writer in writers] == [None] * 3
    assert all(len(contents) == 1 for contents in looks)
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_files_that_belong_together_are_all_replaced_or_none(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"old", "b": b"old"})
    os.mkfifo(tmp_path / "c")
    with pytest.raises(OSError, match="it is not a regular file"):
        write_files(tmp_path, {"a": b"new", "b": b"new", "c": b"new"})
    assert [(tmp_path / name).read_bytes() for name in "ab"] == [b"old", b"old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys
from sam4mllm_tool.atomic_io import write_files
pathlib.Path.replace = lambda *_: os._exit(9)
write_files(pathlib.Path(sys.argv[1]), {"mask.png": b"half", "result.json": b"half"})
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    (tmp_path / ".mine.part.png").touch()
    assert len(list(tmp_path.iterdir())) == 3
    write_files(tmp_path, {"mask.png": b"new", "result.json": b"new"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.part.png", "mask.png", "result.json"]


def test_a_file_has_the_permissions_of_an_ordinary_new_file(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_bytes(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("ordinary", "atomic")]  # noqa: PTH116
    assert modes[0] == modes[1]


def test_a_folder_that_does_not_exist_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "absent" / "file", "")


def test_sha256_equals_the_published_test_vector(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
