"""What can go wrong, as one tree. A caller's mistake is also a ValueError; foreign errors are wrapped once, at the backend."""

from sam4mllm_tool.types import Question, Reply


def shown(text: str) -> str:
    """Text of any length as a message shows it: quoted, on one line, at most some 200 characters."""
    quoted = repr(text)
    return quoted if len(quoted) <= 200 else f"{quoted[:120]}...{quoted[-60:]}"


class Sam4MllmError(Exception):
    """Everything this package raises on purpose. The message says what was wrong, where, and what to do."""


class ImageError(Sam4MllmError, ValueError):
    """A picture that cannot be read, or that is over a limit."""


class ExpressionError(Sam4MllmError, ValueError):
    """An expression that is empty or too long."""


class SpecError(Sam4MllmError, ValueError):
    """A model spec that names nothing that can be loaded."""


class DataError(Sam4MllmError, ValueError):
    """A data set, or a file made from one, that can't be used. Names the file and the record."""


class MissingExtraError(Sam4MllmError, ImportError):
    """A dependency is not installed. extra: the optional dependencies that hold it; none for one that is always needed."""

    def __init__(self, what: str, extra: str = "") -> None:
        super().__init__(f'{what} is not installed: pip install "sam4mllm-tool{f"[{extra}]" if extra else ""}"')


class OverBudgetError(Sam4MllmError):
    """The next step could take more than is left of a budget (`looking.Budget`)."""


class BackendError(Sam4MllmError):
    """A model failed while it ran: out of memory, a broken checkpoint, a server that does not answer."""


class ReplyError(Sam4MllmError):
    """The model's reply breaks the dialogue's format. Carries both sides."""

    def __init__(self, reason: str, question: Question, reply: Reply) -> None:
        super().__init__(f"{reason}; asked {question.turns[-1].text!r}, the model said {reply.text[:200]!r}")
        self.reason = reason
        self.question = question
        self.reply = reply

    def __reduce__(self) -> tuple[type["ReplyError"], tuple[str, Question, Reply]]:
        return ReplyError, (self.reason, self.question, self.reply)
