"""The contact sheet: what is drawn, where, and with which text."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from sam4mllm_tool.data.annotations import RunLengths
from sam4mllm_tool.data.contact_sheet import _hatch, _scale_mask, _wrap_text, draw_contact_sheet, pick_samples, save_sheet
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.embedded.scene_files import write_scenes
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.geometry.rle import encode
from sam4mllm_tool.types import Box, Mask, Size, Turn
from tests.data.drawn import filled, full_disk, run_data, write_image

GAP, CELL = 20, Size(384, 288)


@dataclass(frozen=True)
class MaskRegion:
    """A region that holds its mask."""

    given: Mask

    def mask(self, size: Size) -> Mask:
        return RunLengths(size, encode(self.given)["counts"]).mask(size)


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A grey image of 40 x 30 pixels with an object on its right half."""
    mask = filled(40, 30, (20, 0, 40, 30))
    return Sample(
        "s-1", write_image(tmp_path / "a.png"), "the right half", Size(40, 30), (Box(20, 0, 40, 30),), (MaskRegion(mask),)
    )


def cells(image: Image.Image, columns: int) -> list[np.ndarray]:
    """Return the images of the first row."""
    top = next(y for y in range(image.height) if image.getpixel((GAP + 100, y))[0] < 200 and y > 60)
    lefts = [GAP + column * (CELL.width + GAP) for column in range(columns)]
    return [np.asarray(image)[top + 20 : top + 260, left : left + CELL.width] for left in lefts]


def test_an_object_is_tinted_where_its_mask_is(sample: Sample) -> None:
    sheet = draw_contact_sheet([sample, replace(sample, boxes=(), regions=())], "two")
    with_object, without_object = cells(sheet.image, 2)
    assert sheet.faults == ()
    assert (with_object[100, 80] == 128).all()  # grey off the mask
    assert (with_object[100, 300] != 128).any()  # tinted on it
    assert (without_object[100, 300] == 128).all()


def test_ignored_pixels_are_hatched(sample: Sample) -> None:
    ignoring = replace(sample, boxes=(), regions=(), ignored=MaskRegion(filled(40, 30, (0, 0, 20, 30))))
    (left,) = cells(draw_contact_sheet([ignoring], "one").image, 1)
    stripes = left[100, 20:180]
    assert (stripes == stripes[:, :1]).all()  # grey
    assert len({int(value) for value in stripes[:, 0]}) == 2
    assert (left[100, 220:340] == 128).all()


def test_hatching_is_visible_on_any_grey() -> None:
    for value in (0, 128, 255):
        pixels = np.full((20, 20, 3), value, np.uint8)
        _hatch(pixels, np.ones((20, 20), np.bool_))
        assert np.ptp(pixels[:, :, 0].astype(int)) > 60


def test_a_thin_mask_survives_downscaling() -> None:
    assert _scale_mask(filled(400, 300, (200, 100, 201, 130)), Size(40, 30)).any()
    assert not _scale_mask(filled(400, 300), Size(40, 30)).any()


def test_a_sample_that_can_not_be_drawn_is_reported(sample: Sample, tmp_path: Path) -> None:
    bad = [
        replace(sample, id="missing", image_path=tmp_path / "none.png"),
        replace(sample, id="size", size=Size(30, 40)),
        replace(sample, id="mask", regions=(RunLengths(Size(9, 9), "0"),)),
    ]
    sheet = draw_contact_sheet([sample, *bad], "four")
    assert [fault.split(":")[0] for fault in sheet.faults] == ["missing", "size", "mask"]
    with pytest.raises(DataError, match="no sample"):
        draw_contact_sheet([], "none")


def test_a_conversation_is_shown_by_its_turns(sample: Sample) -> None:
    conversation = replace(
        sample, expression="", boxes=(), regions=(), turns=(Turn("user", "What?"), Turn("assistant", "Grey."))
    )
    assert draw_contact_sheet([conversation], "vqa").faults == ()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("the cup", 1, id="short"),
        pytest.param("", 1, id="empty"),
        pytest.param("the cup " * 15, 3, id="broken between words"),
        pytest.param("x" * 100, 3, id="broken within a word"),
        pytest.param("the cup " * 400, 3, id="cut"),
        pytest.param("a\nb\tc\u202ed", 1, id="on one line"),
    ],
)
def test_a_caption_fits_into_its_lines(text: str, lines: int) -> None:
    font = ImageFont.load_default(17)
    wrapped = _wrap_text(text, font, 384, 3)
    assert len(wrapped) == lines
    assert all(font.getlength(line) <= 384 for line in wrapped)
    assert all(line.isprintable() for line in wrapped)
    kept = "".join(wrapped).replace(" ", "")
    assert kept.endswith("...") or kept == "".join("".join(c if c.isprintable() else " " for c in text).split())


def test_samples_are_drawn_uniformly_by_seed_and_keep_their_order(sample: Sample) -> None:
    many = [replace(sample, id=f"{number:03d}") for number in range(100)]
    picked = [[each.id for each in pick_samples(many, 12, seed)] for seed in range(200)]
    assert all(ids == sorted(ids) and len(set(ids)) == 12 for ids in picked)
    assert picked[0] == [each.id for each in pick_samples(iter(many), 12, 0)]
    counts = np.bincount([int(number) for ids in picked for number in ids], minlength=100)
    assert 10 < counts.min() < counts.max() < 45  # 24 expected
    assert len(pick_samples(many[:5], 12, 0)) == 5


def test_the_show_command_writes_the_same_sheet_for_the_same_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scenes(tmp_path / "scenes", 3, 100, side=160)
    out = tmp_path / "out/sheet.png"
    assert run_data("show", "jsonl", tmp_path / "scenes", "--out", out, "--count", 6) == 0
    assert "6 samples of jsonl all" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.width == 3 * (CELL.width + GAP) + GAP
        assert sheet.height > 2 * CELL.height
    first = out.read_bytes()
    assert run_data("show", "jsonl", tmp_path / "scenes", "--out", out, "--count", 6, "--overwrite") == 0
    assert out.read_bytes() == first
    assert run_data("show", "jsonl", tmp_path / "scenes", "--out", out, "--count", 6, "--seed", 1, "--overwrite") == 0
    assert out.read_bytes() != first


def test_a_full_disk_and_an_unknown_suffix_are_errors(sample: Sample, tmp_path: Path) -> None:
    sheet = draw_contact_sheet([sample], "one").image
    with pytest.raises(DataError, match=r"\.png or \.jpg"):
        save_sheet(sheet, tmp_path / "sheet.txt")
    with full_disk(), pytest.raises(DataError, match=r"sheet\.png.*File too large"):
        save_sheet(sheet, tmp_path / "sheet.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
