"""The command `sam4mllm serve`: the tools over HTTP. Imports what it needs when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sam4mllm_tool.cli.options import (
    LOADING_OPTIONS,
    DialectOption,
    MethodOption,
    MllmOption,
    SegmenterOption,
    given_options,
    with_options,
)
from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.models.load_options import LoadOptions

__all__ = ["serve"]

_SETTINGS = [
    "host",
    "port",
    "method",
    "auth_token",
    "auth_token_file",
    "allow_origin",
    "image_root",
    "allow_url_host",
    "max_body_bytes",
    "max_batch",
    "max_queue",
    "request_timeout_s",
]


@with_options(LOADING_OPTIONS)
def serve(
    ctx: typer.Context,
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    method: MethodOption = "adaptive",
    dialect: DialectOption = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings of the server by their names, as in max_batch.")
    ] = None,
    host: Annotated[str, typer.Option(metavar="NAME", help="Address to listen at; 0.0.0.0 for every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 8765,
    auth_token: Annotated[
        list[str],
        typer.Option(
            metavar="TOKEN",
            help="Token that clients have to send. Repeatable. Other users see it in the list of "
            "processes: a file or $SAM4MLLM_AUTH_TOKEN keeps it.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    auth_token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with one token a line.")] = None,
    allow_origin: Annotated[
        list[str], typer.Option(metavar="URL", help="Origin of web pages elsewhere that may use the server. Repeatable.")
    ] = [],  # noqa: B006
    image_root: Annotated[
        list[Path], typer.Option(metavar="DIR", help="Folder whose images clients may name by path. Repeatable.")
    ] = [],  # noqa: B006
    allow_url_host: Annotated[
        list[str], typer.Option(metavar="NAME", help="Host that images may be fetched from. Repeatable.")
    ] = [],  # noqa: B006
    max_body_bytes: Annotated[int, typer.Option(metavar="N", help="Largest body of a request, in bytes.")] = 64 * 2**20,
    max_batch: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that are worked on at a time.")] = 16,
    max_queue: Annotated[int, typer.Option(metavar="N", min=1, help="Requests that may wait besides.")] = 64,
    request_timeout_s: Annotated[float, typer.Option(metavar="S", help="Seconds after which a request is dropped.")] = 120,
    **loading: Any,
) -> None:
    """Serve the tools over HTTP.

    Every setting may also be given by the environment, as in SAM4MLLM_PORT=80, or by the file of --config; docs/server.md
    lists them. A flag wins over the environment, and that over the file.
    """
    try:
        import uvicorn

        from sam4mllm_tool.server.app import create_app
        from sam4mllm_tool.server.settings import load_settings
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", "serve") from error
    flags = {name: value for name, value in given_options(ctx, ctx.params).items() if name in _SETTINGS}
    settings = load_settings(config, **{name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()})
    if settings.host not in ("127.0.0.1", "localhost", "::1") and not settings.tokens:
        print(
            f"sam4mllm: warning: everybody who reaches {settings.host} may use the server: give --auth-token-file",
            file=sys.stderr,
        )

    def load() -> Any:
        from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

        return Sam4Mllm.load(mllm, segmenter, dialect=dialect, options=LoadOptions(**loading))

    uvicorn.run(create_app(load, settings), host=settings.host, port=settings.port, log_level="info")
