"""Which key a server gets. A key is a secret between its owner and one provider: a URL alone must not be enough to be sent it.

SAM4MLLM_API_KEY is for this package, and goes to whatever server a spec names. OPENAI_API_KEY is set on many machines for other
programs: it goes to OpenAI, to the server that OPENAI_BASE_URL names, and to servers on this machine or its private network.
"""

import ipaddress
import os
from urllib.parse import urlsplit

__all__ = ["ask_for_key", "find_key"]

_OWN, _OPENAI = "SAM4MLLM_API_KEY", "OPENAI_API_KEY"


def find_key(url: str) -> tuple[str, str]:
    """Return the environment variable that holds the key for a server, and the key; both empty without one."""
    names = (_OWN, _OPENAI) if _may_get_openai_key(url) else (_OWN,)
    return next(((name, key) for name in names if (key := _read_variable(name))), ("", ""))


def ask_for_key(url: str) -> str:
    """Return what to do where a server wants a key and got none: which variable to set."""
    if _may_get_openai_key(url):
        return f"set {_OWN} or {_OPENAI} in the environment"
    withheld = f" ({_OPENAI} is sent to OpenAI and to local servers alone)" if _read_variable(_OPENAI) else ""
    return f"set {_OWN} in the environment{withheld}"


def _may_get_openai_key(url: str) -> bool:
    host, named = _read_host(url), _read_host(_read_variable("OPENAI_BASE_URL"))
    return f".{host}".endswith(".openai.com") or host == named or _is_near(host)


def _is_near(host: str) -> bool:
    """Whether a host is this machine or on its private network, as its name or address says; no name server is asked."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".home.arpa"))
    return address.is_loopback or address.is_private


def _read_host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _read_variable(name: str) -> str:
    return os.environ.get(name, "").strip()
