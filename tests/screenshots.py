"""Takes the pictures of pages for the docs: `python -m tests.screenshots` (needs Chromium and the extras serve and mcp)."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.browser import Browser
from tests.example_scene import ANY_MEMBER, EXPRESSION
from tests.server.mcp.test_result_app import show
from tests.server.test_web_page import click, open_page, segment, serve_page, type_text, upload, wait_for_result

_DOCS = Path(__file__).parents[1] / "docs"
_CHAT = ((1, f"please find {EXPRESSION}"), (1, "how big is it?"), (2, "no, the other one"))


async def _set_scheme(browser: Browser, scheme: str) -> None:
    await browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


async def _segment_example(browser: Browser, image: Path) -> None:
    await segment(browser)
    await browser.run("window.scrollTo(0, 0); document.activeElement.blur()")
    await browser.wait_for("document.getAnimations().every(({playState}) => playState === 'finished')")
    await browser.screenshot(image)


async def _chat(browser: Browser, image: Path) -> None:
    await upload(browser)
    for count, text in _CHAT:
        await click(browser, "#instruction")
        await type_text(browser, text)
        await click(browser, "#chat button:not([type])")
        await browser.wait_for(f"document.querySelector('#conversation').textContent.includes('{text}')")
        await wait_for_result(browser, count)
    await browser.run("document.querySelector('#stage').scrollIntoView(); document.activeElement.blur()")
    await browser.wait_for("document.getAnimations().every(({playState}) => playState === 'finished')")
    await browser.screenshot(image)


async def _take_all(folder: Path) -> None:
    with serve_page() as address, TemporaryDirectory() as profiles:
        async with open_page(Path(profiles) / "1", address) as browser:
            await _segment_example(browser, folder / "web.png")
        async with open_page(Path(profiles) / "2", address, 375, 1500) as browser:
            await _set_scheme(browser, "dark")
            await _segment_example(browser, folder / "web_phone.png")
        async with open_page(Path(profiles) / "3", address) as browser:
            await _chat(browser, folder / "web_chat.png")
        async with show(Path(profiles) / "4", ANY_MEMBER) as host:
            await host.click("The other one")
            await host.wait_for_result(2)
            await host.browser.screenshot(folder / "mcp_app.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=_DOCS, help="where they are written")
    asyncio.run(_take_all(parser.parse_args(argv).folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
