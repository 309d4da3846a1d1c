"""The MCP App: a page that the host shows in its chat, with the masks over the image, to be corrected by clicks and words.

Hosts without Apps show the text and the preview of the same result.
"""

import json
from importlib.resources import files

from jinja2 import Environment
from mcp.server.apps import Apps, ResourceCsp

from sam4mllm_tool import __version__
from sam4mllm_tool.config import METHODS, Method
from sam4mllm_tool.server.mcp.result_resources import RESULT_FILES

__all__ = ["APP_TOOLS", "APP_URI", "create_result_app"]

APP_URI = "ui://sam4mllm/result.html"
"""The page's address."""
APP_TOOLS = ("segment_image", "segment_prompt", "refine_segmentation")
"""The tools whose results it shows."""


def create_result_app(method: Method) -> Apps:
    """Create the extension that serves the page. `method` is the method that the tools use by default."""
    template = files(__package__).joinpath("result_app.html").read_text(encoding="utf-8")
    page = Environment(autoescape=False).from_string(template)
    offered = [(file.name, file.description, file.mime_type) for file in RESULT_FILES.values()]
    apps = Apps()
    apps.add_html_resource(
        APP_URI,
        page.render(methods=json.dumps(METHODS), method=method, files=json.dumps(offered), version=__version__),
        name="result.html",
        title="Segmentation",
        description="Shows a result, to be corrected by clicks and words.",
        csp=ResourceCsp(),
        prefers_border=True,
    )
    return apps
