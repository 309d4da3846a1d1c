"""The command `sam4mllm chat`: connects models, chat graph, history and terminal. Imports what it needs when it runs."""

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam4mllm_tool.cli.chat_models import load_optional_chat_model, require_agents
from sam4mllm_tool.cli.image_arguments import AllowUrlOption, choose_policy, open_image
from sam4mllm_tool.cli.options import LOADING_OPTIONS, DialectOption, MllmOption, SegmenterOption, refuse_options, with_options
from sam4mllm_tool.cli.quick_loading import quick_loading
from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, quote_text
from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["chat", "run_conversation"]


@with_options(LOADING_OPTIONS)
def chat(
    ctx: typer.Context,
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="The image: a path, a data URI or a URL. /image opens more of them.")
    ] = None,
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    dialect: DialectOption = None,
    allow_url: AllowUrlOption = False,
    chat_model: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER:MODEL",
            help="LangChain chat model for what is not a plain request, as in openai:gpt-5.",
            show_default="$SAM4MLLM_CHAT_MODEL, or else none",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the results, in a folder per image.",
            show_default="beside each image, in a folder of its name with -chat",
        ),
    ] = None,
    points: Annotated[bool, typer.Option("--points/--no-points", help="Draw the points into overlays.")] = True,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="SQLite file that keeps conversations; their images go to FILE.pictures."),
    ] = None,
    thread: Annotated[str, typer.Option(metavar="ID", help="Conversation of the history to continue or to begin.")] = "chat",
    **loading: Any,
) -> None:
    """Segment in conversation: 'the red mug', 'no, the other one', /undo, /save.

    Type /help in the conversation for its commands.
    """
    from sam4mllm_tool.images.export import make_folder

    policy, options = choose_policy(allow_url), LoadOptions(**loading)
    if image is not None:  # whatever costs nothing to check is checked before the models are loaded
        open_image(image, policy)
    if out:
        make_folder(out)
    if history:
        _check_history(history)
    else:
        refuse_options(ctx, ("thread",), "no effect without --history")
    require_agents()
    with _show_progress("loading the models"):
        model = load_optional_chat_model(chat_model)

        from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

        with quick_loading(options):
            models = Sam4Mllm.load(mllm, segmenter, dialect=dialect, options=options)
    run_conversation(models, image, model=model, history=history, thread=thread, out=out, policy=policy, points=points)


@contextmanager
def _show_progress(text: str) -> Iterator[None]:
    """Show the text beside a spinner, in a terminal only."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{text} ..."):
        yield


def run_conversation(
    models: "Sam4Mllm",
    image: str | None = None,
    *,
    model: "BaseChatModel | None" = None,
    history: Path | None = None,
    thread: str = "chat",
    out: Path | None = None,
    policy: ImagePolicy = CALLER_POLICY,
    points: bool = True,
) -> None:
    """Run a conversation in this terminal, or through a pipe, until the user leaves it.

    Args:
        models: The pair that segments.
        image: Path or data URI of the first image.
        model: Chat model for what is not a plain request.
        history: SQLite file that keeps the conversation; in memory by default.
        thread: Id of the conversation in the history.
        out: Folder of the results, in a folder per image; beside each image by default.
        policy: Which images may be opened.
        points: Whether overlays show the points.

    Raises:
        Sam4MllmError: The conversation can't begin.
    """
    from sam4mllm_tool.agents.chat import NoChatModel, build_chat_graph
    from sam4mllm_tool.cli.conversation import ChatThread
    from sam4mllm_tool.cli.result_files import ResultFiles
    from sam4mllm_tool.cli.terminal import Terminal
    from sam4mllm_tool.tools import Sam4MllmToolkit
    from sam4mllm_tool.tools.image_store import ImageStore

    store = ImageStore(folder=f"{history}.pictures") if history else ImageStore()
    toolkit = Sam4MllmToolkit(sam4mllm=models, image_store=store)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            graph = build_chat_graph(model or NoChatModel(), toolkit, runner.run(_open_history(stack, history)))
            conversation = ChatThread(graph, store, thread, policy=policy)
            terminal = Terminal(conversation, runner, ResultFiles(out, points=points))
            terminal.begin(image)
            terminal.run()
        finally:
            runner.run(stack.aclose())


def _check_history(file: Path) -> None:
    """Raise Sam4MllmError if the file is not a database or can't be made."""
    if file.is_dir() or not file.parent.is_dir():
        reason = "it is a folder; add a file name" if file.is_dir() else f"there is no folder {quote_text(str(file.parent))}"
        raise Sam4MllmError(f"the history {quote_text(str(file))} can't be used: {reason}")
    try:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise Sam4MllmError(
            f"the history {quote_text(str(file))} can't be used: {error}; give a file that chat wrote"
        ) from error


async def _open_history(stack: AsyncExitStack, file: Path | None) -> "BaseCheckpointSaver[Any]":
    """Open the history and leave its closing to the stack. Raises MissingExtraError, Sam4MllmError."""
    if file is None:
        from langgraph.checkpoint.memory import InMemorySaver

        return InMemorySaver()
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ModuleNotFoundError as error:
        raise MissingExtraError("langgraph-checkpoint-sqlite", "agents") from error
    _check_history(file)  # otherwise aiosqlite's thread reports a file that can't be opened, in its own words
    return await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(file)))
