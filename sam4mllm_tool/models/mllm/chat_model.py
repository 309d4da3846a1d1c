"""Ask any chat model of LangChain that takes images."""

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import MLLM

__all__ = ["load_chat_model_mllm"]


def load_chat_model_mllm(remote: RemoteSpec, *, name: str, dialect: Dialect | None = None) -> MLLM:
    """Load the chat model of a spec.

    Raises:
        MissingExtraError: The `langchain` package is not installed.
        SpecError: The model can't be used; in one line that says what to do.
    """
    try:
        import langchain.chat_models  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("langchain", "agents") from error
    raise SpecError(f"{name!r}, model {remote.model!r}, can't be asked by this version yet, in {dialect}")
