"""What the tools of an MCP server made, by handle. The protocol has no sessions: a handle is all that ties two calls together.

The tools look handles and images up in the messages of a conversation. `HandleStore.build_messages` presents what is kept as
such a conversation, so that "latest", names and numbers mean over MCP what they mean in an agent.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sam4mllm_tool.tools.artifacts import Artifact
from sam4mllm_tool.tools.image_references import IMAGE_DETAILS_KEY, IMAGE_IDS_KEY, ConversationImage

__all__ = ["HandleStore", "KeptArtifact"]

_MAX_UNDO = 20
"""Earlier results of a result that going back may need."""
_ENTRY_BYTES = 400
"""Memory that an artifact takes besides its JSON: its keys and its place among the others."""


@dataclass(frozen=True)
class KeptArtifact:
    """A tool's artifact with the text that the tool returned with it."""

    artifact: Artifact
    text: str


class HandleStore:
    """Artifacts and images by owner, the oldest dropped first. Thread-safe.

    Artifacts are kept as JSON: as Python objects they would take three times the memory.

    Args:
        max_bytes: Memory of all artifacts together.
        max_images: Images that are remembered; their pixels are in an `ImageStore`.
    """

    def __init__(self, *, max_bytes: int = 256 * 2**20, max_images: int = 1000) -> None:
        self._max_bytes, self._max_images = max_bytes, max_images
        self._contents: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._images: OrderedDict[tuple[str, str], ConversationImage] = OrderedDict()
        self._total_bytes = 0
        self._lock = threading.Lock()

    def put_image(self, owner: str, image: ConversationImage) -> None:
        """Remember that this owner has the image; it becomes the owner's latest."""
        with self._lock:
            self._images.pop((owner, image.image_id), None)
            self._images[owner, image.image_id] = image
            while len(self._images) > self._max_images:
                self._images.popitem(last=False)

    def list_images(self, owner: str) -> list[ConversationImage]:
        """Return the owner's images, the latest last."""
        with self._lock:
            return [image for (other, _), image in self._images.items() if other == owner]

    def get_image_name(self, owner: str, image_id: str) -> str:
        """Return the name of the file that an image of this owner came from; empty where it is unknown."""
        with self._lock:
            image = self._images.get((owner, image_id))
            return image.name if image else ""

    def put(self, owner: str, artifact: Artifact, text: str) -> None:
        """Keep an artifact under its handle."""
        content = json.dumps([artifact, text]).encode("ascii")
        with self._lock:
            self._drop(owner, artifact["handle"])
            self._contents[owner, artifact["handle"]] = content
            self._total_bytes += len(content) + _ENTRY_BYTES
            while self._total_bytes > self._max_bytes and len(self._contents) > 1:
                self._drop(*next(iter(self._contents)))

    def _drop(self, owner: str, handle: str) -> None:
        content = self._contents.pop((owner, handle), None)
        self._total_bytes -= 0 if content is None else len(content) + _ENTRY_BYTES

    def get(self, owner: str, handle: str) -> KeptArtifact | None:
        """Return what the owner has under a handle."""
        with self._lock:
            content = self._contents.get((owner, handle))
        return None if content is None else KeptArtifact(*json.loads(content))

    def build_messages(
        self, owner: str, handles: Collection[str] | None, image_ids: Collection[str] | None
    ) -> list[dict[str, Any]]:
        """Return what is kept as the messages of a conversation.

        Args:
            owner: Whose.
            handles: The artifacts to have, with the earlier results that they come from; None for all.
            image_ids: The images to have; None for all. Those of the artifacts come along.
        """
        with self._lock:
            contents = {handle: content for (other, handle), content in self._contents.items() if other == owner}
            images = {image_id: image for (other, image_id), image in self._images.items() if other == owner}
        artifacts = [json.loads(c)[0] for c in contents.values()] if handles is None else list(_with_earlier(contents, handles))
        wanted = images if image_ids is None else {*image_ids, *(artifact["picture"] for artifact in artifacts)}
        conversation = [_image_message(image) for image_id, image in images.items() if image_id in wanted]
        return [*conversation, *({"type": "tool", "artifact": artifact} for artifact in artifacts)]


def _with_earlier(contents: dict[str, bytes], handles: Collection[str]) -> Iterator[Artifact]:
    """Yield each named artifact after the earlier results that going back from it may lead to."""
    for handle in handles:
        chain: list[Artifact] = []
        current: Any = handle
        while isinstance(current, str) and current in contents and len(chain) <= _MAX_UNDO:
            chain.append(json.loads(contents[current])[0])
            current = chain[-1].get("previous")
        yield from reversed(chain)


def _image_message(image: ConversationImage) -> dict[str, Any]:
    details = {"width": image.width, "height": image.height, "name": image.name}
    extra = {IMAGE_IDS_KEY: [image.image_id], IMAGE_DETAILS_KEY: {image.image_id: details}}
    return {"type": "human", "additional_kwargs": extra}
