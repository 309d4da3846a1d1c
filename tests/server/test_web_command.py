"""`sam4mllm web` as a process: the page is served, and opened in the browser once it is there."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import Run


def find_free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
def test_the_page_is_opened_in_the_browser_once_it_is_served(tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{opened}.part"\nmv "{opened}.part" "{opened}"\n', encoding="utf-8")
    browser.chmod(0o755)
    port = find_free_port()
    command = [sys.executable, "-m", "sam4mllm_tool", "web", "--port", str(port)]
    variables = {**os.environ, "BROWSER": f"{browser} %s"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        while not opened.exists():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.1)
        assert opened.read_text(encoding="utf-8") == f"http://127.0.0.1:{port}/"
        page = httpx.get(opened.read_text(encoding="utf-8"))
        assert page.headers["content-type"].startswith("text/html")
    finally:
        process.kill()
        _, errors = process.communicate()
    assert f"sam4mllm: the page is at http://127.0.0.1:{port}/" in errors


def test_the_page_needs_a_port_that_is_known(run: Run) -> None:
    code, _, errors = run("web", "--port", "0")
    assert code == 2
    assert "another than 0" in " ".join(errors.split())
