"""The MCP server through the SDK's client, in both eras of the protocol: results, previews, resources, progress, errors."""

import base64
import json
import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from langchain_core.utils.function_calling import convert_to_openai_tool
from mcp import Client, MCPError
from mcp_types import ImageContent, ResourceLink
from PIL import Image

from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.images.output_formats import get_media_type
from sam4mllm_tool.tools import Sam4MllmToolkit
from tests.server.mcp.mcp_servers import (
    ERAS,
    IMAGE_URI,
    LEFT,
    RIGHT,
    create_ring_server,
    get_text,
    list_boxes,
    segment,
)

pytestmark = pytest.mark.parametrize("mode", ERAS)


async def test_the_tools_are_the_toolkits_with_their_descriptions_and_are_read_only(mode: str) -> None:
    async with Client(create_ring_server(), mode=mode) as client:
        tools = (await client.list_tools()).tools
    toolkit = {tool.name: convert_to_openai_tool(tool)["function"] for tool in Sam4MllmToolkit().get_tools()}
    assert {tool.name: tool.description for tool in tools} == {name: tool["description"] for name, tool in toolkit.items()}
    for tool in tools:
        expected = toolkit[tool.name]["parameters"]
        given = json.loads(json.dumps(tool.input_schema))
        given["properties"].pop("method", None)  # the user's choice; in an agent it is the application's
        for schema in (expected, given):
            schema["properties"].get("image", {}).pop("description", None)  # it says what this server opens
        assert given == expected
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint


async def test_every_tools_structured_output_validates_against_its_schema(mode: str) -> None:
    async with Client(create_ring_server(), mode=mode) as client:
        schemas = {tool.name: tool.output_schema for tool in (await client.list_tools()).tools}
        calls: list[tuple[str, dict[str, Any]]] = [
            ("propose_boxes", {"image": IMAGE_URI, "expression": "the left ring"}),
            ("check_points", {"grid": [2, 2]}),
            ("segment_prompt", {"drop": [1]}),
            ("segment_image", {"expression": "the left ring"}),
            ("refine_segmentation", {"clicks": [{"x": 20, "y": 20, "label": 1}]}),
            ("describe_image_region", {}),
        ]
        assert {name for name, _ in calls} == set(schemas)
        for name, arguments in calls:
            result = await client.call_tool(name, arguments)
            assert not result.is_error, result.content
            jsonschema.validate(result.structured_content, schemas[name] or {})


async def test_a_result_has_text_preview_links_and_numbers(mode: str) -> None:
    async with Client(create_ring_server(), mode=mode) as client:
        result = await segment(client)
        files = {
            name: (await client.read_resource(uri)).contents[0] for name, uri in result.structured_content["files"].items()
        }
        read = {link.name: await client.read_resource(link.uri) for link in result.content if isinstance(link, ResourceLink)}
    structured = result.structured_content
    assert structured["result"] in get_text(result), "hosts without structured output continue from the text"
    assert list_boxes(result) == [LEFT]
    preview = result.content[1]
    assert isinstance(preview, ImageContent)
    with Image.open(BytesIO(base64.b64decode(preview.data))) as image:
        assert (image.format, image.width / image.height) == ("JPEG", 100 / 80)
    assert set(files) >= {"mask.png", "instances.png", "cutout-cropped.png", "erased.png", "blurred.png", "result.json"}
    for name, contents in files.items():
        assert contents.mime_type == get_media_type(name)
    assert set(read) == {"mask.png", "overlay.png", "cutout.png", "result.json"}
    assert read["mask.png"].contents[0].mime_type == "image/png"
    with Image.open(BytesIO(base64.b64decode(read["mask.png"].contents[0].blob))) as mask:
        assert np.count_nonzero(np.array(mask)) == structured["objects"][0]["pixels"]
    assert json.loads(read["result.json"].contents[0].text)["objects"][0]["box"] == structured["objects"][0]["box"]


