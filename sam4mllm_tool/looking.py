"""Deprecated: this package is now `sam4mllm_tool.reasoning`, with new names."""

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.reasoning import OLD_NAMES

_KEPT_NAMES = "Attempt Attempt, Budget Budget, Meter Meter, Spent Spent"

__getattr__ = deprecated_names(__name__, "sam4mllm_tool.reasoning", f"{OLD_NAMES}, {_KEPT_NAMES}")
