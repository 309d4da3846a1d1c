"""Say what went wrong in words that a model may read.

What a server, a library or another model wrote could be an instruction, and a path or a page of a traceback is nobody's
business. So such errors are told by their kind alone, absolute paths lose their folders, and every message is one short line.
The whole text is for the log.
"""

import logging
import re
from collections.abc import Iterator

from langchain_core.tools import ToolException

from sam4mllm_tool.errors import BackendError, ReplyError, Sam4MllmError

__all__ = ["MAX_MESSAGE", "describe_error"]

logger = logging.getLogger(__name__)

MAX_MESSAGE = 500
"""Characters of a message."""
_PATH = re.compile(r"(?<![\w/:.~-])(?:~?/|[A-Za-z]:[\\/])(?:[^\s'\"/\\]+[\\/])+(?=[^\s'\"/\\])")
"""The folders of an absolute path; not those of a URL."""
_KINDS = (
    (("OutOfMemoryError", "MemoryError"), "the model ran out of memory: use a smaller image, or try again later"),
    (("TimeoutError", "APITimeoutError", "ReadTimeout"), "the model gave no answer in time: try again later"),
    (("ConnectionError", "APIConnectionError", "ConnectError"), "the model's server can't be reached: try again later"),
    (("RateLimitError",), "the model's server has too many requests: try again later"),
    (("AuthenticationError", "PermissionDeniedError"), "the model's server refused access: the application has to be mended"),
)
"""Names of foreign errors, and what a model is to know of them."""
_FAILED = "the model failed, and the reason was logged: try again once, then say that it doesn't work"
_UNREADABLE = "the model's answer could not be read: try another expression, or try again"


def describe_error(error: Sam4MllmError) -> str:
    """Return the message for a model: our own words on one line, at most `MAX_MESSAGE` characters."""
    foreign = list(_list_foreign_causes(error))
    if isinstance(error, ReplyError):
        text = _UNREADABLE
    elif isinstance(error, BackendError) and foreign:
        names = {kind.__name__ for cause in foreign for kind in type(cause).__mro__}
        text = next((words for kinds, words in _KINDS if names & set(kinds)), _FAILED)
    else:
        text = " ".join("".join(c if c.isprintable() else " " for c in _PATH.sub("", str(error))).split())
    if text != str(error):
        logger.warning("%s: %s", type(error).__name__, error)
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 3]}..."


def _list_foreign_causes(error: BaseException) -> Iterator[BaseException]:
    visited = {id(error)}  # an error that is raised again may be in its own chain
    cause = error.__cause__ or error.__context__
    while cause is not None and id(cause) not in visited:
        visited.add(id(cause))
        if not isinstance(cause, Sam4MllmError | ToolException):
            yield cause
        cause = cause.__cause__ or cause.__context__