async def test_progress_comes_in_order_and_before_the_answer(mode: str) -> None:
    steps: list[tuple[float, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        assert total == 3
        steps.append((progress, message))

    async with Client(create_ring_server(), mode=mode) as client:
        await segment(client, progress_callback=note)
        noted = list(steps)
    assert noted == [(1, "1 box named"), (2, "9 points answered"), (3, "1 object segmented")]


async def test_a_result_is_corrected_and_taken_back_by_its_handle(mode: str) -> None:
    async with Client(create_ring_server(is_shared=True), mode=mode) as client:
        first = (await segment(client, "the ring")).structured_content
        other = await client.call_tool("refine_segmentation", {"result": first["result"], "instruction": "the other one"})
        back = await client.call_tool(
            "refine_segmentation", {"result": other.structured_content["result"], "instruction": "undo"}
        )
    assert list_boxes(other) == [RIGHT]
    assert list_boxes(back) == [LEFT]


async def test_a_shared_server_knows_no_latest_and_offers_none(mode: str) -> None:
    async with Client(create_ring_server(is_shared=True), mode=mode) as client:
        for tool in (await client.list_tools()).tools:
            assert "latest" not in json.dumps(tool.input_schema)
        await segment(client)
        for arguments in ({}, {"result": "latest"}):
            result = await client.call_tool("refine_segmentation", {**arguments, "instruction": "bigger"})
            assert result.is_error
        result = await client.call_tool("segment_image", {"image": "latest", "expression": "the ring"})
        assert result.is_error


@pytest.mark.parametrize(
    ("name", "arguments", "kind", "words"),
    [
        ("segment_image", {"image": IMAGE_URI}, "ArgumentError", "expression: Field required"),
        ("segment_image", {"image": "/etc/passwd", "expression": "x"}, "UnknownImageError", "started with --image-root DIR"),
        ("segment_image", {"image": "https://example.org/a.png", "expression": "x"}, "ImageError", "opens no URLs"),
        ("segment_image", {"image": "img-0123456789ab", "expression": "x"}, "UnknownImageError", "given before"),
        ("segment_image", {"image": "data:image/png;base64,AAAA", "expression": "x"}, "ImageError", "none of the formats"),
        ("segment_image", {"image": IMAGE_URI, "expression": "x", "method": "best"}, "ArgumentError", "one of pqpp, ppg, box"),
        ("segment_image", {"expression": "the ring"}, "UnknownImageError", "no image in this conversation"),
        ("refine_segmentation", {"result": "seg-0", "instruction": "bigger"}, "HandleError", "call segment_image first"),
        ("segment_image", {"image": IMAGE_URI, "expression": "crash"}, "BackendError", "the reason was logged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_error_is_a_typed_result_without_a_traceback(
    mode: str, name: str, arguments: dict[str, Any], kind: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL, "sam4mllm_tool"):
        async with Client(create_ring_server(), mode=mode) as client:
            result = await client.call_tool(name, arguments)
    assert result.is_error
    assert result.meta is not None
    assert result.meta["sam4mllm/error"]["type"] == kind
    assert words in get_text(result)
    assert "Traceback" not in get_text(result)
    assert "secret" not in str(result)


async def test_files_are_opened_in_the_image_roots_alone_and_known_by_name_afterwards(mode: str, tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    for path in (tmp_path / "roots" / "rings.png", tmp_path / "outside.png"):
        Image.new("RGB", (100, 80), "grey").save(path)
    policy = ImagePolicy(allow_paths=(tmp_path / "roots",))
    async with Client(create_ring_server(policy), mode=mode) as client:
        by_path = (await segment(client, image="rings.png")).structured_content
        (tmp_path / "roots" / "rings.png").unlink()
        by_name = (await segment(client, image="rings.png")).structured_content
        result = await client.call_tool("segment_image", {"image": str(tmp_path / "outside.png"), "expression": "the ring"})
    assert by_name["image"] == by_path["image"]
    assert "not in a folder that images may be opened from" in get_text(result)


async def test_an_unknown_resource_is_a_protocol_error_that_says_what_to_do(mode: str) -> None:
    async with Client(create_ring_server(), mode=mode) as client:
        with pytest.raises(MCPError, match="call segment_image once more"):
            await client.read_resource("sam4mllm://results/seg-0/mask.png")
