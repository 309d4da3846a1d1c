"""How servers are asked: `ServerOptions`, from code or from the environment."""

import math
import os
from dataclasses import dataclass
from typing import Any

from sam4mllm_tool.errors import SpecError, quote_text
from sam4mllm_tool.models.mllm.image_payload import MAX_PIXELS, MIN_PIXELS

__all__ = ["ServerOptions"]

_LEAST = {"timeout_s": 0.001, "retries": 0, "concurrency": 1, "votes": 0, "max_pixels": MIN_PIXELS}
"""Least values of the options."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """How a server is asked.

    Args:
        timeout_s: Seconds to wait for an answer.
        retries: How often a request is sent again after 429, 5xx or a lost connection, waiting longer each time, or as long as
            the server's Retry-After says.
        concurrency: Requests at a time.
        votes: Sampled answers from which the probability of a label is estimated where the server gives none; each costs a
            request. 0 leaves it unknown.
        max_pixels: Larger images are shrunk to it.
    """

    timeout_s: float = 120.0
    retries: int = 3
    concurrency: int = 8
    votes: int = 0
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} from {least:g} on, got {getattr(self, name)!r}")

    @classmethod
    def from_environment(cls, *, max_pixels: int | None = None) -> "ServerOptions":
        """Return the options that SAM4MLLM_SERVER_TIMEOUT_S, _RETRIES, _CONCURRENCY and _VOTES set; the defaults of others.

        Args:
            max_pixels: By default one megapixel.

        Raises:
            SpecError: Names the variable whose value can't be used.
        """
        values: dict[str, Any] = {} if max_pixels is None else {"max_pixels": max(max_pixels, MIN_PIXELS)}
        for name in ("timeout_s", "retries", "concurrency", "votes"):
            variable = f"SAM4MLLM_SERVER_{name.upper()}"
            if text := os.environ.get(variable, "").strip():
                kind: type[float] = float if name == "timeout_s" else int
                try:
                    values[name] = kind(text)
                    cls(**{name: values[name]})
                except ValueError as error:
                    number = f"{'number' if kind is float else 'whole number'} from {_LEAST[name]:g} on"
                    raise SpecError(f"expected {variable} as a {number}, got {quote_text(text)}") from error
        return cls(**values)
