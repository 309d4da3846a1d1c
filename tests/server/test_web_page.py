"""The web page in Chromium, with real clicks and keys, on a real server with the embedded pair."""

import asyncio
import base64
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import axe_core_python  # type: ignore[import-untyped]
import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.server.app import create_app
from sam4mllm_tool.server.settings import load_settings
from tests.browser import Browser, open_browser
from tests.example_scene import ANY_MEMBER, EXAMPLE_IMAGE, EXPRESSION

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
IDLE = "document.querySelector('#stage').getAttribute('aria-busy') === 'false'"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium"),
]


@contextmanager
def serve_page() -> Iterator[str]:
    """Serve the page with the embedded pair; yield its URL."""
    app = create_app(Sam4Mllm.load("embedded", "embedded"), load_settings())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serve_page() as url:
        yield url


@asynccontextmanager
async def open_page(folder: Path, address: str, width: int = 1200, height: int = 1100) -> AsyncIterator[Browser]:
    async with open_browser(folder, width, height) as browser:
        await browser.send("Page.navigate", url=address)
        await browser.wait_for("document.querySelector('#models')?.textContent.startsWith('MLLM')")
        yield browser
        assert browser.errors == []


async def click(browser: Browser, selector: str, across: float = 0.5, down: float = 0.5) -> None:
    """Click with the mouse on an element, at shares of its width and height."""
    place = await browser.run(
        f"(() => {{ const node = document.querySelector({json.dumps(selector)}); node.scrollIntoView({{block: 'center'}});"
        f"const box = node.getBoundingClientRect(); return [box.x + {across} * box.width, box.y + {down} * box.height]; }})()"
    )
    await browser.click(*place)


async def upload(browser: Browser, path: Path = EXAMPLE_IMAGE) -> None:
    document = await browser.send("DOM.getDocument")
    node = await browser.send("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
    await browser.send("DOM.setFileInputFiles", files=[str(path)], nodeId=node["nodeId"])
    await browser.wait_for("document.querySelector('#image').naturalWidth > 0")


async def type_text(browser: Browser, text: str) -> None:
    await browser.send("Input.insertText", text=text)


async def read_mask(browser: Browser) -> Any:
    """Return the mask that the page shows, (H, W) bool."""
    data = await browser.run("document.querySelector('#mask').toDataURL()")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data.partition(",")[2]))))[..., 3] > 0


async def wait_for_result(browser: Browser, count: int) -> None:
    await browser.wait_for(f"document.querySelectorAll('#history .card').length === {count} && {IDLE}")


async def list_faults(browser: Browser) -> list[Any]:
    """Return the serious accessibility faults that axe-core finds."""
    await browser.run(f"{AXE};0")
    report = "axe.run().then((found) => found.violations.map(({id, impact, nodes}) => [id, impact, nodes[0].html]))"
    return [fault for fault in await browser.run(report) if fault[1] in ("serious", "critical")]


async def segment(browser: Browser) -> None:
    await upload(browser)
    await click(browser, "#expression")
    await type_text(browser, EXPRESSION)
    await click(browser, "#segment")
    await wait_for_result(browser, 1)


async def test_a_sentence_gives_a_mask_that_a_click_changes_and_the_download_is_the_servers_file(
    tmp_path: Path, address: str
) -> None:
    async with open_page(tmp_path, address) as browser:
        await segment(browser)
        first = await read_mask(browser)
        assert first.any()
        assert EXPRESSION in await browser.run("document.querySelector('#image').alt")
        assert await browser.run("document.querySelectorAll('#marks circle').length") > 5
        assert "bounding box" in await browser.run("document.querySelector('#dialogue').textContent")
        rows, columns = np.nonzero(first)
        await click(browser, "#correct input[value='0']")
        await click(browser, "#stage", (columns[0] + 0.5) / 512, (rows[0] + 0.5) / 512)
        await wait_for_result(browser, 2)
        clicked = await read_mask(browser)
        assert not np.array_equal(clicked, first)
        await browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        await browser.run("document.querySelector('#format').value = 'mask.png'")
        await click(browser, "#save button")
        await browser.wait_for("document.querySelector('#status').textContent === 'Saved mask.png.'")
        while not (tmp_path / "mask.png").exists():
            await asyncio.sleep(0.05)
        saved = np.asarray(Image.open(tmp_path / "mask.png")) > 0
        assert np.array_equal(saved, clicked)
        await browser.run("document.querySelector('#format').value = 'image.json'")
        await click(browser, "#save button")
        await browser.wait_for("document.querySelector('#status').textContent === 'Saved scene.json.'")
        result = await browser.run("JSON.parse(document.querySelector('#trace').textContent).id")
        await browser.run("document.querySelector('#format').value = 'trace.html'")
        await click(browser, "#save button")
        await browser.wait_for("document.querySelector('#status').textContent === 'Saved trace.html.'")
        while not (tmp_path / "trace.html").exists():
            await asyncio.sleep(0.05)
        assert "<html" in (tmp_path / "trace.html").read_text(encoding="utf-8")
        assert (tmp_path / "mask.png").read_bytes() == httpx.get(f"{address}/v1/results/{result}/mask.png").content


