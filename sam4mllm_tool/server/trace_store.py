"""The traces of results, for clients that asked for one."""

import gzip
import json
import threading
from collections import OrderedDict
from dataclasses import replace

from sam4mllm_tool.errors import Sam4MllmError
from sam4mllm_tool.tools.image_store import ImageStore
from sam4mllm_tool.trace import Trace
from sam4mllm_tool.trace.files import from_json, to_json
from sam4mllm_tool.trace.schema import RecordedImage

__all__ = ["TraceStore", "UnknownTraceError"]


class UnknownTraceError(Sam4MllmError, LookupError):
    """A result whose trace this client doesn't have."""


class TraceStore:
    """Traces by owner and result, the oldest dropped first. Thread-safe.

    Args:
        pixels: Where their images are kept.
        max_bytes: Size of all traces together, packed and without their images.
    """

    def __init__(self, pixels: ImageStore, *, max_bytes: int = 64 * 2**20) -> None:
        self._pixels, self._max_bytes = pixels, max_bytes
        self._contents: OrderedDict[tuple[str, str], tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, owner: str, result_id: str, image_id: str, trace: Trace) -> None:
        """Keep the trace of a result on an image."""
        content = gzip.compress(json.dumps(to_json(trace, include_image=False)).encode("ascii"), compresslevel=1)
        with self._lock:
            self._contents[owner, result_id] = image_id, content
            while sum(len(packed) for _, packed in self._contents.values()) > self._max_bytes and len(self._contents) > 1:
                self._contents.popitem(last=False)

    def get(self, owner: str, result_id: str) -> Trace:
        """Return the trace of a result, with its image.

        Raises:
            Sam4MllmError: It is not kept, or its image isn't.
        """
        with self._lock:
            image_id, content = self._contents.get((owner, result_id), ("", b""))
        if not content:
            raise UnknownTraceError(
                f'no trace of the result {result_id[:40]!r} is kept: ask for one by "trace": true when you segment or refine'
            )
        trace = from_json(json.loads(gzip.decompress(content)))
        return replace(trace, image=RecordedImage.of(self._pixels.get(image_id)))
