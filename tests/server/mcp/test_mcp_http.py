"""MCP over streamable HTTP on a real socket: the SDK's client in both eras, LangChain's adapter, owners, hosts and origins."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import pytest
import uvicorn
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from sam4mllm_tool.images.load import TOOL_POLICY
from sam4mllm_tool.server.mcp.mcp_http import create_mcp_app, run_mcp_app
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.server.mcp.mcp_servers import ERAS, IMAGE_URI, create_ring_server, get_text, segment
from tests.server.mcp.test_object_choice import User


def name_owner(app: ASGIApp) -> ASGIApp:
    """Stand for the application's authentication: the owner is what a header says."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            Request(scope).state.owner = Request(scope).headers.get("x-owner", "")
        await app(scope, receive, send)

    return run


@asynccontextmanager
async def serve_rings(**options: Any) -> AsyncIterator[str]:
    """Serve the ring server on loopback and yield its URL."""
    server = create_ring_server(is_shared=True)
    app = create_mcp_app(server, TOOL_POLICY, **options)
    outer = Starlette(routes=[Mount("/mcp", name_owner(app))], lifespan=lambda _: run_mcp_app(server))
    web = uvicorn.Server(uvicorn.Config(outer, port=0, log_level="error", ws="none", timeout_graceful_shutdown=1))
    task = asyncio.create_task(web.serve())
    while not web.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}/mcp/"
    finally:
        web.should_exit = True
        await task


@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_segments_answers_a_question_and_reads_the_mask(mode: str) -> None:
    user = User(1)
    steps: list[float] = []

    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        steps.append(progress)

    async with serve_rings() as url, Client(url, mode=mode, elicitation_callback=user) as client:
        result = await segment(client, "the ring", progress_callback=note)
        mask = await client.read_resource(result.structured_content["files"]["mask.png"])
    assert "number 2 alone" in get_text(result)
    assert len(user.questions) == 1
    assert mask.contents[0].mime_type == "image/png"
    assert len(steps) >= 3
    assert steps == sorted(set(steps))


async def test_results_belong_to_their_owner() -> None:
    async with serve_rings() as url:
        handle = ""
        for owner in ("a", "b"):
            async with (
                httpx2.AsyncClient(headers={"x-owner": owner}) as http,
                Client(streamable_http_client(url, http_client=http)) as client,
            ):
                handle = handle or (await segment(client)).structured_content["result"]
                refined = await client.call_tool("refine_segmentation", {"result": handle, "instruction": "bigger"})
                assert ("call segment_image first" in get_text(refined)) == (owner == "b")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "example.org"}, 421),
        ({"origin": "https://example.org"}, 403),
        ({"origin": "https://allowed.example"}, 200),
        ({"host": "allowed.example"}, 200),
    ],
    ids=lambda value: str(value),
)
async def test_a_page_of_another_site_reaches_nothing(headers: dict[str, str], status: int) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    accept = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    async with serve_rings(hosts=["allowed.example"], origins=["https://allowed.example"]) as url, httpx.AsyncClient() as http:
        answer = await http.post(url, json={**body, "params": {"_meta": meta}}, headers={**accept, **headers})
    assert answer.status_code == status, answer.text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`langchain.mcp` is in beta")
async def test_langchains_adapter_gives_an_agent_the_tools_and_its_user_the_question() -> None:
    from langchain.mcp import MCPAdapter

    async with serve_rings() as url, MCPAdapter(url) as adapter:
        model = ScriptedChatModel(answers=[call("segment_image", image=IMAGE_URI, expression="the ring"), "Done."])
        agent = create_agent(model, await adapter.list_tools(), checkpointer=InMemorySaver())
        thread: Any = {"configurable": {"thread_id": "1"}}
        paused = await agent.ainvoke({"messages": [("user", "Segment the ring.")]}, thread)
        (request,) = paused["__interrupt__"][0].value["requests"]
        option = request["requested_schema"]["properties"]["object"]["enum"][1]
        answer = {"responses": {request["key"]: {"action": "accept", "content": {"object": option}}}}
        state = await agent.ainvoke(Command(resume=answer), thread)
    message = next(message for message in state["messages"] if isinstance(message, ToolMessage))
    assert message.status == "success"
    assert "understood: number 2 alone" in message.text
    assert state["messages"][-1].text == "Done."


_AGENT_WITHOUT_TORCH = """
import asyncio, sys, warnings
for name in ("torch", "transformers", "sam4mllm_tool"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
warnings.simplefilter("ignore")
from langchain.agents import create_agent
from langchain.mcp import MCPAdapter
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

class Model(GenericFakeChatModel):
    def bind_tools(self, tools, **options):
        return self

async def main(url, image):
    call = {"name": "segment_image", "args": {"image": image, "expression": "the left ring"}, "id": "1"}
    async with MCPAdapter(url) as adapter:
        model = Model(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Done.")]))
        agent = create_agent(model, await adapter.list_tools())
        state = await agent.ainvoke({"messages": [("user", "Segment the left ring.")]})
    print(state["messages"][-2].text)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
async def test_an_agent_in_a_process_without_torch_segments() -> None:
    async with serve_rings() as url:
        command = (sys.executable, "-c", _AGENT_WITHOUT_TORCH, url, IMAGE_URI)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert "1 object in the image" in out.decode()
