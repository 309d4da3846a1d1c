"""The error tree. A caller's mistake is also a ValueError; foreign exceptions are wrapped once, at the backend."""

from sam4mllm_tool.types import Question, Reply


def quote_text(text: str) -> str:
    """Quote text of any length for a message: on one line, at most some 200 characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= 200 else f"{quoted[:120]}...{quoted[-60:]}"


def count_noun(count: int, noun: str, plural: str = "") -> str:
    """Return `1 image`, `2 images`, `1,000 boxes`.

    Args:
        count: How many.
        noun: In the singular.
        plural: Where it is not the noun with an s.
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


class Sam4MllmError(Exception):
    """Base of every error that this package raises on purpose. The message says what was wrong, where, and what to do."""


class ImageError(Sam4MllmError, ValueError):
    """An image that cannot be read, or that exceeds a limit."""


class ExpressionError(Sam4MllmError, ValueError):
    """An expression that is empty or too long."""


class SpecError(Sam4MllmError, ValueError):
    """A model spec that names nothing that can be loaded."""


class DataError(Sam4MllmError, ValueError):
    """A dataset, or a file made from one, that can't be used. The message names the file and the record."""


class MissingExtraError(Sam4MllmError, ImportError):
    """A dependency is not installed.

    Args:
        package: The missing package.
        extra: The extra of this package that installs it; empty for a base dependency.
    """

    def __init__(self, package: str, extra: str = "") -> None:
        extras = f"[{extra}]" if extra else ""
        super().__init__(f'{package} is not installed: pip install "sam4mllm-tool{extras}"')
        self._arguments = package, extra

    def __reduce__(self) -> "tuple[type[MissingExtraError], tuple[str, str]]":
        return type(self), self._arguments


class ModelWarning(UserWarning):
    """A model was loaded that may not be what was meant. The command prints it as one line on stderr."""


class ServiceError(Sam4MllmError):
    """A server can't serve a request, whatever is asked: it fails, or it can't be reached."""


class ServiceBusyError(ServiceError):
    """A server has too much to do, or is starting or stopping. Try again later.

    Args:
        message: What the server does instead.
        retry_after_s: When to try again, in seconds.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> "tuple[type[ServiceBusyError], tuple[str, float]]":
        return type(self), (str(self), self.retry_after_s)


class QueueFullError(ServiceBusyError):
    """A server's queue is full."""


class TooLateError(ServiceError):
    """A request waited for longer than the server lets one wait."""


class AccessError(ServiceError):
    """A server wants a token, or another one."""


class BadRequestError(ServiceError, ValueError):
    """A request that the server can't read or doesn't accept."""


class OverBudgetError(Sam4MllmError):
    """The next request could take more than is left of a budget (`reasoning.Budget`)."""


class BackendError(Sam4MllmError):
    """A model failed while it ran: out of memory, a broken checkpoint, a server that does not answer."""


class EmptyMaskError(Sam4MllmError):
    """The segmenter found no pixel in any box that the MLLM gave. The message names the boxes."""


class ReplyError(Sam4MllmError):
    """The model's reply breaks the dialogue's format.

    Args:
        reason: What is wrong with the reply.
        question: The question that was asked.
        reply: The reply as the model gave it.
    """

    def __init__(self, reason: str, question: Question, reply: Reply) -> None:
        super().__init__(f"{reason}; asked {question.turns[-1].text!r}, the model said {reply.text[:200]!r}")
        self.reason = reason
        self.question = question
        self.reply = reply

    def __reduce__(self) -> tuple[type["ReplyError"], tuple[str, Question, Reply]]:
        return ReplyError, (self.reason, self.question, self.reply)
