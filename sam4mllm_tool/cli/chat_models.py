"""The option `--chat-model`, and the chat model that it names. No chat library is imported before one is loaded."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from sam4mllm_tool.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["ChatModelOption", "load_optional_chat_model", "require_agents"]

ChatModelOption = Annotated[
    str | None,
    typer.Option(
        "--chat-model",
        metavar="PROVIDER:MODEL",
        help="LangChain chat model that rephrases the expression, as in openai:gpt-5.",
        show_default="$SAM4MLLM_CHAT_MODEL, or else none",
    ),
]


def load_optional_chat_model(spec: str | None) -> "BaseChatModel | None":
    """Load the chat model of a spec, or of the environment; None where neither names one.

    Raises:
        MissingExtraError: The packages for chat models are not installed.
        SpecError: The chat model can't be loaded.
    """
    spec = os.environ.get("SAM4MLLM_CHAT_MODEL") if spec is None else spec
    if not spec:
        return None
    require_agents()
    from sam4mllm_tool.agents.chat import load_chat_model

    return load_chat_model(spec)


def require_agents() -> None:
    """Check that the packages for agents are installed. Raises MissingExtraError."""
    try:
        import sam4mllm_tool.agents.chat  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("langchain", "langgraph"):
            raise
        raise MissingExtraError(str(error.name).partition(".")[0], "agents") from error
