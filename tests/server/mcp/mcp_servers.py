"""An MCP server about two rings, whose models are scripted.

python -m tests.server.mcp.mcp_servers        over stdio
python -m tests.server.mcp.mcp_servers 8765   over HTTP, at http://127.0.0.1:8765/mcp/
"""

import base64
import sys
from io import BytesIO
from typing import Any

import uvicorn
from mcp import Client
from mcp.server import MCPServer
from mcp_types import CallToolResult, TextContent
from PIL import Image
from starlette.applications import Starlette
from starlette.routing import Mount

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.server.mcp import McpSettings, create_mcp_server
from sam4mllm_tool.server.mcp.mcp_http import create_mcp_app, run_mcp_app
from sam4mllm_tool.types import Labels, Question, Reply

ERAS = ("auto", "legacy")
"""The protocol's eras, by the client's mode."""


def encode_image(width: int = 100, height: int = 80) -> str:
    """Return a data URI of a grey image."""
    file = BytesIO()
    Image.new("RGB", (width, height), "grey").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


IMAGE_URI = encode_image()
LEFT, RIGHT = [10, 8, 40, 40], [50, 8, 90, 40]
"""The rings' boxes in whole pixels."""


def reply_about_rings(question: Question) -> Reply:
    """Know two rings, left and right; one of them is named first, the other on demand. Every point is on the object."""
    text = question.turns[-1].text
    if isinstance(question.answer, Labels):
        return Reply("Yes" * question.answer.count, ((0.9, 0.1),) * question.answer.count)
    if "crash" in text:
        raise RuntimeError("/home/someone/secret.txt")
    if "Describe" in text:
        return Reply("a grey area")
    if "Not the object in" in text and "left" not in text:
        return Reply("[500,100,900,500]")
    return Reply("[100,100,400,500]" if "ring" in text and "Not the object in" not in text else "no such object")


def create_ring_server(policy: ImagePolicy = TOOL_POLICY, **settings: Any) -> MCPServer[Any]:
    """Create a server whose models know two rings."""
    models = Sam4Mllm(ScriptedMLLM(reply_about_rings), BoxSegmenter(), dialect=JOINT)
    return create_mcp_server(models, McpSettings(policy=policy, **settings))


def get_text(result: CallToolResult) -> str:
    """Return the text that the model reads."""
    assert isinstance(result.content[0], TextContent)
    return result.content[0].text


def list_boxes(result: CallToolResult) -> list[list[int]]:
    """Return the objects' boxes in whole pixels."""
    return [[round(value) for value in each["box"]] for each in result.structured_content["objects"]]


async def segment(client: Client, expression: str = "the left ring", image: str = IMAGE_URI, **options: Any) -> CallToolResult:
    """Call segment_image and check that it succeeded."""
    result = await client.call_tool("segment_image", {"image": image, "expression": expression}, **options)
    assert not result.is_error, result.content
    return result


def create_http_app() -> Starlette:
    """Create a web application that serves the ring server at /mcp."""
    server = create_ring_server(is_shared=True)
    return Starlette(routes=[Mount("/mcp", create_mcp_app(server, TOOL_POLICY))], lifespan=lambda _: run_mcp_app(server))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvicorn.run(create_http_app(), port=int(sys.argv[1]), ws="none", log_level="warning")
    else:
        print("a library's print must not reach the client")
        create_ring_server().run("stdio")
