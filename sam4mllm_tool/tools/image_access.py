"""Opens the image that a tool's argument means, from the conversation, the store, or what the policy allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.tools.artifacts import ORIGIN_KEY, Artifact, HandleError
from sam4mllm_tool.tools.conversation_images import ConversationImages, collect_images
from sam4mllm_tool.tools.image_blocks import clean_name
from sam4mllm_tool.tools.image_references import UnknownImageError, is_image_id, is_latest
from sam4mllm_tool.tools.image_store import ImageStore, MissingImageError
from sam4mllm_tool.types import Image

__all__ = ["ImageAccess"]


@dataclass(frozen=True)
class ImageAccess:
    """What one call may open.

    Attributes:
        store: Where images are kept.
        policy: What may be opened besides the conversation's images.
        messages: The conversation; None outside an agent.
    """

    store: ImageStore
    policy: ImagePolicy
    messages: Sequence[Any] | None

    @cached_property
    def known(self) -> ConversationImages:
        """The conversation's images."""
        return collect_images(self.messages or (), self.store, self.policy)

    def open(self, text: str) -> tuple[str, Image]:
        """Return the id and the pixels of the image that a text means.

        Args:
            text: What means one of the conversation's images (`find_image`), a data URI, or a path or URL that the policy
                allows. In a conversation an id has to be one of its own: what else the store holds belongs to other people.

        Raises:
            Sam4MllmError: There is no such image, or it can't be opened.
        """
        if self._is_source(text):
            image_id = self.store.put(text.strip(), policy=self.policy)
        elif self.messages is not None:
            image_id = self._find_in_conversation(text)
        elif is_image_id(text.strip().lower()):
            image_id = text.strip().lower()
        elif self.policy.allow_paths and not is_latest(text):
            image_id = self.store.put(text, policy=self.policy)
        else:
            raise UnknownImageError(_explain_refusal(text))
        return image_id, self._get(image_id)

    def open_image_of(self, artifact: Artifact) -> Image:
        """Return the image of a dialogue or a result, if the conversation still has it.

        Raises:
            Sam4MllmError: It hasn't, or the image can't be opened.
        """
        image_id = artifact["picture"]
        if self.messages is not None and not self.known.holds(image_id):
            raise HandleError(
                f"the image of that {artifact['kind']}, {image_id}, is no longer in this conversation: ask for it to be sent "
                "again, or use another image"
            )
        return self._get(image_id)

    def note_origin(self, artifact: Artifact, image: str | None) -> Artifact:
        """Return the artifact with where its image came from, a message or a tool, and the image's name.

        Args:
            artifact: A tool's new artifact.
            image: The argument that named the image, if there was one.
        """
        image_id = artifact["picture"]
        is_sent = self.messages is not None and self.known.holds(image_id) and image_id not in self.known.opened
        names = [each.name for each in self.known.images if each.image_id == image_id]
        is_path = image is not None and not (self._is_source(image) or is_latest(image) or is_image_id(image))
        name = names[0] if names else clean_name(image) if is_path else ""
        return {**artifact, ORIGIN_KEY: "message" if is_sent else "opened", "name": name}

    def _is_source(self, text: str) -> bool:
        """Whether a text is a data URI, or a URL where the policy allows URLs."""
        start = text.strip()[:8].lower()
        return start.startswith("data:") or (self.policy.allow_urls and start.startswith(("http://", "https://")))

    def _find_in_conversation(self, text: str) -> str:
        """Return the id of an image of the conversation, or else of a path that the policy allows."""
        try:
            return self.known.find(text)
        except UnknownImageError as error:
            if not self.policy.allow_paths or is_latest(text) or is_image_id(text.strip().lower()):
                raise
            try:
                return self.store.put(text, policy=self.policy)
            except ImageError as reason:
                raise UnknownImageError(f"{error}; as a file it can't be opened either: {reason}") from reason

    def _get(self, image_id: str) -> Image:
        try:
            return self.store.get(image_id)
        except MissingImageError as error:
            raise self.known.explain_missing(image_id, self.store) or error from error


def _explain_refusal(text: str) -> str:
    """Say why a text opens nothing outside an agent."""
    if is_latest(text):
        return "there is no conversation here, so no latest image: give the id that image_store.put(image) returned"
    kind, setting = ("URLs", "allow_urls") if text.strip().lower().startswith(("http:", "https:")) else ("paths", "allow_paths")
    return (
        f"no image {quote_text(text)} here: it is no id, as image_store.put(image) returns one, and image {kind} are turned "
        f"off ({setting} of the tool's policy)"
    )
