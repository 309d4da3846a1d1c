"""Turn failed imports of model libraries into one-line errors. Imports none of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, SpecError

__all__ = ["root_message", "wrap_import_errors"]


@contextmanager
def wrap_import_errors() -> Iterator[None]:
    """Wrap what importing torch, transformers or peft raises inside the block.

    Raises:
        MissingExtraError: A library is not installed.
        SpecError: A library is installed but can't be imported.
    """
    try:
        yield
    except Sam4MllmError:
        raise
    except (ImportError, RuntimeError, OSError, AttributeError, ValueError) as error:  # broken builds raise any of these
        root = _root_cause(error)
        if isinstance(root, ModuleNotFoundError) and root.name:
            raise MissingExtraError(root.name.partition(".")[0]) from error
        raise SpecError(
            f"torch, transformers or one of their dependencies is broken: {root_message(error)}; "
            "run 'sam4mllm doctor' to list the installed versions, then reinstall compatible ones"
        ) from error


def root_message(error: BaseException) -> str:
    """Return the first line of the root cause's message; transformers wraps a failed import once or twice."""
    root = _root_cause(error)
    return str(root).strip().partition("\n")[0] or type(root).__name__


def _root_cause(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root_cause(error.__cause__)
