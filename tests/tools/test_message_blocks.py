"""Images are found in the content blocks of every client, with their names, and within a message's limits."""

from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.images.load import TOOL_POLICY
from sam4mllm_tool.tools.image_blocks import FileId, MessageLimits, SentImage, clean_name, create_image_block, parse_block

PNG = "data:image/png;base64,AAAA"
UNKNOWN = "data:image/unknown;base64,AAAA"
BLOCKS: list[tuple[dict[str, Any], SentImage | None]] = [
    ({"type": "text", "text": "hello"}, None),
    ({"type": "image", "base64": "AAAA", "mime_type": "image/png"}, SentImage(UNKNOWN)),
    ({"type": "image", "bytes": bytearray(b"ab")}, SentImage(b"ab")),
    ({"type": "image", "source_type": "id", "id": "file-1"}, SentImage(FileId("file-1"))),
    ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}, SentImage(UNKNOWN)),
    ({"type": "image_url", "image_url": {"url": PNG}}, SentImage(PNG)),
    (
        {"type": "image_url", "image_url": "https://a.example/b%20c.png?d=1"},
        SentImage("https://a.example/b%20c.png?d=1", "b c.png"),
    ),
    ({"type": "input_image", "file_id": "file-2"}, SentImage(FileId("file-2"))),
    ({"type": "input_image", "image_url": "http://[::1"}, SentImage("http://[::1")),
    ({"type": "image", "path": "folder/cat.png"}, SentImage("folder/cat.png", "cat.png")),
    ({"type": "image"}, SentImage(None)),
    ({"type": "file", "file": {"file_data": PNG, "filename": "a/b.png"}}, SentImage(PNG, "b.png")),
    ({"type": "file", "mime_type": "application/pdf", "data": "AAAA"}, None),
    ({"type": "media", "mime_type": "image/webp", "data": "AAAA"}, SentImage(UNKNOWN)),
    ({"type": "document", "source": {"media_type": "Image/PNG", "url": "https://a.example/"}}, SentImage("https://a.example/")),
    ({"type": "image", "data": PNG, "metadata": {"title": "my cat"}}, SentImage(PNG, "my cat")),
]


@pytest.mark.parametrize(("block", "expected"), BLOCKS)
def test_a_block_gives_its_image_and_name(block: dict[str, Any], expected: SentImage | None) -> None:
    assert parse_block(block) == expected
    assert parse_block("text") is None


def test_an_uploaded_file_is_named_in_messages() -> None:
    assert FileId("file-1").describe() == "the file 'file-1'"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C:\\pictures\\cat.png", "cat.png"),
        ("a<b>\n.png", "a b .png"),
        ("x" * 80 + ".jpeg", "x" * 55 + ".jpeg"),
        ("y" * 80, "y" * 60),
    ],
)
def test_a_name_is_short_and_without_its_folder(name: str, expected: str) -> None:
    assert clean_name(name) == expected


def test_a_message_has_so_many_images_and_pixels() -> None:
    few = MessageLimits(replace(TOOL_POLICY, max_message_images=2, max_message_pixels=150))
    image = Image.new("RGB", (10, 10))
    assert few.open(image).size == (10, 10)
    with pytest.raises(ImageError, match="over the limit of 50"):
        few.open(image)
    with pytest.raises(ImageError, match="a message may have 2 images"):
        few.open(image)
    full = MessageLimits(replace(TOOL_POLICY, max_message_pixels=100))
    full.open(image)
    with pytest.raises(ImageError, match="a message may have 100 pixels"):
        full.open(image)


def test_an_image_for_a_chat_model_is_small() -> None:
    block = create_image_block(Image.new("RGB", (200, 100), "red"), 50)
    sent = parse_block(block)
    assert sent is not None
    assert isinstance(sent.source, str)
    shown = MessageLimits(TOOL_POLICY).open(sent.source)
    assert (block["mime_type"], shown.size) == ("image/jpeg", (50, 25))
