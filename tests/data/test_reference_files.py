"""Reference pickles are read without running any code that they name."""

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest

from sam4mllm_tool.data.reference_files import load_plain_pickle
from sam4mllm_tool.errors import DataError
from tests.data.layouts import reference, write_pickle

REFERENCES = [reference(1, 7, 3, "val", "the caf\xe9 sign"), reference(2, [4, -1], 3, "testA")]


class FolderCreator:
    """Creates a folder when unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("python2", [True, False], ids=["byte strings of Python 2", "strings of Python 3"])
def test_references_come_back_as_written(tmp_path: Path, python2: bool) -> None:
    write_pickle(tmp_path / "refs.p", REFERENCES, python2=python2)
    assert load_plain_pickle(tmp_path / "refs.p") == REFERENCES


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = [{"a": (1, 2.5, None, True)}, {"set": {1, 2}, "odd": 2**70}, OrderedDict(a=1)]
    (tmp_path / "plain.p").write_bytes(pickle.dumps(value, protocol))
    assert load_plain_pickle(tmp_path / "plain.p") == value


def test_python_2s_names_of_builtins_are_known(tmp_path: Path) -> None:
    (tmp_path / "old.p").write_bytes(b"c__builtin__\nset\n((lI1\naI2\natR.")
    assert load_plain_pickle(tmp_path / "old.p") == {1, 2}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        pytest.param(b"cos\nsystem\n(S'echo'\ntR.", "os.system", id="a command"),
        pytest.param(b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval", id="a dangerous builtin"),
        pytest.param(b"cbuiltins\ngetattr\n(S'a'\nS'b'\ntR.", "builtins.getattr", id="a way to any other function"),
        pytest.param(b"cbuiltins\nbytearray\n(I99999999999999\ntR.", "builtins.bytearray", id="all of the memory"),
        pytest.param(b"cno.such.module\nName\n.", "no.such.module.Name", id="a module that does not exist"),
    ],
)
def test_any_other_class_is_an_error_and_is_not_called(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "refs.p").write_bytes(content)
    with pytest.raises(DataError, match=named) as caught:
        load_plain_pickle(tmp_path / "refs.p")
    assert "refs.p" in str(caught.value)


def test_a_pickle_that_names_a_function_does_not_run_it(tmp_path: Path) -> None:
    write_pickle(tmp_path / "refs.p", [*REFERENCES, FolderCreator(tmp_path / "made")])
    with pytest.raises(DataError, match="mkdir"):
        load_plain_pickle(tmp_path / "refs.p")
    assert not (tmp_path / "made").exists()


def test_every_truncation_of_a_pickle_is_an_error(tmp_path: Path) -> None:
    write_pickle(tmp_path / "whole.p", REFERENCES)
    whole = (tmp_path / "whole.p").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.p").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut\.p is damaged or no pickle"):
            load_plain_pickle(tmp_path / "cut.p")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<html>Not found</html>", id="a web page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", id="a pointer to the file"),
        pytest.param(b"\x80\x63.", id="a future protocol"),
        pytest.param(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", id="bytes without end"),
        pytest.param(b"0.", id="an empty stack"),
        pytest.param(b"I1\n(I1\nI2\nu.", id="entries of a number"),
        pytest.param(b"cset\n", id="half a name"),
        pytest.param(b"h\x05.", id="a memo entry that does not exist"),
    ],
)
def test_a_file_that_is_no_pickle_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(content)
    with pytest.raises(DataError, match=r"refs\.p is damaged or no pickle"):
        load_plain_pickle(tmp_path / "refs.p")


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"refs\.p does not exist"):
        load_plain_pickle(tmp_path / "refs.p")
