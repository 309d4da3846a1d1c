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
_COMPILER = "torch._dynamo"
_HIDDEN = ("is_scipy_available", "is_torch_distributed_available")
"""Functions of `transformers.utils` by which it decides."""


def defer_unused_imports() -> None:
    """Import what all models of transformers share, without what answering doesn't need.

    The compiler is imported where more of it is needed than decorators. Without SciPy and distribution, transformers can't
    compute detection losses in this process or spread a model over processes. Does nothing if it is all imported already.
    """
    import torch  # first, as it imports modules inside the deferred one itself

    if any(name in sys.modules for name in (*_MODELS, _COMPILER)):
        return
    sys.modules[_COMPILER] = _StandIn(_COMPILER, allow_in_graph=_identity, assume_constant_result=_identity, disable=_identity)
    _pass_true_checks(torch)
    with suppress(ImportError, AttributeError), _hidden_libraries():  # whoever imports it next then gets the error
        for name in _MODELS:
            import_module(name)


class _StandIn(ModuleType):
    """A module that has a few names of another one, and becomes that one when any other name is needed.

    Its submodules can be imported one by one, which doesn't import the module itself.
    """

    def __init__(self, name: str, **names: object) -> None:
        super().__init__(name)
        spec: Any = find_spec(name)
        self.__spec__, self.__file__ = spec, spec.origin
        if spec.submodule_search_locations is not None:
            self.__path__ = spec.submodule_search_locations
        self._names = names
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by those who look through all modules
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = import_module(self.__name__)
        for own in self._names:
            vars(self).pop(own, None)
        return getattr(module, name)


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
