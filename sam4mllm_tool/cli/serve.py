"""The command `sam4mllm serve`: the tools over HTTP. Imports what it needs when it runs."""

import logging
import math
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sam4mllm_tool.cli.options import (
    LOADING_OPTIONS,
    DialectOption,
    MethodOption,
    MllmOption,
    SegmenterOption,
    given_options,
    refuse_options,
    with_options,
)
from sam4mllm_tool.errors import MissingExtraError
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.server.settings import ServerSettings

__all__ = ["WEB_HELP", "serve"]

WEB_HELP = "Serve the web page, and open it in the browser.\n\nIt is `sam4mllm serve` with its options."

_KEEP_ALIVE_S = 150
"""How long an idle connection is kept, in seconds: longer than clients and proxies keep theirs (httpx 5, nginx 60, Caddy 120),
as a request that is sent while the server closes the connection fails."""

_REPLICA_OPTIONS = ("min_replicas", "max_replicas", "gpus_per_replica", "cpus_per_replica")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _option(name: str, kind: Any, default: Any, metavar: str | None, text: str) -> Parameter:
    info = typer.Option(metavar=metavar, help=text, rich_help_panel="Server")
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


_SERVER_OPTIONS = [
    _option("host", str, "127.0.0.1", "NAME", "Address to listen at; 0.0.0.0 for every one."),
    _option("port", int, 8765, "N", "Port to listen at; 0 takes a free one."),
    _option(
        "chat_model", str, None, "PROVIDER:MODEL", "Chat model for what is no plain request in /v1/chat, as in openai:gpt-5."
    ),
    _option(
        "auth_token",
        list[str],
        [],
        "TOKEN",
        "Token that clients have to send; repeatable. Other users see it in the list of processes: --auth-token-file and "
        "$SAM4MLLM_AUTH_TOKEN keep it.",
    ),
    _option("auth_token_file", Path | None, None, "FILE", "File with one token a line."),
    _option("allow_origin", list[str], [], "URL", "Origin of web pages elsewhere that may use the server; repeatable."),
    _option("image_root", list[Path], [], "DIR", "Folder whose images clients may name by their paths; repeatable."),
    _option("allow_url_host", list[str], [], "NAME", "Host that images may be fetched from; repeatable."),
    _option("max_body_bytes", int, 64 * 2**20, "N", "Largest body of a request, in bytes."),
    _option("max_batch", int, 16, "N", "Requests that are worked on at a time."),
    _option("max_queue", int, 64, "N", "Requests that may wait besides; more are answered by status 429."),
    _option("request_timeout_s", float, 120.0, "S", "Seconds after which a request is dropped."),
    _option("body_timeout_s", float, 30.0, "S", "Seconds within which a request's head, and then its body, have to arrive."),
    _option("gather_ms", float, 5.0, "MS", "Milliseconds that an idle server waits for more requests."),
    _option("shutdown_timeout_s", float, 60.0, "S", "Seconds in which a stopping server finishes its work."),
    _option("store_bytes", int, 512 * 2**20, "N", "Memory for images, and for results, in bytes."),
    _option("log_expressions", bool, False, None, "Write what was asked for into the log."),
]


