"""How an image gets in (load, fetch), and how results get out (draw, export)."""

from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image

__all__ = ["CALLER_POLICY", "ImagePolicy", "ImageSource", "load_image"]
