"""Pickles of plain values alone, for the RefCOCO family's refs files. Unpickling anything else runs whatever the file says.

The published files were written by Python 2: their strings are read as latin-1, and their builtins are in `__builtin__`.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import DataError

__all__ = ["load_plain_pickle"]

_PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (dict, list, tuple, set, frozenset, str, int, float, bool)}
_PLAIN |= {"unicode": str, "long": int}
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What the unpickler raises on bytes that are no pickle, or half of one."""


class _ForbiddenError(Exception):
    """Named by the pickle, and no plain value."""


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in ("builtins", "__builtin__") and name in _PLAIN:
            return _PLAIN[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise _ForbiddenError(f"{module}.{name}")


def load_plain_pickle(path: Path) -> Any:
    """What the file holds, of builtin containers, numbers and strings alone.

    Raises DataError naming the file where it is not there, is cut off or damaged, or names any other class or function,
    which is neither imported nor called.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there") from error
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from error
    except _ForbiddenError as error:
        raise DataError(f"{path} names {error}, and only plain values are read; don't open it by other means") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is no whole pickle, download it again ({type(error).__name__}: {error})") from error
