"""One line for a library that the models need and that is missing or broken. Imports none of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, SpecError

__all__ = ["model_libraries", "root_reason"]


@contextmanager
def model_libraries() -> Iterator[None]:
    """Around the import of what needs torch, transformers or peft.

    Raises MissingExtraError where one is not installed, SpecError where one is there and can't be imported.
    """
    try:
        yield
    except Sam4MllmError:
        raise
    except (ImportError, RuntimeError, OSError, AttributeError, ValueError) as error:  # as broken builds raise them
        root = _root(error)
        if isinstance(root, ModuleNotFoundError) and root.name:
            raise MissingExtraError(root.name.partition(".")[0]) from error
        raise SpecError(
            f"torch, transformers or a library beside them is broken: {root_reason(error)}; "
            "'sam4mllm doctor' lists them: install those that fit each other"
        ) from error


def root_reason(error: BaseException) -> str:
    """The first line of what an error began with; transformers wraps what an import fails with once or twice."""
    root = _root(error)
    return str(root).strip().partition("\n")[0] or type(root).__name__


def _root(error: BaseException) -> BaseException:
    return error if error.__cause__ is None else _root(error.__cause__)
