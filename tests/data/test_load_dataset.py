"""`load_dataset` finds the reader, and lists the alternatives where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

import sam4mllm_tool.data
from sam4mllm_tool.data import DATASETS, PUBLISHED_COUNTS, load_dataset
from sam4mllm_tool.errors import DataError, MissingExtraError
from tests.data.layouts import SQUARE, SQUARE_XYWH, annotation, reference, write_family

NAMES = ["refcoco", "refcoco+", "refcocog", "grefcoco", "reasonseg", "vqa", "ade20k", "paco", "partimagenet", "jsonl"]


def test_the_dataset_names_are_stable() -> None:
    assert list(DATASETS) == NAMES
    assert set(PUBLISHED_COUNTS) <= set(NAMES)
    assert all(hasattr(sam4mllm_tool.data, name) for name in sam4mllm_tool.data.__all__)


def test_importing_data_loads_neither_pycocotools_nor_ijson_nor_a_model_library() -> None:
    program = (
        "import sys, sam4mllm_tool.data, sam4mllm_tool.data.jsonl, sam4mllm_tool.data.refcoco;"
        "print(*[name for name in ('pycocotools', 'ijson', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == ""


def test_an_unknown_name_is_an_error_that_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'refcoc'; expected one of refcoco, refcoco\+") as caught:
        load_dataset("refcoc", tmp_path)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_option_is_an_error_that_lists_the_options(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refcoco has no option image; its options are split_by, images, annotations"):
        load_dataset("refcoco", tmp_path, image="here")


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_root_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="nowhere"):
        load_dataset(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_root_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=tmp_path.name):
        list(load_dataset(name, tmp_path))


def test_without_pycocotools_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_family(tmp_path, [reference(1, 1, 1, "train", "it")], [annotation(1, 1, [SQUARE], SQUARE_XYWH)])
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sam4mllm-tool\[train\]"'):
        load_dataset("refcoco", root)
