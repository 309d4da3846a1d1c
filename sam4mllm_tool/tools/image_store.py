"""The images of a conversation: kept outside its state and referred to by a short id of their content.

A conversation is saved, sent and shown to models over and over, and an image in it would be too. So a message carries only ids
(image_references.py), and the pixels are in an `ImageStore`, in memory or in a folder. A store may serve many conversations.
Nothing here imports LangChain; `sam4mllm_tool.agents.image_middleware` takes images out of an agent's messages.
"""

import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.deprecation import deprecated_names
from sam4mllm_tool.errors import ImageError, Sam4MllmError, quote_text
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.tools.image_references import (
    IMAGE_DETAILS_KEY,
    IMAGE_IDS_KEY,
    LATEST,
    UnknownImageError,
    find_image_id,
    is_image_id,
    list_image_ids,
)
from sam4mllm_tool.types import Image

__all__ = [
    "IMAGE_DETAILS_KEY",
    "IMAGE_IDS_KEY",
    "LATEST",
    "OPENED_POLICY",
    "ImageStore",
    "MissingImageError",
    "UnknownImageError",
    "compute_image_id",
    "find_image_id",
    "is_image_id",
    "list_image_ids",
]

_OWN_FILES = ImagePolicy(max_bytes=2**31, max_pixels=2**28, formats=("PNG",))  # the limits were held when they came in
OPENED_POLICY = ImagePolicy(allow_paths=False, max_pixels=2**31)
"""For an image that was opened within its limits already."""
OLD_NAMES = (
    "PictureStore ImageStore, LostPictureError MissingImageError, UnknownPictureError UnknownImageError, "
    "PICTURES_KEY IMAGE_IDS_KEY, FACTS_KEY IMAGE_DETAILS_KEY, find_picture find_image_id, is_picture_id is_image_id, "
    "known_pictures list_image_ids, picture_id compute_image_id"
)
__getattr__ = deprecated_names(__name__, __name__, OLD_NAMES)


class MissingImageError(UnknownImageError):
    """An image of this conversation that its store no longer has."""


def compute_image_id(image: Image) -> str:
    """Return an image's id: "img-" and 12 hexadecimal digits of the SHA-256 of its size and pixels.

    Args:
        image: RGB and upright, as `load_image` returns it. Equal pixels have equal ids, whatever the file's format.
    """
    return f"img-{_compute_digest(image)[:12]}"


def _compute_digest(image: Image) -> str:
    return hashlib.sha256(b"%d x %d\n" % image.size + image.tobytes()).hexdigest()


class ImageStore:
    """Images by id, as PNG without metadata, in memory or in a folder. Thread-safe.

    Copies share the images; a pickled store in memory leaves its images behind.

    Args:
        folder: Where the files are kept; created on first use. It survives restarts, and several processes may share it. To
            keep it small, delete files at any time. None: in memory.
        max_bytes: In memory, the size of all images together, from which on the least recently used are dropped.
    """

    def __init__(self, *, folder: str | os.PathLike[str] | None = None, max_bytes: int = 512 * 2**20) -> None:
        if max_bytes < 1:
            raise ValueError(f"expected max_bytes of at least 1, got {max_bytes}")
        self.folder = None if folder is None else Path(folder).absolute()
        self.max_bytes = max_bytes
        self.key = secrets.token_hex(6) if self.folder is None else hashlib.sha256(str(self.folder).encode()).hexdigest()[:12]
        """Tells this store from others; stores with one folder have one key."""
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, image: ImageSource, *, policy: ImagePolicy = TOOL_POLICY) -> str:
        """Keep an image and return its id; the same image again has the same id and takes no more space.

        Args:
            image: An image, bytes, a data URI, or what the policy opens; see `ImageSource`.
            policy: What may be opened; by default neither paths nor URLs.

        Raises:
            ImageError: The image can't be opened.
            Sam4MllmError: The image can't be kept.
        """
        pixels = load_image(image, policy=policy)
        image_id = compute_image_id(pixels)
        try:
            kept = self.get(image_id)
        except MissingImageError:
            self._write(image_id, _encode_png(pixels))
            return image_id
        if _compute_digest(kept) != _compute_digest(pixels):  # somebody could search for two images whose 12 digits are equal
            raise Sam4MllmError(f"the image has the id of a different one, {image_id}; change a pixel of it and send it again")
        return image_id

    def get(self, image_id: str) -> Image:
        """Return the image of an id, as a new RGB image.

        Raises:
            UnknownImageError: That has not the form of an id.
            MissingImageError: The store has no such image.
        """
        if not is_image_id(image_id):
            raise UnknownImageError(f"expected an image's id as in img-0123456789ab, got {quote_text(str(image_id))}")
        content = self._read(image_id)
        if content is None:
            raise MissingImageError(f"the image {image_id} is no longer kept; ask for it to be sent again")
        try:
            image = load_image(content, policy=_OWN_FILES)
        except ImageError as error:
            raise MissingImageError(f"the file kept for {image_id} is damaged ({error}); ask for the image again") from error
        if compute_image_id(image) != image_id:
            raise MissingImageError(f"the file kept for {image_id} holds a different image; ask for the image again")
        return image

    def __contains__(self, image_id: object) -> bool:
        """Return whether something is kept under that id."""
        if not is_image_id(image_id):
            return False
        return self._get_path(str(image_id)).is_file() if self.folder else image_id in self._contents

    def _get_path(self, image_id: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{image_id}.png"

    def _read(self, image_id: str) -> bytes | None:
        if self.folder:
            path = self._get_path(image_id)
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise Sam4MllmError(f"{quote_text(str(path))} cannot be read: {error.strerror or error}") from error
        with self._lock:
            if image_id in self._contents:
                self._contents.move_to_end(image_id)
            return self._contents.get(image_id)

    def _write(self, image_id: str, content: bytes) -> None:
        if self.folder:
            _write_private(self._get_path(image_id), content)
            return
        if len(content) > self.max_bytes:
            raise Sam4MllmError(f"the image takes {len(content):,} bytes, the store keeps {self.max_bytes:,}; scale it down")
        with self._lock:
            self._contents[image_id] = content
            while sum(map(len, self._contents.values())) > self.max_bytes:
                self._contents.popitem(last=False)

    def __copy__(self) -> "ImageStore":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "ImageStore":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _create_store, (self.folder, self.max_bytes)

    def __repr__(self) -> str:
        return f"ImageStore(folder={str(self.folder)!r})" if self.folder else f"ImageStore(max_bytes={self.max_bytes})"


def _create_store(folder: Path | None, max_bytes: int) -> ImageStore:
    """Rebuild a pickled store, whose arguments are keyword-only."""
    return ImageStore(folder=folder, max_bytes=max_bytes)


def _encode_png(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)  # higher levels take seconds and make a photograph hardly smaller
    return file.getvalue()


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read: people's images."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, content)
        with suppress(FileNotFoundError):  # deleted already
            path.chmod(0o600)
    except OSError as error:
        raise Sam4MllmError(f"the image cannot be kept in {quote_text(str(path.parent))}: {error.strerror or error}") from error
