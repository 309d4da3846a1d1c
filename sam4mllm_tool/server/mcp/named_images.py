"""Opens the image that a tool call names, and remembers it for the client's next calls."""

from dataclasses import dataclass

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.server.mcp.handle_store import HandleStore
from sam4mllm_tool.server.mcp.mcp_settings import McpSettings
from sam4mllm_tool.tools.image_blocks import clean_name
from sam4mllm_tool.tools.image_references import ConversationImage, UnknownImageError, find_image, is_image_id, is_latest
from sam4mllm_tool.tools.image_store import ImageStore

__all__ = ["NamedImages"]


@dataclass(frozen=True)
class NamedImages:
    """The images of a server's clients.

    Attributes:
        settings: What may be opened.
        pixels: Where images are kept.
        handles: Who has which.
    """

    settings: McpSettings
    pixels: ImageStore
    handles: HandleStore

    def resolve(self, owner: str, text: str) -> str:
        """Return the id of the image that a text means, which is opened if need be.

        Args:
            owner: The client's.
            text: A path, a URL, a data URI, or the id of an image that the client gave before. Where the server has one client,
                also an image's name or number, or "latest".

        Raises:
            Sam4MllmError: There is no such image, or it can't be opened.
        """
        known = self.handles.list_images(owner)
        name = text.strip()
        if is_image_id(name.lower()):
            if all(image.image_id != name.lower() for image in known):
                raise UnknownImageError(
                    f"no image {name.lower()} was given before, or it is no longer kept: {self._describe()}"
                )
            return name.lower()
        if name[:5].lower() == "data:":
            return self._open(owner, name, "")
        if name[:8].lower().startswith(("http://", "https://")):
            if not self.settings.policy.allow_urls:
                raise ImageError(f"this server opens no URLs: {self._describe()}")
            return self._open(owner, name, name)
        return self._open_path(owner, name) if self.settings.is_shared or not is_latest(name) else self._find(known, name)

    def _open_path(self, owner: str, name: str) -> str:
        """Open a file; where there is none of that path, the text may be the name or the number of an image given before."""
        known = [] if self.settings.is_shared else self.handles.list_images(owner)
        if self.settings.policy.allow_paths and name and not is_latest(name):
            try:
                return self._open(owner, name, name)
            except ImageError as error:
                try:
                    return self._find(known, name)
                except UnknownImageError:
                    raise error from None
        return self._find(known, name)

    def _find(self, known: list[ConversationImage], name: str) -> str:
        if not known:
            raise UnknownImageError(f"no image {quote_text(name)}: {self._describe()}")
        return find_image(name, known, known[-1].image_id)

    def _open(self, owner: str, source: str, path: str) -> str:
        image = load_image(source, policy=self.settings.policy)
        image_id = self.pixels.put(image)
        self.handles.put_image(owner, ConversationImage(image_id, *image.size, clean_name(path.partition("?")[0])))
        return image_id

    def _describe(self) -> str:
        """Say what an image may be given as, and how to have more."""
        policy = self.settings.policy
        sources = ["the path of a file in a folder of --image-root"] * bool(policy.allow_paths) + ["a URL"] * policy.allow_urls
        more = "" if policy.allow_paths else " (files are opened if the server is started with --image-root DIR)"
        return f"give {', '.join([*sources, 'a data URI'])}{more}"
