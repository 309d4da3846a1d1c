"""Every format that results can be had in: one list, the content checked by other programs' readers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sam4mllm_tool.images.draw import OBJECT_COLOURS
from sam4mllm_tool.images.export import write_outputs
from sam4mllm_tool.images.output_formats import (
    OUTPUT_FORMATS,
    OutputFormatError,
    clean_file_stem,
    export_file,
    export_outputs,
    get_media_type,
    list_output_files,
)
from sam4mllm_tool.types import Segmentation
from tests.images.masked_images import SIZE, block_mask, image, open_image, ring_mask, segmentation

NAMES = list_output_files(OUTPUT_FORMATS, "mug.jpg")


# The list


@pytest.mark.parametrize("name", OUTPUT_FORMATS)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_each_format_makes_the_files_that_it_lists(name: str, count: int):
    masks = (ring_mask(), block_mask())[:count]
    result = segmentation(*masks) if count else Segmentation("the mug", SIZE, ())
    files = export_outputs(image(), result, [name], image_name="mug.jpg")
    assert tuple(files) == NAMES[name]
    assert all(files.values()) or (name, count) == ("yolo", 0)  # no objects are no lines
    assert all("/" in get_media_type(file) for file in files)


def test_no_two_formats_write_the_same_file():
    files = [file for names in NAMES.values() for file in names]
    assert len(set(files)) == len(files)


def test_an_unknown_format_names_those_that_exist():
    with pytest.raises(OutputFormatError, match=r"no output format 'cutot': expected mask, instances.*did you mean 'cutout'"):
        export_outputs(image(), segmentation(), ["mask", "cutot"])


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\mug.png", "mug"),
        ("a/b.tar/", "b"),
        ("..", "image"),
        ("", "image"),
        ("x\x00y\n<z>.png", "x_y__z_"),
        ("Tasse größer 2.jpg", "Tasse größer 2"),
        ("{stem}.png", "_stem_"),
        ("m" * 300 + ".png", "m" * 100),
    ],
)
def test_names_of_images_become_safe_names_of_files(name: str, stem: str):
    assert clean_file_stem(name) == stem
    for file in (file for files in list_output_files(OUTPUT_FORMATS, name).values() for file in files):
        assert Path(file).name == file


def test_nothing_is_written_when_one_format_fails(tmp_path: Path):
    with pytest.raises(OutputFormatError):
        write_outputs(tmp_path, image(), segmentation(), formats=["mask", "gif"])
    with pytest.raises(ValueError, match="the image is"):
        write_outputs(tmp_path, Image.new("RGB", (3, 3)), segmentation(), formats=["mask", "json"])
    assert list(tmp_path.iterdir()) == []


def test_an_image_called_like_a_result_does_not_replace_it():
    files = export_outputs(image(), segmentation(), ["json", "labelme", "coco"], image_name="result.png")
    assert list(files) == ["result.json", "result-image.json", "coco.json"]
    assert json.loads(files["result-image.json"])["imagePath"] == "result.png"


def test_a_single_file_of_a_result_is_named_after_the_image():
    result = segmentation()
    whole = export_outputs(image(), result, ["yolo"], image_name="mug.jpg")
    assert [export_file(image(), result, file, image_name="mug.jpg") for file in ("image.txt", "yolo.yaml")] == list(
        whole.items()
    )
    with pytest.raises(OutputFormatError, match=r"a result has no file 'mug\.txt': there are mask\.png, "):
        export_file(image(), result, "mug.txt", image_name="mug.jpg")


# Images


def test_the_instance_map_holds_the_objects_numbers():
    (content,) = export_outputs(image(), segmentation(), ["instances"]).values()
    expected = np.where(ring_mask(), 1, 0) + np.where(block_mask(), 2, 0)
    assert np.array_equal(np.asarray(open_image(content)), expected)


def test_the_smaller_of_two_overlapping_objects_is_on_top_in_the_instance_map():
    small = np.zeros_like(ring_mask())
    small[18:22, 5:9] = True
    (content,) = export_outputs(image(), segmentation(small, ring_mask()), ["instances"]).values()
    assert set(np.asarray(open_image(content))[small]) == {1}


@pytest.mark.parametrize(("count", "mode"), [(255, "P"), (256, "I;16")])
def test_more_than_255_objects_get_an_instance_map_of_16_bits(count: int, mode: str):
    masks = np.zeros((count, SIZE.height, SIZE.width), bool)
    masks.reshape(count, -1)[np.arange(count), np.arange(count)] = True
    (content,) = export_outputs(image(), segmentation(*masks), ["instances"]).values()
    read = open_image(content)
    assert read.mode == mode
    assert np.asarray(read).reshape(-1)[: count + 1].tolist() == [*range(1, count + 1), 0]
    if mode == "P":
        shown = np.asarray(read.convert("RGB")).reshape(-1, 3)[: count + 1].tolist()
        assert shown == [*(list(OBJECT_COLOURS[index % 7]) for index in range(count)), [0, 0, 0]]


def test_a_cut_out_has_the_objects_pixels_and_nothing_of_the_rest():
    source, union = image(), ring_mask() | block_mask()
    cutout = np.asarray(open_image(export_outputs(source, segmentation(), ["cutout"])["cutout.png"]))
    assert np.array_equal(cutout[..., 3] == 255, union)
    assert np.array_equal(cutout[union][:, :3], np.asarray(source)[union])
    assert not cutout[~union].any()


def test_a_cropped_cut_out_is_the_objects_part_of_the_whole_one():
    files = export_outputs(image(), segmentation(), ["cutout", "cutout-cropped"])
    whole, cropped = (open_image(content) for content in files.values())
    rows, columns = np.nonzero(ring_mask() | block_mask())
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.array_equal(np.asarray(cropped), np.asarray(whole.crop(box)))


def test_nothing_of_an_erased_object_is_left():
    source, union = image(), ring_mask() | block_mask()
    erased = np.asarray(open_image(export_outputs(source, segmentation(), ["erased"])["erased.png"]))
    assert not erased[union].any()
    assert np.array_equal(erased[~union][:, :3], np.asarray(source)[~union])


def test_a_blurred_background_leaves_the_object_sharp_and_takes_none_of_its_colour():
    pixels = np.full((SIZE.height, SIZE.width, 3), (0, 0, 200), np.uint8)
    pixels[:, ::2] = (0, 0, 100)
    pixels[ring_mask()] = (255, 0, 0)
    blurred = np.asarray(
        open_image(export_outputs(Image.fromarray(pixels), segmentation(ring_mask()), ["blurred"])["blurred.png"])
    )
    background = blurred[~ring_mask()]
    assert np.array_equal(blurred[ring_mask()], pixels[ring_mask()])
    assert background[:, 0].max() <= 2
    assert background[:, 2].std() < 15 < pixels[~ring_mask()][:, 2].std()


def test_a_blur_is_as_wide_as_a_fiftieth_of_the_image():
    pixels = np.zeros((SIZE.height, SIZE.width, 3), np.uint8)
    pixels[:, 30:] = 200
    (content,) = export_outputs(Image.fromarray(pixels), Segmentation("it", SIZE, ()), ["blurred"]).values()
    row = np.asarray(open_image(content))[20, :, 0].astype(int)
    assert (row[:25].max(), row[35:].min()) == (0, 200)
    assert 40 < row[29] < 100 < row[30] < 160


def test_the_json_reads_back_as_the_result():
    content = export_outputs(image(), segmentation(), ["json"])["result.json"]
    assert np.array_equal(Segmentation.from_dict(json.loads(content)).objects[0].mask, ring_mask())
    assert content.startswith(b'{\n  "expression": "the mug')


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        pytest.param("a/mug.jpg", "mug.jpg", id="a folder"),
        pytest.param("mug.abcdefg", "mug.abcdefg", id="a suffix of seven letters"),
        pytest.param("mug.abcdefgh", "mug.png", id="of eight"),
        pytest.param("mug.a-b", "mug.png", id="with a sign"),
        pytest.param("mug", "mug.png", id="none"),
    ],
)
def test_annotations_refer_to_an_image_file(name: str, kept: str):
    (content,) = export_outputs(image(), segmentation(), ["coco"], image_name=name).values()
    assert json.loads(content)["images"][0]["file_name"] == kept


def test_the_docs_list_every_format_with_its_files():
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    for name, files in list_output_files(OUTPUT_FORMATS, "NAME.png").items():
        assert f"| `{name}` | {', '.join(f'`{file}`' for file in files)} |" in page
