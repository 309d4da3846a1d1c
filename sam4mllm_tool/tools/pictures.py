"""Deprecated: this module is now `sam4mllm_tool.tools.image_store`, with new names."""

from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.tools.image_store import OLD_NAMES

__getattr__ = deprecated_names(__name__, "sam4mllm_tool.tools.image_store", f"{OLD_NAMES}, LATEST LATEST")
