"""Load models faster where a command has the process to itself, as it has when a shell started it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sam4mllm_tool.models.load_options import LoadOptions

__all__ = ["own_process", "quick_loading"]

_owned: list[bool] = []


def own_process() -> None:
    """Say that this process only runs one command, so that what that command doesn't need may be left out of it."""
    _owned.append(True)


@contextmanager
def quick_loading(options: "LoadOptions") -> Iterator[None]:
    """Load models in the block without what they don't need for answering (see `deferred_imports`) and without pauses.

    Python's garbage collector looks through all that was imported again and again: off in the block, it then leaves that alone.

    Args:
        options: Quantized models, and those that are spread over devices, are loaded by libraries that may need everything.
    """
    if not _owned:
        yield
        return
    gc.disable()
    try:
        if not (options.quantize or options.device_map):
            from sam4mllm_tool.models.deferred_imports import defer_unused_imports
            from sam4mllm_tool.optional_dependencies import wrap_import_errors

            with wrap_import_errors():  # it imports torch
                defer_unused_imports()
        yield
    finally:
        gc.freeze()
        gc.enable()
