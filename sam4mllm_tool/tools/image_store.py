"""The pictures of a conversation: kept outside its state, known in it by a short id of their content.

A conversation is saved, sent and shown to models over and over; a picture in it would be too. So a message carries only ids
(`additional_kwargs["sam4mllm_pictures"]`), the pixels lie in a `PictureStore`, in memory or in a folder. A store may serve many
conversations: what one of them may open is decided by its own messages, in `find_picture`, never by what the store holds.
Nothing here imports LangChain; `sam4mllm_tool.agents.image_middleware` takes pictures out of the messages of an agent.
"""

import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from sam4mllm_tool.errors import ImageError, Sam4MllmError, quote_text
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy, ImageSource, load_image
from sam4mllm_tool.types import Image

__all__ = [
    "FACTS_KEY",
    "LATEST",
    "PICTURES_KEY",
    "LostPictureError",
    "PictureStore",
    "UnknownPictureError",
    "find_picture",
    "is_picture_id",
    "known_pictures",
    "picture_id",
]

PICTURES_KEY = "sam4mllm_pictures"
"""Where a message's additional_kwargs lists the ids of its pictures, in their order."""
FACTS_KEY = "sam4mllm_picture_facts"
"""Where it notes their sizes and names, by id: {"width": 640, "height": 480, "name": "cat.jpg"}."""
LATEST = "latest"
"""What stands for the picture that came last."""

_ID = re.compile(r"img-[0-9a-f]{12}")
_OWN_FILES = ImagePolicy(max_bytes=2**31, max_pixels=2**28, formats=("PNG",))  # limits were held when they came in


class UnknownPictureError(Sam4MllmError, LookupError):
    """An id that no message of this conversation carries, or "latest" where none carries one."""


class LostPictureError(UnknownPictureError):
    """A picture of this conversation that its store no longer has."""


def picture_id(image: Image) -> str:
    """The id: "img-" and 12 hexadecimal digits of the SHA-256 of size and pixels.

    image: RGB and upright, as `load_image` gives it. Equal pixels give equal ids, whatever the file's format and metadata.
    """
    return f"img-{_digest(image)[:12]}"


def _digest(image: Image) -> str:
    return hashlib.sha256(b"%d x %d\n" % image.size + image.tobytes()).hexdigest()


