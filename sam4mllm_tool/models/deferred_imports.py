"""Put off what transformers imports at its top and answering doesn't need: a third of the time until a command answers.

That is torch's compiler and SymPy, for decorators and comparisons that mean something to the compiler alone; and SciPy and
tensors distributed over processes, for training. For processes of our own only: a program that uses this package as a library
may need them.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["defer_unused_imports"]

_MODELS = ("transformers.modeling_utils", "transformers.generation.utils")
"""What all models import. It decides at its top what else to import."""
_COMPILER, _DECORATORS = "torch._dynamo", ("allow_in_graph", "assume_constant_result", "disable")
_HIDDEN = ("is_scipy_available", "is_torch_distributed_available")
"""Functions of `transformers.utils` by which it decides."""


def defer_unused_imports() -> None:
    """Import what all models of transformers share, without what answering doesn't need.

    The compiler and SymPy are imported when something needs them later. Without SciPy and distribution, transformers can't
    compute detection losses in this process or spread a model over processes. Does nothing if it is all imported already.
    """
    import torch  # first, as it imports modules inside the compiler's package itself

    if any(name in sys.modules for name in (*_MODELS, _COMPILER)):
        return
    _pass_true_checks(torch)
    # A version that needs more is imported in full by whoever imports it next, who then gets the error if there is one.
    with suppress(ImportError, AttributeError), _compiler_stand_in(), _hidden_libraries():
        for name in _MODELS:
            import_module(name)


@contextmanager
def _compiler_stand_in() -> Iterator[None]:
    """Put a module that has decorators alone in the place of the compiler's package, and leave its modules importable."""
    spec: Any = find_spec(_COMPILER)
    stand_in: Any = ModuleType(_COMPILER)
    vars(stand_in).update(dict.fromkeys(_DECORATORS, _identity), __path__=spec.submodule_search_locations, __spec__=spec)
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        del sys.modules[_COMPILER]


def _identity(function: Callable[..., Any] | None = None, *_: object, **__: object) -> Any:
    """Decorate nothing, with or without arguments."""
    return _identity if function is None else function


def _pass_true_checks(torch: Any) -> None:
    """Let torch's checks pass what is true at once; they import SymPy first, as a condition may be an expression."""
    check: Callable[..., None] = torch._check_with

    def check_unless_true(error_type: type[Exception], condition: object, message: Callable[[], str] | None = None) -> None:
        if condition is not True:
            check(error_type, condition, message)

    torch._check_with = check_unless_true


@contextmanager
def _hidden_libraries() -> Iterator[None]:
    modules = [import_module("transformers.utils"), import_module("transformers.utils.import_utils")]
    originals = {name: getattr(modules[0], name) for name in _HIDDEN}
    try:
        for module in modules:
            vars(module).update(dict.fromkeys(_HIDDEN, lambda: False))
        yield
    finally:
        for module in modules:
            vars(module).update(originals)
