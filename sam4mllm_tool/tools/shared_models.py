"""The models of several tools, loaded on first use."""

import threading
from collections.abc import Callable
from typing import Any

from sam4mllm_tool.pipeline import Sam4Mllm

__all__ = ["SharedModels", "require_either"]


class SharedModels:
    """Models that several tools share, loaded on first use. Copies share them too; pickling leaves them behind.

    Args:
        mllm: As in `Sam4Mllm.load`.
        segmenter: As in `Sam4Mllm.load`.
        load: Loads them instead of `Sam4Mllm.load`.
    """

    def __init__(self, mllm: Any = None, segmenter: str | None = None, *, load: Callable[[], Sam4Mllm] | None = None) -> None:
        self._mllm, self._segmenter, self._load = mllm, segmenter, load
        self._lock = threading.Lock()
        self._models: Sam4Mllm | None = None

    def get(self) -> Sam4Mllm:
        """Return the models; the first call loads them and raises what that raises."""
        with self._lock:
            if self._models is None and self._load is not None:
                self._models = self._load()
            if self._models is None:
                specs = {"mllm": self._mllm, "segmenter": self._segmenter}
                self._models = Sam4Mllm.load(**{name: spec for name, spec in specs.items() if spec is not None})
            return self._models

    def __copy__(self) -> "SharedModels":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedModels":
        return self

    def __reduce__(self) -> tuple[type["SharedModels"], tuple[Any, str | None]]:
        return SharedModels, (self._mllm, self._segmenter)


def require_either(sam4mllm: Sam4Mllm | None, server: str | None, **to_load: object) -> None:
    """Raise ValueError where models are given in two ways: loaded, to load, or on a server."""
    for name, model in to_load.items():
        if sam4mllm is not None and model is not None:
            raise ValueError(f"expected either sam4mllm, loaded models, or {name}, got both: build the models with this {name}")
    for name, model in {"sam4mllm": sam4mllm, **to_load}.items():
        if server is not None and model is not None:
            raise ValueError(f"expected either server or {name}, got both: the server has its own models")
