"""Old names of public modules, classes and arguments: they work for one release and say by what they were replaced."""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["deprecated_names", "rename_arguments"]


def deprecated_names(module: str, target: str, names: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` that serves old names with a DeprecationWarning.

    Args:
        module: The module with the old names.
        target: The module with the new names.
        names: "OLD NEW" pairs, separated by commas.
    """
    renamed = dict(pair.split() for pair in names.split(","))

    def get_renamed(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {target}.{renamed[name]}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(target), renamed[name])

    return get_renamed


def rename_arguments(arguments: Mapping[str, Any], names: str) -> dict[str, Any]:
    """Return keyword arguments under their new names, with a DeprecationWarning at the caller's caller for each old one.

    Args:
        arguments: What was given.
        names: "OLD NEW" pairs, separated by commas.
    """
    renamed = dict(pair.split() for pair in names.split(","))
    for name in arguments.keys() & renamed.keys():
        warnings.warn(f"the argument {name!r} is now {renamed[name]!r}", DeprecationWarning, stacklevel=3)
    return {renamed.get(name, name): value for name, value in arguments.items()}
