"""How images enter the package (load, fetch, rgb_conversion), and how results leave it (draw, export)."""

from sam4mllm_tool.images.load import CALLER_POLICY, ImagePolicy, ImageSource, load_image

__all__ = ["CALLER_POLICY", "ImagePolicy", "ImageSource", "load_image"]