@with_options([*_SERVER_OPTIONS, *LOADING_OPTIONS])
def serve(
    ctx: typer.Context,
    mllm: MllmOption = None,  # noqa: ARG001 - this and the next three are settings
    segmenter: SegmenterOption = None,  # noqa: ARG001
    method: MethodOption = "adaptive",  # noqa: ARG001
    dialect: DialectOption = None,  # noqa: ARG001
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings of the server by name, as in max_batch = 8.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(metavar="local|ray", help="Where the models run: in this process, or in replicas of Ray Serve."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the Ray cluster, as in auto. Needs --engine ray.",
            show_default="$RAY_ADDRESS, or else a new cluster on this machine",
        ),
    ] = None,
    min_replicas: Annotated[
        int, typer.Option(metavar="N", min=1, help="Least replicas of each model. Needs --engine ray.")
    ] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Most replicas, while requests wait. Needs --engine ray.", show_default="the least"
        ),
    ] = None,
    gpus_per_replica: Annotated[
        float, typer.Option(metavar="X", min=0, help="GPUs of each replica, such as 1 or 0.5. Needs --engine ray.")
    ] = 0.0,
    cpus_per_replica: Annotated[
        float, typer.Option(metavar="X", min=0, help="CPU cores of each replica. Needs --engine ray.")
    ] = 1.0,
    **options: Any,
) -> None:
    """Serve the tools over HTTP.

    The environment may set them, too, as in SAM4MLLM_PORT=80, and so may the file of --config; docs/server.md lists all
    settings. A flag wins over the environment, and that over the file.
    """
    if engine != "ray":
        refuse_options(ctx, ("address", *_REPLICA_OPTIONS), "no effect without --engine ray")
    with _name_missing_extra():
        from sam4mllm_tool.server.settings import load_settings
    names = {"mllm", "segmenter", "dialect", "method", *(parameter.name for parameter in _SERVER_OPTIONS)}
    flags = {name: value for name, value in given_options(ctx, ctx.params).items() if name in names}
    settings = load_settings(config, **{name: tuple(v) if isinstance(v, list) else v for name, v in flags.items()})
    if ctx.info_name == "web" and settings.port == 0:
        raise typer.BadParameter("the page needs a port that is known beforehand: give another than 0", param_hint="'--port'")
    if settings.host not in _LOOPBACK and not settings.tokens:
        warning = f"everybody who reaches {settings.host} may use the server: give --auth-token-file"
        print(f"sam4mllm: warning: {warning}", file=sys.stderr)
    loading = LoadOptions(**{name: value for name, value in options.items() if name not in names})

    if ctx.info_name == "web":
        threading.Thread(target=_open_page, args=(settings.host, settings.port), daemon=True).start()
    if engine == "ray":
        replicas = {"min_replicas": min_replicas, "max_replicas": max(min_replicas, max_replicas or min_replicas)}
        resources = {"gpus_per_replica": gpus_per_replica, "cpus_per_replica": cpus_per_replica}
        _serve_on_ray(settings, loading, address, **replicas, **resources)
        return
    _log_runs(with_expressions=settings.log_expressions)
    with _name_missing_extra():
        served = _ServedModels(settings, loading)
    served.serve()


def _serve_on_ray(settings: "ServerSettings", loading: LoadOptions, address: str | None, **replicas: Any) -> None:
    if settings.port == 0:
        raise typer.BadParameter("Ray Serve needs a port that is known beforehand: give another than 0", param_hint="'--port'")
    with _name_missing_extra("ray"):
        from sam4mllm_tool.server.ray_app import serve_on_ray
        from sam4mllm_tool.server.settings import RayServeSettings
    serve_on_ray(settings, loading, RayServeSettings(**replicas), address, keep_alive_s=_KEEP_ALIVE_S)


@contextmanager
def _name_missing_extra(extra: str = "serve") -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "fastapi", extra) from error


class _ServedModels:
    """The process: it serves while it loads its models, and ends if they can't be loaded.

    Args:
        settings: The server's settings.
        loading: How the models are loaded.
    """

    def __init__(self, settings: "ServerSettings", loading: LoadOptions) -> None:
        import uvicorn

        from sam4mllm_tool.server.app import create_app
        from sam4mllm_tool.server.header_timeout import limit_header_time

        self._settings, self._loading = settings, loading
        self._error: Exception | None = None
        config = uvicorn.Config(
            create_app(self._load, settings),
            host=settings.host,
            port=settings.port,
            http=limit_header_time(settings.body_timeout_s),
            log_level="info",
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
        )
        self._server = uvicorn.Server(config)

    def serve(self) -> None:
        """Serve until a signal to end.

        Raises:
            Exception: Why the models can't be loaded.
            SystemExit: The server can't listen at its address.
        """
        self._server.run()
        if self._error is not None:
            raise self._error
        if not self._server.started:
            raise SystemExit(1)

    def _load(self) -> "Sam4Mllm":
        from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

        settings = self._settings
        try:
            return Sam4Mllm.load(settings.mllm, settings.segmenter, dialect=settings.dialect, options=self._loading)
        except Exception as error:
            self._error = error
            self._server.should_exit = True
            raise


def _log_runs(*, with_expressions: bool) -> None:
    """Print a line of JSON per run, beside uvicorn's line per request."""
    from sam4mllm_tool.pipeline.run_log import LOGGER

    LOGGER.addHandler(logging.StreamHandler(sys.stdout))
    LOGGER.setLevel(logging.DEBUG if with_expressions else logging.INFO)


def _open_page(host: str, port: int) -> None:
    """Open the page once the server answers, and say where it is."""
    import httpx

    url = f"http://{host if host in ('127.0.0.1', 'localhost') else '127.0.0.1'}:{port}/"
    for _ in range(600):
        with suppress(httpx.HTTPError):
            httpx.get(f"{url}healthz", timeout=5)
            print(f"sam4mllm: the page is at {url}", file=sys.stderr)
            webbrowser.open(url)
            return
        time.sleep(0.1)
