"""What `sam4mllm batch` takes: each format gives the same rows and the same results."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from sam4mllm_tool.batch.row_inputs import RowInput
from sam4mllm_tool.errors import DataError
from tests.batch.batch_inputs import list_outcomes, read_rows, run_embedded, save_scenes, write_lines

Expected = list[tuple[str, str]]


@pytest.fixture
def pairs(tmp_path: Path) -> Expected:
    """The images and expressions of every input, which lie in the folder `images`."""
    return save_pairs(tmp_path)


def save_pairs(folder: Path) -> Expected:
    return [(name, text) for name, texts in save_scenes(folder / "images").items() for text in texts]


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def make_jsonl(folder: Path, pairs: Expected) -> Path:
    return write_lines(folder / "rows.jsonl", [{"image": f"images/{name}", "expression": text} for name, text in pairs])


def make_coco(folder: Path, pairs: Expected) -> Path:
    names = list(dict.fromkeys(name for name, _ in pairs))
    images = [{"id": number, "file_name": f"images/{name}"} for number, name in enumerate(names)]
    annotations = [{"image_id": names.index(name), "caption": text} for name, text in pairs]
    path = folder / "captions.json"
    path.write_text(json.dumps({"annotations": annotations, "images": images}))
    return path


def make_parquet_of_bytes(folder: Path, pairs: Expected) -> Path:
    rows = [{"image": (folder / "images" / name).read_bytes(), "expression": text} for name, text in pairs]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=3)
    return folder / "rows.parquet"


def make_parquet_of_datasets(folder: Path, pairs: Expected) -> Path:
    rows = [
        {"image": {"bytes": (folder / "images" / name).read_bytes(), "path": name}, "expression": [text]}
        for name, text in pairs
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def make_parquet_of_paths(folder: Path, pairs: Expected) -> Path:
    rows = [{"image": f"images/{name}", "expression": text} for name, text in pairs]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def make_webdataset(folder: Path, pairs: Expected) -> Path:
    (folder / "shards").mkdir()
    for index, name in enumerate(dict.fromkeys(name for name, _ in pairs)):
        with tarfile.open(folder / "shards" / f"{index}.tar", "w") as archive:
            texts = [text for other, text in pairs if other == name]
            add_member(archive, f"000.{name.rpartition('.')[2]}", (folder / "images" / name).read_bytes())
            if index:
                add_member(archive, "000.json", json.dumps({"expressions": texts}).encode())
            else:
                add_member(archive, "000.txt", "\n".join(texts).encode())
    return folder / "shards" / "*.tar"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of the JSON lines."""
    folder = tmp_path_factory.mktemp("expected")
    summary = run_embedded(make_jsonl(folder, save_pairs(folder)), folder / "out")
    assert (summary.rows, summary.errors) == (4, 0)
    return read_rows(folder / "out")


@pytest.mark.parametrize(
    "make", [make_coco, make_parquet_of_bytes, make_parquet_of_datasets, make_parquet_of_paths, make_webdataset]
)
def test_every_format_gives_the_same_rows_and_results(
    tmp_path: Path, pairs: Expected, expected: list[dict[str, Any]], make: Callable[[Path, Expected], Path]
) -> None:
    run_embedded(make(tmp_path, pairs), tmp_path / "out")
    rows = read_rows(tmp_path / "out")
    for name in ("row", "expression", "objects", "width", "height", "error"):
        assert [row[name] for row in rows] == [row[name] for row in expected]
    assert all(row["place"] and row["image"] for row in rows)


@pytest.mark.usefixtures("pairs")
def test_a_folder_asks_about_each_image_with_each_expression(tmp_path: Path) -> None:
    (tmp_path / "images" / "notes.txt").write_text("no image")
    summary = run_embedded(tmp_path / "images", tmp_path / "out", "the ring", "the star")
    assert (summary.rows, summary.errors) == (4, 0)
    names = [(image, text) for image, text, _, _ in list_outcomes(tmp_path / "out")]
    assert names == [(image, text) for image in ("a.png", "b.png") for text in ("the ring", "the star")]


