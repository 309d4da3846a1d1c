"""The server's endpoint /mcp: its token, its owners, and what it shares with the HTTP API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

from tests.sampled_cases import sample_cases
from tests.server.http_servers import create_ring_models, serve
from tests.server.mcp.mcp_servers import ERAS, IMAGE_URI, get_text, list_boxes, segment


@asynccontextmanager
async def connect(url: str, token: str, mode: str = "auto") -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@pytest.mark.parametrize("mode", sample_cases({mode: mode for mode in ERAS}, every=9))
async def test_an_image_and_a_result_of_one_door_are_used_through_the_other(mode: str) -> None:
    with serve(create_ring_models(), auth_token="secret") as url:
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer secret"}) as http:
            body = {"image": IMAGE_URI, "expressions": ["the left ring"]}
            over_http = (await http.post("/v1/segment", json=body)).raise_for_status().json()["results"][0]
        async with connect(url, "secret", mode) as client:
            over_mcp = await segment(client, image=over_http["image"])
            refined = await client.call_tool("refine_segmentation", {"result": over_http["id"], "instruction": "the other one"})
    assert over_mcp.structured_content["objects"][0]["box"] == over_http["objects"][0]["box"]
    assert not refined.is_error, get_text(refined)
    assert list_boxes(refined) != list_boxes(over_mcp)


async def test_nobody_without_a_token_and_nobody_with_anothers_handle() -> None:
    with serve(create_ring_models(), auth_token="first,second") as url:
        assert httpx.post(f"{url}/mcp", json={}).status_code == 401
        async with connect(url, "first") as client:
            handle = (await segment(client)).structured_content["result"]
        async with connect(url, "second") as client:
            refined = await client.call_tool("refine_segmentation", {"result": handle, "instruction": "bigger"})
            assert "call segment_image first" in get_text(refined)
            with pytest.raises(MCPError, match="no result"):
                await client.read_resource(f"sam4mllm://results/{handle}/mask.png")
        metrics = httpx.get(f"{url}/metrics", headers={"Authorization": "Bearer second"}).text
        assert 'sam4mllm_errors_total{kind="HandleError"} 1.0' in metrics


async def test_without_tokens_a_page_that_rebinds_its_name_reaches_nothing() -> None:
    with serve(create_ring_models()) as url:
        headers = {"accept": "application/json, text/event-stream", "host": "example.org"}
        assert httpx.post(f"{url}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers=headers).status_code == 403
