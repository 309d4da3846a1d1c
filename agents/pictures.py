"""Deprecated: this module is now `sam4mllm_tool.agents.image_middleware`, with new names."""

from sam4mllm_tool.agents.image_middleware import OLD_NAMES
from sam4mllm_tool.deprecation import deprecated_names

__getattr__ = deprecated_names(__name__, "sam4mllm_tool.agents.image_middleware", OLD_NAMES)