def test_a_folder_with_images_and_lines_needs_the_format_where_expressions_are_given(tmp_path: Path) -> None:
    names = list(save_scenes(tmp_path))
    write_lines(tmp_path / "rows.jsonl", [{"image": names[0], "expression": "the ring"}])
    asked = RowInput(str(tmp_path), expressions=("all rings",))
    with pytest.raises(DataError, match=r"holds images and rows\.jsonl: give --input-format folder for the images, or jsonl"):
        asked.read()
    assert len(list(replace(asked, format="folder").read())) == len(names)
    assert [row.expression for row in replace(asked, format="jsonl").read()] == ["the ring"]
    assert [row.expression for row in RowInput(str(tmp_path)).read()] == ["the ring"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "json", "tar"])
def test_images_without_an_expression_have_those_of_the_command(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        write_lines(path, [{"image": "a.png"}])
    elif suffix == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"]}), path)
    elif suffix == "json":
        path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}))
    else:
        with tarfile.open(path, "w") as archive:
            add_member(archive, "a.png", _png())
    rows = list(RowInput(str(path), expressions=("the ring", "the star")).read())
    assert [(row.image, row.expression, row.error) for row in rows] == [
        ("a.png", text, "") for text in ("the ring", "the star")
    ]
    assert [bool(row.error) for row in RowInput(str(path)).read()] == [True]


def test_input_and_output_may_be_at_urls(tmp_path: Path, pairs: Expected) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "images"), "/job/images", recursive=True)
    memory.pipe_file("/job/rows.jsonl", make_jsonl(tmp_path, pairs).read_bytes())
    summary = run_embedded("memory://job/rows.jsonl", "memory://job/out")
    assert (summary.rows, summary.errors) == (4, 0)
    run_embedded(tmp_path / "rows.jsonl", tmp_path / "out")
    shard = "part-000000.parquet"
    assert memory.cat_file(f"/job/out/{shard}") == (tmp_path / "out" / shard).read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("missing.jsonl", "does not exist", id="no file"),
        pytest.param("none-*.tar", "no file is named like", id="a pattern of nothing"),
        pytest.param("images", "say what to segment in them with --expression", id="a folder without expressions"),
        pytest.param("notes.txt", "give --input-format", id="an unknown format"),
        pytest.param("empty.jsonl", "has no rows", id="no rows"),
        pytest.param("a.zip::file://b", "a chain of URLs", id="a chain of URLs"),
    ],
)
@pytest.mark.usefixtures("pairs")
def test_an_input_that_gives_no_rows_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=reason):
        run_embedded(tmp_path / name, tmp_path / "out")


def test_a_damaged_file_is_a_row_and_leaves_the_others_alone(tmp_path: Path, pairs: Expected) -> None:
    folder = make_webdataset(tmp_path, pairs).parent
    whole = (folder / "0.tar").read_bytes()
    (folder / "2.tar").write_bytes(whole[:1500])
    (folder / "3.tar").write_bytes(whole[: len(whole) // 2048 * 2048][:-512] + b"x" * 1024)
    (folder / "4.tar").write_bytes(b"not a tar file" * 100)
    rows = list(RowInput(str(folder / "*.tar")).read())
    assert [row.expression for row in rows if not row.error][:4] == [text for _, text in pairs]
    assert {row.place for row in rows if row.error} >= {"2.tar", "4.tar"}


def test_images_of_another_file_system_need_a_flag(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/other/a.png", _png())
    path = write_lines(tmp_path / "rows.jsonl", [{"image": "memory://other/a.png", "expression": "the ring"}])
    run_embedded(path, tmp_path / "refused")
    assert "add --allow-url" in str(read_rows(tmp_path / "refused")[0]["error"])
    run_embedded(path, tmp_path / "allowed", allow_url=True)
    assert read_rows(tmp_path / "allowed")[0]["error"] is None


def _png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(content, "PNG")
    return content.getvalue()
