"""MCP over stdin and stdout, as a subprocess."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.example_scene import ANY_MEMBER
from tests.server.mcp.mcp_servers import ERAS, segment

ROOT = Path(__file__).parents[3]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


@pytest.mark.slow
def test_nothing_but_the_protocol_is_on_stdout_and_the_end_of_stdin_ends_the_command() -> None:
    requests = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}]
    call = {"name": "segment_image", "arguments": {"image": "scene.png", "expression": ANY_MEMBER}}
    requests += [
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call},
        {"jsonrpc": "2.0", "id": 3, "method": "ping"},
    ]
    command = [sys.executable, "-m", "sam4mllm_tool", "mcp", "--image-root", str(ROOT / "examples")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018
        process.stdin.write("".join(json.dumps(request) + "\n" for request in requests))
        process.stdin.flush()
        lines = [process.stdout.readline()]
        while json.loads(lines[-1]).get("id") != 2:
            lines.append(process.stdout.readline())
        process.stdin.close()
        rest = process.stdout.read()
        assert process.wait() == 0
        assert "Traceback" not in process.stderr.read()
    messages = [json.loads(line) for line in [*lines, *rest.splitlines()]]
    assert all(message["jsonrpc"] == "2.0" for message in messages)
    answer = next(message["result"] for message in messages if message.get("id") == 2)
    assert answer["structuredContent"]["objects"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ERAS)
async def test_a_stray_print_does_not_reach_the_client(mode: str) -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "tests.server.mcp.mcp_servers"], cwd=ROOT)
    async with Client(server, mode=mode) as client:
        await segment(client)


def test_a_folder_that_is_none_is_one_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("mcp", "--image-root", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err == f"sam4mllm: --image-root '{tmp_path / 'none'}' is not a folder: give a folder of images\n"
