"""The MCP App in Chromium, in a sandboxed frame of a host double, with the embedded pair behind it."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import TextResourceContents

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.server.mcp import McpSettings, create_mcp_server
from tests.browser import Browser, open_browser
from tests.example_scene import ANY_MEMBER, EXAMPLE_IMAGE, EXPRESSION
from tests.server.mcp.mcp_servers import create_ring_server

HOST_PAGE = Path(__file__).with_name("host_page.html")


async def test_the_tools_that_return_masks_name_the_page_and_it_loads_nothing_from_elsewhere() -> None:
    async with Client(create_ring_server()) as client:
        tools = (await client.list_tools()).tools
        resource = (await client.read_resource("ui://sam4mllm/result.html")).contents[0]
    named = {tool.name for tool in tools if (tool.meta or {}).get("ui") == {"resourceUri": "ui://sam4mllm/result.html"}}
    assert named == {"segment_image", "segment_prompt", "refine_segmentation"}
    assert isinstance(resource, TextResourceContents)
    assert resource.mime_type == "text/html;profile=mcp-app"
    assert "{{" not in resource.text
    assert "http:" not in resource.text
    assert "https:" not in resource.text


class Host:
    """A host that shows the page with a result, and passes its calls on to the server."""

    def __init__(self, client: Client, browser: Browser) -> None:
        self.client, self.browser = client, browser
        self.calls: list[tuple[str, Any]] = []
        self.results: list[Any] = []

    async def start(self, expression: str) -> None:
        """Load the page and show a result in it."""
        self.browser.on_call = self.answer
        page = (await self.client.read_resource("ui://sam4mllm/result.html")).contents[0]
        assert isinstance(page, TextResourceContents)
        await self.browser.send("Page.navigate", url=HOST_PAGE.as_uri())
        await self.browser.wait_for("typeof load === 'function'")
        await self.browser.run(f"load({page.model_dump_json()}.text)")
        await self.browser.wait_for("received.some((message) => message.method === 'ui/notifications/initialized')")
        result = await self.call_tool("segment_image", {"image": "scene.png", "expression": expression})
        await self.browser.run(f"send({{method: 'ui/notifications/tool-result', params: {result}}})")
        await self.browser.wait_for("state?.alt")

    async def call_tool(self, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool of the server and return its result as JSON."""
        result = await self.client.call_tool(name, arguments)
        self.results.append(result)
        return result.model_dump_json(by_alias=True, exclude_none=True)

    def get_text(self) -> str:
        """Return the text of the latest result."""
        return str(self.results[-1].content[0].text)

    async def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer a request of the page."""
        method, params = request["method"], request["params"]
        self.calls.append((method, params))
        if method == "ui/initialize":
            capabilities: dict[str, Any] = {
                "serverTools": {},
                "serverResources": {},
                "downloadFile": {},
                "updateModelContext": {"text": {}},
            }
            info = {"name": "double", "version": "1"}
            context = {"theme": "dark"}
            versions = {"protocolVersion": params["protocolVersion"], "hostInfo": info}
            return {"result": {**versions, "hostCapabilities": capabilities, "hostContext": context}}
        if method == "tools/call":
            return {"result": json.loads(await self.call_tool(params["name"], params["arguments"]))}
        return {"result": {}}

    async def click(self, place: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click on an element of the page, at shares of its width and height, and wait for what it calls."""
        left, top, width, height = await self.browser.run(f"state.places[{place!r}]")
        await self.browser.click(left + x * width, top + y * height)

    async def wait_for_result(self, count: int) -> Any:
        """Wait until the page shows this result, the first of which is number 1, and return its structured content."""
        for _ in range(1200):
            if (
                len(self.results) == count
                and await self.browser.run("state.busy === 'false' && state.status") == self.get_text()
            ):
                break
            await asyncio.sleep(0.05)
        assert await self.browser.run("state.status") == self.get_text()
        return self.results[count - 1].structured_content


@asynccontextmanager
async def show(folder: Path, expression: str, width: int = 900) -> AsyncIterator[Host]:
    server = create_mcp_server(Sam4Mllm.load(), McpSettings(policy=ImagePolicy(allow_paths=(EXAMPLE_IMAGE.parent,))))
    async with Client(server) as client, open_browser(folder, width) as browser:
        host = Host(client, browser)
        await host.start(expression)
        yield host
        assert browser.errors == []


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
async def test_a_click_changes_the_mask_and_the_buttons_do_what_they_say(tmp_path: Path) -> None:
    async with show(tmp_path, ANY_MEMBER) as host:
        first, image = host.results[0].structured_content, await host.browser.run("state.src")
        rim = first["choices"][0]["box"]
        await host.click("image", (rim[0] + 0.1 * (rim[2] - rim[0])) / 512, (rim[1] + rim[3]) / 2 / 512)
        clicked = await host.wait_for_result(2)
        assert clicked["objects"] != first["objects"], clicked["understood"]
        assert await host.browser.run("state.src") != image
        await host.click("off")
        await host.click("image", *(sum(first["objects"][0]["box"][axis::2]) / 2 / 512 for axis in (0, 1)))
        await host.wait_for_result(3)
        await host.click("Undo")
        assert len((await host.wait_for_result(4))["objects"]) == len(clicked["objects"])
        await host.click("The other one")
        await host.wait_for_result(5)
        await host.click("download")
        await host.browser.wait_for("received.some((message) => message.method === 'ui/download-file')")
    calls = [method for method, _ in host.calls]
    clicks = [params["arguments"].get("clicks") for method, params in host.calls if method == "tools/call"][:2]
    assert [click["label"] for (click,) in clicks] == [1, 0]
    assert calls[0] == "ui/initialize"
    assert calls.count("ui/update-model-context") == 4, "the model is told of every correction"
    contents = host.calls[-1][1]["contents"]
    assert contents == [
        {
            "type": "resource_link",
            "uri": host.results[-1].structured_content["files"]["mask.png"],
            "name": "mask.png",
            "mimeType": "image/png",
        }
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
async def test_the_keyboard_alone_corrects_a_result_on_a_phone(tmp_path: Path) -> None:
    async with show(tmp_path, EXPRESSION, width=360) as host:
        assert await host.browser.run("state.width") <= 360
        await host.browser.run("view.focus()")
        await host.browser.press("Tab")  # to the image
        for _ in range(3):
            await host.browser.press("ArrowDown")
        await host.browser.press("Enter")
        await host.wait_for_result(2)
        assert host.calls[-1][0] in ("tools/call", "ui/update-model-context")
        click = next(params for method, params in host.calls if method == "tools/call")["arguments"]["clicks"][0]
        assert (round(click["x"]), round(click["y"]), click["label"]) == (256, 287, 1)
