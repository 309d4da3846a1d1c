"""`sam4mllm chat`: puts models, graph, history and terminal together. Imports what it needs when it runs."""

import argparse
import asyncio
import os
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, quote_text

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["add_commands", "hold"]


def add_commands(commands: Any) -> None:
    """Registers `chat` on the parser's subcommands."""
    chat = commands.add_parser("chat", help="segment in conversation: 'the red ring', 'no, the other one', /undo, /save")
    chat.add_argument("image", metavar="IMAGE", nargs="?", help="the picture: a path or a data URI; /image opens more")
    chat.add_argument(
        "--mllm", metavar="SPEC", help="embedded, a folder or a hub id, +ADAPTER (default: $SAM4MLLM_MLLM or embedded)"
    )
    chat.add_argument(
        "--segmenter", metavar="SPEC", help="embedded, a folder or a hub id (default: $SAM4MLLM_SEGMENTER or embedded)"
    )
    chat.add_argument("--dialect", metavar="NAME", help="how the MLLM is spoken to (default: its dialect.json, else plain)")
    chat.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1 and so on (default: the first CUDA device, else the CPU)"
    )
    chat.add_argument(
        "--chat-model",
        metavar="SPEC",
        help="PROVIDER:MODEL for what is no plain request, as LangChain has it (default: $SAM4MLLM_CHAT_MODEL or none)",
    )
    chat.add_argument(
        "--out", metavar="DIR", type=Path, help="where the newest result is (default: beside the picture, its name and -chat)"
    )
    chat.add_argument(
        "--history", metavar="FILE", type=Path, help="SQLite file that keeps conversations; their pictures in FILE.pictures"
    )
    chat.add_argument("--thread", metavar="ID", default="chat", help="which conversation of the history (default: %(default)s)")
    chat.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.images.load import load_image

    if arguments.image is not None:  # what costs nothing to check is checked before any model is loaded
        load_image(arguments.image)
    model = _chat_model(arguments.chat_model)
    if arguments.history:
        _check_history(arguments.history)

    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

    models = Sam4Mllm.load(arguments.mllm, arguments.segmenter, dialect=arguments.dialect, device=arguments.device)
    hold(models, arguments.image, model=model, history=arguments.history, thread=arguments.thread, out=arguments.out)


def hold(
    models: "Sam4Mllm",
    image: str | None = None,
    *,
    model: "BaseChatModel | None" = None,
    history: Path | None = None,
    thread: str = "chat",
    out: Path | None = None,
) -> None:
    """Holds a conversation in this terminal, or through a pipe, until it is left.

    The arguments are those of the command. Raises Sam4MllmError where it can't begin.
    """
    from sam4mllm_tool.agents.chat import NoChatModel, build_chat_graph
    from sam4mllm_tool.cli.conversation import Conversation
    from sam4mllm_tool.cli.result_files import ResultFiles
    from sam4mllm_tool.cli.terminal import Terminal
    from sam4mllm_tool.tools import Sam4MllmToolkit
    from sam4mllm_tool.tools.image_store import PictureStore

    store = PictureStore(folder=f"{history}.pictures") if history else PictureStore()
    toolkit = Sam4MllmToolkit(sam4mllm=models, pictures=store)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            graph = build_chat_graph(model or NoChatModel(), toolkit, runner.run(_open_history(stack, history)))
            terminal = Terminal(Conversation(graph, store, thread), runner, ResultFiles(out or _beside(image)))
            terminal.begin(image)
            terminal.run()
        finally:
            runner.run(stack.aclose())


def _chat_model(spec: str | None) -> "BaseChatModel | None":
    """Raises MissingExtraError, SpecError."""
    try:
        from sam4mllm_tool.agents.chat import load_chat_model
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("langchain", "langgraph"):
            raise
        raise MissingExtraError(str(error.name).partition(".")[0], "agents") from error
    spec = os.environ.get("SAM4MLLM_CHAT_MODEL") if spec is None else spec
    return load_chat_model(spec) if spec else None


def _check_history(file: Path) -> None:
    """Raises Sam4MllmError where the file can't be used."""
    try:
        with closing(sqlite3.connect(file)) as tried:
            tried.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        raise Sam4MllmError(
            f"the history {quote_text(str(file))} can't be used: {error}; give a file that chat wrote"
        ) from error


async def _open_history(stack: AsyncExitStack, file: Path | None) -> "BaseCheckpointSaver[Any]":
    """Raises MissingExtraError, or Sam4MllmError where the file can't be used."""
    if file is None:
        from langgraph.checkpoint.memory import InMemorySaver

        return InMemorySaver()
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ModuleNotFoundError as error:
        raise MissingExtraError("langgraph-checkpoint-sqlite", "agents") from error
    _check_history(file)  # a thread of aiosqlite would tell a file that can't be opened in its own way
    return await stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(file)))


def _beside(image: str | None) -> Path:
    """A folder beside the picture, or in the current one where there is none to be beside."""
    if image is None or image.strip().lower().startswith("data:"):
        return Path("chat")
    path = Path(image)
    return path.with_name(f"{path.stem}-chat")
