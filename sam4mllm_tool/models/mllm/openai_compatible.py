"""Ask an MLLM behind a server that speaks the API of OpenAI: vLLM, SGLang, llama.cpp, Ollama, LM Studio, hosted ones."""

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.protocol import Dialect
from sam4mllm_tool.types import MLLM

__all__ = ["load_openai_compatible"]


def load_openai_compatible(remote: RemoteSpec, *, name: str, dialect: Dialect | None = None) -> MLLM:
    """Connect to the server of a spec.

    Raises:
        MissingExtraError: The `openai` package is not installed.
        SpecError: The model can't be used; in one line that says what to do.
    """
    try:
        import openai  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("openai", "openai") from error
    raise SpecError(f"{name!r}, model {remote.model!r}, can't be asked by this version yet, in {dialect}")
