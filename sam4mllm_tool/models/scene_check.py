"""Warn where the embedded segmenter, which knows drawn scenes alone, is given an image unlike them behind any MLLM.

The embedded MLLM has the statistics of those scenes (domain.py); it is loaded on first use. Embedded pairs warn by themselves.
"""

import threading

from sam4mllm_tool.models.mllm import EMBEDDED, load_mllm
from sam4mllm_tool.types import MLLM, Image

__all__ = ["SceneCheck"]

_WARNING = (
    "the embedded segmenter knows drawn scenes only, and this image is unlike them: its masks may mean "
    "nothing. Name one with --segmenter or segmenter=, such as facebook/sam-vit-huge"
)


class SceneCheck:
    """Recognises images unlike the scenes that the embedded segmenter was trained on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mllm: MLLM | None = None

    @classmethod
    def for_pair(cls, mllm: MLLM, segmenter: str) -> "SceneCheck | None":
        """Return the check that a pair needs: of the embedded segmenter with an MLLM that knows no such scenes."""
        return cls() if segmenter == EMBEDDED and getattr(mllm, "domain", None) is None else None

    def check_image(self, image: Image) -> str | None:
        """Return a warning about an RGB image of any size; None where it is like the drawn scenes. Raises BackendError."""
        with self._lock:
            if self._mllm is None:
                self._mllm = load_mllm(EMBEDDED, device="cpu")
        is_unlike = self._mllm.check_image(image) is not None  # type: ignore[attr-defined]
        return _WARNING if is_unlike else None
