"""What goes wrong with a server, in one line that names the cause and the cure, without the key and the image."""

import os
import re
from typing import Any

import openai

from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.models.mllm.redaction import redact
from sam4mllm_tool.models.mllm.server_keys import ask_for_key

__all__ = ["describe_failure"]

_KEY = re.compile(r"key\b|\bauth|\bcredential|\btoken\b", re.IGNORECASE)
"""How servers name the key that they refuse."""


def describe_failure(error: Exception, *, url: str, model: str, timeout_s: float, key_variable: str, key: str) -> str:
    """Return the cause of a failed request and its cure.

    Args:
        error: What the client raised.
        url: The server's.
        model: The model's name there.
        timeout_s: How long the client waited, in seconds.
        key_variable: Where the key came from; empty without one.
        key: Left out of what the server said.
    """
    if isinstance(error, openai.APITimeoutError):
        return (
            f"the server at {url} gave no answer within {timeout_s:g} s: it may be loading the model or overloaded, try again"
        )
    if isinstance(error, openai.APIConnectionError):
        reason = redact(_root_message(error), key)
        return f"the server at {url} can't be reached ({reason}): start it, or correct the URL"
    if isinstance(error, openai.APIStatusError):
        return _describe_status(error, url, model, key_variable, redact(_server_message(error), key))
    return f"{url} gave no answer of an OpenAI-compatible API: correct the URL, which mostly ends in /v1"


def _describe_status(error: openai.APIStatusError, url: str, model: str, key_variable: str, reason: str) -> str:
    status = error.status_code
    if status == 403 and not _KEY.search(reason):
        hint = "" if key_variable else f"; if it wants a key, {ask_for_key(url)}"
        return f"the server at {url} doesn't allow the request for {quote_text(model)} (403): {reason}{hint}"
    if status in (401, 403):
        if key_variable:
            return f"the server at {url} refused the key in {key_variable} ({status}): set a valid one"
        return f"the server at {url} wants a key ({status}): {ask_for_key(url)}"
    if status == 404 and not _names_model(reason, model):
        return f"{url} is no OpenAI-compatible API (404): correct the URL, which mostly ends in /v1"
    if status == 404:
        return f"the server at {url} has no model {quote_text(model)}: {reason}"
    if status == 429:
        return f"the server at {url} refused the request because of a limit (429): {reason}; try later"
    return f"the server at {url} failed to answer for {quote_text(model)} ({status}): {reason}"


def _names_model(reason: str, model: str) -> bool:
    return model.casefold() in reason.casefold() or "model" in reason.casefold()


def _server_message(error: openai.APIStatusError) -> str:
    body: Any = error.body
    for _ in range(3):
        if isinstance(body, dict):
            body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), "")
    text = body if isinstance(body, str) and body else error.message if body else ""
    return "the server gave no reason" if not text or "<html" in text.lower() or "<!doctype" in text.lower() else text


def _root_message(error: BaseException) -> str:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno or 0)
    return str(error) or type(error).__name__
