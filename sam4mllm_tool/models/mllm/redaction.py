"""Keep keys and images out of what servers and libraries write."""

import re

from sam4mllm_tool.text import remove_errno

__all__ = ["redact"]

_MAX_REASON = 200
_DATA = re.compile(r"data:[\w/+.-]*;base64,[\w+/=]*|[A-Za-z0-9+/]{64,}={0,2}")


def redact(text: str, *secrets: str) -> str:
    """Return a text on one line, shortened, without the secrets and without images in base64."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "[key]")
    line = " ".join(remove_errno(_DATA.sub("[data]", text)).split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}..."