async def test_words_correct_the_history_opens_and_methods_stand_side_by_side(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        await segment(browser)
        first = await read_mask(browser)
        await click(browser, "#chat [data-instruction='the other one']")
        await wait_for_result(browser, 2)
        assert not np.array_equal(await read_mask(browser), first)
        await click(browser, "#history .card:last-child")
        assert np.array_equal(await read_mask(browser), first)
        await click(browser, "#compare")
        await wait_for_result(browser, 6)
        names = await browser.run("[...document.querySelectorAll('#methods .card span')].map((node) => node.textContent)")
        assert [name.split(":")[0] for name in names] == ["box", "ppg", "pqpp", "adaptive"]


async def test_a_chat_answers_questions_and_changes_the_mask(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        await upload(browser)
        masks = []
        for text, count in ((f"please find {EXPRESSION}", 1), ("how big is it?", 1), ("no, the other one", 2)):
            await click(browser, "#instruction")
            await type_text(browser, text)
            await click(browser, "#chat button:not([type])")
            await browser.wait_for(f"document.querySelector('#conversation').textContent.includes({json.dumps(text)})")
            await wait_for_result(browser, count)
            masks.append(await read_mask(browser))
        assert np.array_equal(masks[0], masks[1])
        assert not np.array_equal(masks[1], masks[2])
        lines = await browser.run("[...document.querySelectorAll('#conversation p')].map((node) => node.textContent)")
        assert lines[3].startswith(f'sam4mllm: "{EXPRESSION}" covers')
        assert lines[5].startswith("sam4mllm: understood: another")
        await browser.wait_for("document.getAnimations().every(({playState}) => playState === 'finished')")
        assert await list_faults(browser) == []


async def test_the_keyboard_alone_is_enough(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        for _ in range(20):
            await browser.press("Tab")
            if await browser.run("document.activeElement.classList.contains('example')"):
                break
        await browser.press("Enter")
        await browser.wait_for(
            "document.activeElement.id === 'expression' && document.querySelector('#image').naturalWidth > 0"
        )
        await browser.press("Enter")
        await wait_for_result(browser, 1)
        for _ in range(20):
            await browser.press("Tab")
            if await browser.run("document.activeElement.id === 'stage'"):
                break
        before = await read_mask(browser)
        for key in ("ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowUp"):  # from the middle to the car
            await browser.press(key)
        assert await browser.run("document.querySelector('#cursor').hidden") is False
        await browser.press("Enter")
        await wait_for_result(browser, 2)
        assert not np.array_equal(await read_mask(browser), before)
        assert await browser.run("document.activeElement.id") == "stage"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
async def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_page(
    tmp_path: Path, address: str, width: int, scheme: str
) -> None:
    async with open_page(tmp_path, address, width, 1400) as browser:
        media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}  # what fades in has no contrast yet
        features = [{"name": name, "value": value} for name, value in media.items()]
        await browser.send("Emulation.setEmulatedMedia", features=features)
        assert await browser.run("document.querySelector('#notice').hidden") is False
        assert await list_faults(browser) == []
        await segment(browser)
        assert await list_faults(browser) == []
        assert await browser.run("document.documentElement.scrollWidth") <= width


async def test_an_image_can_be_pasted_dropped_or_taken_with_the_webcam(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        for event, holder in (("ClipboardEvent('paste'", "clipboardData"), ("DragEvent('drop'", "dataTransfer")):
            await browser.run(
                "fetch('examples/first.png').then((answer) => answer.blob()).then((blob) => { const data = new DataTransfer();"
                f"data.items.add(new File([blob], '{holder}.png', {{type: 'image/png'}}));"
                f"document.dispatchEvent(new {event}, {{{holder}: data, bubbles: true, cancelable: true}})) }})"
            )
            await browser.wait_for("document.querySelector('#image').naturalWidth === 256")
            name = "pasted image" if holder == "clipboardData" else "dataTransfer.png"
            await browser.wait_for(f"document.querySelector('#status').textContent.startsWith('{name} is open')")
        await browser.send("Browser.grantPermissions", permissions=["videoCapture"])
        await click(browser, "#camera")
        await browser.wait_for("document.querySelector('#video').videoWidth > 0")
        await click(browser, "#capture")
        await browser.wait_for("document.querySelector('#status').textContent.startsWith('webcam.png is open')")
        await browser.wait_for("document.querySelector('#image').naturalWidth > 256")


@contextmanager
def serve_elsewhere() -> Iterator[tuple[str, list[str]]]:
    """Serve a server of another origin that any page may use; yield its URL and the paths that it is asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


async def test_the_page_asks_nobody_but_its_server(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        await segment(browser)
        names = await browser.run("performance.getEntriesByType('resource').map(({name}) => name)")
        assert names
        assert all(name.startswith((address, f"blob:{address}")) for name in names), names
        with serve_elsewhere() as (other, paths):
            assert (httpx.get(f"{other}/from-the-test").status_code, paths) == (200, ["/from-the-test"])
            assert await browser.run(f"fetch('{other}/from-the-page').then(() => 'fetched', () => 'blocked')") == "blocked"
            assert paths == ["/from-the-test"]
        browser.errors.clear()  # of that request
        outside = "document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = true'}))"
        await browser.run(outside)
        assert await browser.run("window.ran") is None
        browser.errors.clear()


async def test_an_error_is_said_in_the_servers_words(tmp_path: Path, address: str) -> None:
    async with open_page(tmp_path, address) as browser:
        await click(browser, "#expression")
        await type_text(browser, ANY_MEMBER)
        await click(browser, "#segment")
        await browser.wait_for("document.querySelector('#status').textContent.includes('choose an image first')")
        broken = tmp_path / "broken.png"
        broken.write_bytes(b"not an image")
        document = await browser.send("DOM.getDocument")
        node = await browser.send("DOM.querySelector", nodeId=document["root"]["nodeId"], selector="#file")
        await browser.send("DOM.setFileInputFiles", files=[str(broken)], nodeId=node["nodeId"])
        await click(browser, "#segment")
        await browser.wait_for("document.querySelector('#status').textContent.includes('That did not work')")
        assert "422" not in await browser.run("document.querySelector('#status').textContent")
        browser.errors.clear()  # the browser logs the status
