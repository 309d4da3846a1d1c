"""Specs of MLLMs that run elsewhere: `openai:MODEL@URL` and `langchain:PROVIDER:MODEL`. Standard library only.

Nothing about such a model can be read from files, and no hub is asked about it: its family is guessed by its name.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from sam4mllm_tool.errors import SpecError, quote_text

__all__ = ["RemoteSpec", "parse_remote_spec"]

_OPENAI_EXAMPLE = "openai:Qwen/Qwen3-VL-8B-Instruct@http://localhost:8000/v1"
_LANGCHAIN_EXAMPLE = "langchain:openai:gpt-5"
_URL_AT_END = re.compile(r"(?P<model>.+)@(?P<url>https?://.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class RemoteSpec:
    """What a spec of a remote MLLM names.

    Args:
        kind: The spec's first word: the API that the model is asked through.
        model: The model's name there; may contain slashes, colons and plus signs.
        url: The server's base URL for `openai`, such as "http://localhost:8000/v1".
        provider: LangChain's name of the provider for `langchain`.
    """

    kind: Literal["openai", "langchain"]
    model: str
    url: str = ""
    provider: str = ""


def parse_remote_spec(spec: str) -> RemoteSpec | None:
    """Return what a spec of a remote MLLM names; None for any other spec.

    Raises:
        SpecError: The spec begins with `openai:` or `langchain:` but is malformed. A key in it is not quoted.
    """
    kind, colon, rest = spec.strip().partition(":")
    if not colon:
        return None
    if kind == "openai":
        return _parse_openai(rest)
    return _parse_langchain(rest) if kind == "langchain" else None


def _parse_openai(rest: str) -> RemoteSpec:
    match = _URL_AT_END.fullmatch(rest)
    if match is None:
        model, _, address = rest.rpartition("@")
        if model and address and "://" not in address:
            raise SpecError(f"the URL of the server must begin with http:// or https://: write openai:{model}@http://{address}")
        raise SpecError(f"expected openai:MODEL@URL, as in {_OPENAI_EXAMPLE}; got {quote_text(f'openai:{rest}')}")
    model, url = match["model"], match["url"]
    try:
        parts = urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that don't close
        is_complete = False
    if not is_complete or re.search(r"\s", url):
        raise SpecError(f"the URL of the server is malformed: expected openai:MODEL@URL, as in {_OPENAI_EXAMPLE}")
    if parts.username is not None or parts.query or parts.fragment:
        raise SpecError(
            f"the URL of the server of {quote_text(model)} must not contain a key, a user or a query: results and logs "
            "name the model by its spec. Set the environment's SAM4MLLM_API_KEY or OPENAI_API_KEY"
        )
    return RemoteSpec("openai", model, url=url.rstrip("/"))


def _parse_langchain(rest: str) -> RemoteSpec:
    provider, _, model = rest.partition(":")
    if not re.fullmatch(r"[\w-]+", provider, re.ASCII) or not model.strip():
        raise SpecError(f"expected langchain:PROVIDER:MODEL, as in {_LANGCHAIN_EXAMPLE}; got {quote_text(f'langchain:{rest}')}")
    return RemoteSpec("langchain", model, provider=provider)
