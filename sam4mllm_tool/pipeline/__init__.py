"""From an image and an expression to masks: the methods as generators of requests, and the drivers that serve them."""

from sam4mllm_tool.pipeline.methods import METHODS, Method
from sam4mllm_tool.pipeline.requests import RunHook
from sam4mllm_tool.pipeline.run_context import RunContext
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["METHODS", "Method", "RunContext", "RunHook", "Sam4Mllm"]