def is_picture_id(text: object) -> bool:
    """Whether it has the exact form of an id; says nothing of whether there is such a picture."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def known_pictures(messages: Sequence[Any]) -> list[str]:
    """The ids that the messages carry, each once, in the order of their last arrival: the last one is "latest".

    messages: LangChain's or their dicts. Only a person's messages count, and only what was put on them when their pictures
    were taken in: an id that is merely written in a text gives nothing.
    """
    arrived: dict[str, None] = {}
    for message in messages:
        for name in _carried(message):
            arrived.pop(name, None)
            arrived[name] = None
    return list(arrived)


def _carried(message: Any) -> list[str]:
    fields: Mapping[str, Any] = message if isinstance(message, Mapping) else getattr(message, "__dict__", {})
    extra = fields.get("additional_kwargs")
    if (fields.get("type") or fields.get("role")) not in ("human", "user") or not isinstance(extra, Mapping):
        return []
    ids = extra.get(PICTURES_KEY)
    return [name for name in ids if is_picture_id(name)] if isinstance(ids, list | tuple) else []


def find_picture(image: str, messages: Sequence[Any]) -> str:
    """The id that `image` means in this conversation: an id that its messages carry, or "latest" for the last of them.

    Raises UnknownPictureError, which names the ids there are, for anything else.
    """
    known = known_pictures(messages)
    wanted = image.strip().strip("[]'\"` ")
    if wanted.lower() == LATEST and known:
        return known[-1]
    if wanted in known:
        return wanted
    if not known:
        raise UnknownPictureError("there is no picture in this conversation yet; ask for one to be sent with the next message")
    names = ", ".join(known[-8:])
    raise UnknownPictureError(
        f"no picture {quote_text(image)} in this conversation; its pictures are {names} (latest: {known[-1]})"
    )


class PictureStore:
    """Pictures by id, as PNG without metadata, in memory or in a folder. Safe for threads.

    folder: where the files lie; made on first use. It survives restarts, several processes may share it, and a file may be
    deleted at any time, which is how it is kept small. None: in memory, where the least recently used go when they take more
    than max_bytes together. Copies share the pictures; a pickled store in memory leaves its pictures behind.
    """

    def __init__(self, *, folder: str | os.PathLike[str] | None = None, max_bytes: int = 512 * 2**20) -> None:
        if max_bytes < 1:
            raise ValueError(f"expected max_bytes of at least 1, got {max_bytes}")
        self.folder = None if folder is None else Path(folder).absolute()
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, picture: ImageSource, *, policy: ImagePolicy = TOOL_POLICY) -> str:
        """Keeps a picture and gives its id; the same picture again gives the same id and takes no more room.

        picture: see `ImageSource`. policy: what may be opened; by default neither paths nor URLs. Raises ImageError where it
        can't be opened, Sam4MllmError where it can't be kept.
        """
        image = load_image(picture, policy=policy)
        name = picture_id(image)
        try:
            there = self.get(name)
        except LostPictureError:
            self._keep(name, _encoded(image))
            return name
        if _digest(there) != _digest(image):  # 12 digits are short enough for someone to seek two such pictures
            raise Sam4MllmError(f"the picture has the id of another one, {name}; change a pixel of it and send it again")
        return name

    def get(self, name: str) -> Image:
        """The picture of that id, a new RGB image.

        Raises UnknownPictureError for what has not the form of an id, LostPictureError where the store has no such picture.
        """
        if not is_picture_id(name):
            raise UnknownPictureError(f"expected a picture's id as in img-0123456789ab, got {quote_text(str(name))}")
        content = self._content(name)
        if content is None:
            raise LostPictureError(f"the picture {name} is no longer kept; ask for it to be sent again")
        try:
            image = load_image(content, policy=_OWN_FILES)
        except ImageError as error:
            raise LostPictureError(f"the file kept for {name} is damaged ({error}); ask for the picture again") from error
        if picture_id(image) != name:
            raise LostPictureError(f"the file kept for {name} holds another picture; ask for the picture again")
        return image

    def __contains__(self, name: object) -> bool:
        """Whether something is kept under that id."""
        if not is_picture_id(name):
            return False
        return self._file(str(name)).is_file() if self.folder else name in self._kept

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.png"

    def _content(self, name: str) -> bytes | None:
        if self.folder:
            try:
                return self._file(name).read_bytes()
            except FileNotFoundError:
                return None
            except OSError as error:
                raise Sam4MllmError(f"{quote_text(str(self._file(name)))} cannot be read: {error.strerror or error}") from error
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def _keep(self, name: str, content: bytes) -> None:
        if self.folder:
            _write_beside(self._file(name), content)
            return
        if len(content) > self.max_bytes:
            raise Sam4MllmError(f"the picture takes {len(content):,} bytes, the store keeps {self.max_bytes:,}; scale it down")
        with self._lock:
            self._kept[name] = content
            while sum(map(len, self._kept.values())) > self.max_bytes:
                self._kept.popitem(last=False)

    def __copy__(self) -> "PictureStore":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "PictureStore":
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _store, (self.folder, self.max_bytes)

    def __repr__(self) -> str:
        return f"PictureStore(folder={str(self.folder)!r})" if self.folder else f"PictureStore(max_bytes={self.max_bytes})"


def _store(folder: Path | None, max_bytes: int) -> PictureStore:
    return PictureStore(folder=folder, max_bytes=max_bytes)


def _encoded(image: Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=1)  # a photograph is hardly smaller with more, and takes seconds
    return file.getvalue()


def _write_beside(path: Path, content: bytes) -> None:
    """Written under a name of its own and then renamed: no reader, and no second writer, meets half a file."""
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # people's pictures
        with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as file:
            beside = Path(file.name)
            file.write(content)
        beside.replace(path)
    except OSError as error:
        if beside:
            beside.unlink(missing_ok=True)
        raise Sam4MllmError(
            f"the picture cannot be kept in {quote_text(str(path.parent))}: {error.strerror or error}"
        ) from error
