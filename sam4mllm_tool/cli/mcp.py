"""The command `sam4mllm mcp`: the tools for an assistant, over stdin and stdout. Imports what it needs when it runs."""

import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam4mllm_tool.cli.image_arguments import AllowUrlOption
from sam4mllm_tool.cli.options import LOADING_OPTIONS, DialectOption, MethodOption, MllmOption, SegmenterOption, with_options
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["mcp"]


@with_options(LOADING_OPTIONS)
def mcp(
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    method: MethodOption = "adaptive",
    dialect: DialectOption = None,
    image_root: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR",
            help="Folder whose images the assistant may open by their paths. Repeatable; without it, none are opened.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    allow_url: AllowUrlOption = False,
    **loading: Any,
) -> None:
    """Serve the tools to an assistant over MCP, on stdin and stdout.

    An assistant starts this command itself: docs/mcp.md shows the configuration of the well-known ones.
    """
    for folder in image_root:
        if not folder.is_dir():
            raise Sam4MllmError(f"--image-root {quote_text(str(folder))} is not a folder: give a folder of images")
    from sam4mllm_tool.server.mcp import McpSettings, create_mcp_server

    roots = tuple(folder.resolve() for folder in image_root)
    settings = McpSettings(policy=ImagePolicy(allow_paths=roots or False, allow_urls=allow_url), method=method)
    models = _load_in_background(mllm, segmenter, dialect, LoadOptions(**loading))
    create_mcp_server(models.result, settings).run("stdio")


def _load_in_background(
    mllm: str | None, segmenter: str | None, dialect: str | None, options: LoadOptions
) -> "Future[Sam4Mllm]":
    """Load the models while the assistant connects: it waits for a minute at most, and large models take longer.

    Calls that come before wait. Where the models can't be loaded, stderr says why, and so does every call.
    """
    models: Future[Sam4Mllm] = Future()

    def load() -> None:
        from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

        try:
            models.set_result(Sam4Mllm.load(mllm, segmenter, dialect=dialect, options=options))
        except BaseException as error:  # noqa: BLE001 - it is raised where the models are asked for
            print(f"sam4mllm: {' '.join(str(error).split())}", file=sys.stderr)
            models.set_exception(error)

    threading.Thread(target=load, daemon=True).start()
    return models
