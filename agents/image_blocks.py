"""Deprecated: this module is now `sam4mllm_tool.tools.image_blocks`."""

from sam4mllm_tool.deprecation import deprecated_names

_NAMES = ("DATA_URI", "FileId", "SentImage", "clean_name", "create_image_block", "parse_block")
__getattr__ = deprecated_names(__name__, "sam4mllm_tool.tools.image_blocks", ", ".join(f"{name} {name}" for name in _NAMES))
