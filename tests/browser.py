"""Chromium, driven through its own debugging pipe: real mouse clicks and keys, scripts, screenshots, calls from a page."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",  # a webcam
    "--remote-debugging-pipe",
)


class Browser:
    """One page of a browser."""

    def __init__(self, reader: asyncio.StreamReader, commands: int) -> None:
        self._reader, self._commands = reader, commands
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: str | None = None
        self.errors: list[str] = []
        """What the page's scripts raised or logged as an error."""
        self.on_call: Callable[[Any], Awaitable[Any]] | None = None
        """Answers `callTest(value)` of the page's scripts."""

    async def read_forever(self) -> None:
        """Read what the browser sends until it ends."""
        while True:
            try:
                message = json.loads((await self._reader.readuntil(b"\0"))[:-1])
            except asyncio.IncompleteReadError:
                return
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif message["method"] == "Runtime.bindingCalled":
                self._start(self._answer_page(json.loads(message["params"]["payload"])))
            elif message["method"] == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": number, "method": method, "params": params, **session}
        future = self._answers[number]
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        answer = await asyncio.wait_for(future, 60)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, width: int, height: int) -> None:
        """Open a page of this size in pixels."""
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Page", "Log"):
            await self.send(f"{domain}.enable")
        await self.send("Runtime.addBinding", name="_callTest")
        await self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    async def _answer_page(self, call: dict[str, Any]) -> None:
        assert self.on_call is not None
        answer = await self.on_call(call["value"])
        await self.run(f"_answerCall({call['id']}, {json.dumps(answer)})")

    async def run(self, script: str) -> Any:
        """Run a script in the page and return its value, which is awaited if it is a promise."""
        result = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def wait_for(self, script: str) -> Any:
        """Wait until a script has a true value, and return it."""
        for _ in range(600):
            if value := await self.run(script):
                return value
            await asyncio.sleep(0.1)
        raise AssertionError(
            f"still not true: {script}; errors: {self.errors}; page: {await self.run('document.body.innerText')}"
        )

    async def click(self, x: float, y: float) -> None:
        """Click with the mouse at a place of the page."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """Press and release a key, such as Tab, Enter or ArrowLeft."""
        code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}.get(key, 0)
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    async def screenshot(self, path: Path) -> None:
        """Write what the page shows as PNG."""
        path.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot"))["data"]))


_CALL_TEST = """
const calls = new Map();
window.callTest = (value) => new Promise((resolve) => {
  calls.set(calls.size, resolve);
  _callTest(JSON.stringify({id: calls.size - 1, value}));
});
window._answerCall = (id, answer) => calls.get(id)(answer);
"""


@asynccontextmanager
async def open_browser(folder: Path, width: int = 900, height: int = 900) -> AsyncIterator[Browser]:
    """Start Chromium with an empty page, whose scripts can await `callTest(value)`.

    Args:
        folder: For its profile.
        width: Of the page, in pixels.
        height: Of the page, in pixels.
    """
    commands_read, commands_write = os.pipe()
    answers_read, answers_write = os.pipe()
    shell = f'exec chromium "$@" 3<&{commands_read} 4>&{answers_write}'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", shell, "chromium", *FLAGS, f"--user-data-dir={folder / 'profile'}"),
        pass_fds=(commands_read, answers_write),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(commands_read)
    os.close(answers_write)
    reader = asyncio.StreamReader(limit=2**26)
    with os.fdopen(answers_read, "rb") as pipe:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        browser = Browser(reader, commands_write)
        reading = asyncio.create_task(browser.read_forever())
        try:
            await browser.open(width, height)
            await browser.send("Page.addScriptToEvaluateOnNewDocument", source=_CALL_TEST)
            await browser.run(_CALL_TEST)
            yield browser
        finally:
            os.close(commands_write)  # which ends it
            await process.wait()
            reading.cancel()
            transport.close()
