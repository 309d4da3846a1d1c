"""A trace as one file: versioned JSON, gzipped where the name ends in .gz, written atomically.

docs/trace.md describes the format. Reading is strict: a file that is truncated, foreign, of a newer version or inconsistent is
a `TraceError` that names the file and the place. A file that was edited and still makes sense is read; its seal, the hash of
everything but the verdict and the image's encoding, no longer fits then (`Trace.altered`).
"""

import base64
import binascii
import gzip
import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import ImagePolicy, load_image
from sam4mllm_tool.trace.codec import TraceError, from_plain, to_plain
from sam4mllm_tool.trace.schema import RecordedImage, RunLengthMask, Trace, Verdict, read_result
from sam4mllm_tool.types import Image

__all__ = [
    "FORMAT",
    "VERSION",
    "encode_png",
    "from_json",
    "load",
    "require_replaceable",
    "save",
    "seal",
    "to_json",
    "write_file",
]

FORMAT = "sam4mllm trace"
VERSION = 2
"""2 added warnings and agreement."""
MAX_BYTES = 2**28
"""Of a file once it is unpacked: the image with most pixels that is loaded takes less."""
MAX_VALUES = 3_000_000
"""Values in a file. Each takes some hundred bytes of memory, and one or two of the file."""
_SEALED_KEYS = ["picture", "settings", "expression", "method", "steps", "result", "error", "began", "seconds", "written_by"]
"""Keys of the file besides format, version, seal and verdict; null where a trace has no value."""
_PNG_POLICY = ImagePolicy(formats=("PNG",), allow_paths=False, max_bytes=MAX_BYTES)


def save(trace: Trace, path: str | os.PathLike[str], *, include_image: bool = True, picture: bool | None = None) -> None:
    """Write the trace to a file; a crash leaves what was there before.

    Args:
        trace: The trace.
        path: Where to; gzipped where it ends in .gz. Missing folders are made.
        include_image: Whether the image's pixels are saved, as PNG; its hash and size always are.
        picture: Deprecated, the name of `include_image` before version 0.2.

    Raises:
        TraceError: The file can't be written, or the trace holds a number that is not finite.
    """
    if picture is not None:
        warnings.warn("picture= is deprecated: use include_image=", DeprecationWarning, stacklevel=2)
        include_image = picture
    path = Path(path)
    content = json.dumps(to_json(trace, include_image=include_image), indent=1, allow_nan=False).encode("ascii") + b"\n"
    write_file(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content, "the trace")


def load(path: str | os.PathLike[str]) -> Trace:
    """Read a trace from a file, gzipped or not, whatever its name.

    Raises:
        TraceError: The file can't be read or holds no trace; the message names the file and the fault.
    """
    path = Path(path)
    try:
        return from_json(_parse(_read_unpacked(path)))
    except TraceError as error:
        raise TraceError(f"{quote_text(str(path))}: {error}") from error


def require_replaceable(path: str | os.PathLike[str]) -> None:
    """Check that a new trace may be written to a path: nothing is there, an empty file, or a trace that nobody judged.

    Raises:
        TraceError: Something would be lost.
    """
    path = Path(path)
    place = f"the trace can't be written to {quote_text(str(path))}"
    try:
        is_folder, is_new = path.is_dir(), not path.exists() or not path.stat().st_size
    except (OSError, ValueError) as error:
        raise TraceError(f"{place}: {getattr(error, 'strerror', None) or error}") from error
    if is_folder:
        raise TraceError(f"{place}: it is a folder; add a file name")
    if path.exists() and not path.is_file():
        raise TraceError(f"{place}: it is not a regular file; choose another name")
    if is_new:
        return
    try:
        verdict = load(path).verdict
    except TraceError as error:
        raise TraceError(f"{place}: that file is not a complete trace, and would be lost; choose another name") from error
    if verdict != Verdict():
        state = {None: "commented on", True: "accepted", False: "rejected"}[verdict.accepted]
        raise TraceError(
            f"{place}: it holds a trace that was {state}; choose another name, or withdraw the verdict with "
            "'sam4mllm trace accept FILE --forget --comment \"\"'"
        )


def to_json(trace: Trace, *, include_image: bool = True) -> dict[str, Any]:
    """Return the content of the trace's file.

    Raises:
        TraceError: The trace holds a number that is not finite.
    """
    sealed = _sealed_part(trace)
    if include_image and trace.image.pixels is not None:
        sealed["picture"]["png"] = base64.b64encode(encode_png(trace.image.pixels)).decode("ascii")
    return {**sealed, "seal": trace.broken_seal or _hash(sealed), "verdict": to_plain(trace.verdict)}


def from_json(tree: Any) -> Trace:
    """Read what `to_json` returned.

    Raises:
        TraceError: The tree is not a trace; the message names the place.
    """
    _check_format(tree)
    recorded_seal = from_plain(str, tree.get("seal"), "trace.seal")
    body = {key: value for key, value in tree.items() if key not in ("format", "version", "seal")}
    trace = from_plain(Trace, _without_png(body), "trace")
    _check_consistency(trace)
    fits = recorded_seal == _hash({key: value for key, value in tree.items() if key not in ("seal", "verdict")})
    image = _decode_pixels(trace.image, tree["picture"].get("png"))
    return replace(trace, image=image, broken_seal="" if fits else recorded_seal or "none")


def seal(trace: Trace) -> str:
    """Return the SHA-256, as hexadecimal digits, of all that was recorded: everything but the verdict."""
    return _hash(_sealed_part(trace))


def encode_png(image: Image) -> bytes:
    """Encode the image without loss."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def write_file(path: Path, content: bytes, name: str) -> None:
    """Write a file atomically, and the folders above it.

    Raises:
        TraceError: It can't be written; the message begins with `name`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise TraceError(f"{name} can't be written to {quote_text(str(path))}: {error.strerror or error}") from error


def _sealed_part(trace: Trace) -> dict[str, Any]:
    body = to_plain(trace)
    return {"format": FORMAT, "version": VERSION, **{key: body.get(key) for key in _SEALED_KEYS}}


def _hash(sealed: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(_without_png(sealed), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise TraceError("a trace can't hold the number nan or inf") from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _without_png(tree: Mapping[str, Any]) -> dict[str, Any]:
    image = tree.get("picture")
    if not isinstance(image, dict):
        return dict(tree)
    return {**tree, "picture": {key: value for key, value in image.items() if key != "png"}}


def _read_unpacked(path: Path) -> bytes:
    """Read the file's content, unzipped if need be, up to the limit."""
    try:
        with path.open("rb") as raw:
            is_zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if is_zipped else path.open("rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError("the file is truncated or damaged") from error
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise TraceError(f"can't be read: {reason}") from error
    if len(content) > MAX_BYTES:
        raise TraceError(f"the file exceeds the limit of {MAX_BYTES:,} bytes")
    return content


def _parse(content: bytes) -> Any:
    def refuse_constant(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    if not content.strip():
        raise TraceError("the file is empty")
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise TraceError(f"the file has more than {MAX_VALUES:,} values")
    try:
        return json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        is_foreign = content.rstrip().endswith(b"}") or not content.lstrip().startswith(b"{")
        raise TraceError("no trace: it is not JSON" if is_foreign else "the file is truncated or damaged") from error


def _check_format(tree: Any) -> None:
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise TraceError(f"no trace: 'format' is not {FORMAT!r}")
    version = tree.get("version")
    if type(version) is not int or version < 1:
        raise TraceError(f"no trace: 'version' is {version!r}")
    if version > VERSION:
        raise TraceError(f"the trace has version {version}, this program reads up to {VERSION}: update sam4mllm-tool")


def _check_consistency(trace: Trace) -> None:
    """Check what the types alone don't say: sizes and run lengths."""
    size = trace.image.size
    if min(size) < 1:
        raise TraceError(f"trace.picture.size is {tuple(size)}: the image is empty")
    if size.width * size.height > _PNG_POLICY.max_pixels:
        raise TraceError(f"trace.picture.size is {tuple(size)}: more than {_PNG_POLICY.max_pixels:,} pixels")
    result = None if trace.result is None else read_result(trace.result)
    if result and result.size != size:
        raise TraceError(f"trace.result is of an image of {tuple(result.size)} pixels, trace.picture of {tuple(size)}")
    masks = [("trace.result.objects", segmented.mask) for segmented in result.objects] if result else []
    for place, mask in (*_step_masks(trace), *masks):
        if mask.size != (size.height, size.width):
            shapes = f"a mask is {mask.size[1]} x {mask.size[0]} pixels, the image {size.width} x {size.height}"
            raise TraceError(f"{place}: {shapes}")
        try:
            mask.check()
        except ValueError as error:
            raise TraceError(f"{place}: {error}") from error


def _step_masks(trace: Trace) -> Iterator[tuple[str, RunLengthMask]]:
    for mask in trace.verdict.objects or ():
        yield "trace.verdict.objects", mask
    for segmented in trace.objects:
        for mask in (segmented.mask, *(candidate.mask for candidate in segmented.alternatives)):
            yield "trace.steps", mask


def _decode_pixels(image: RecordedImage, png: Any) -> RecordedImage:
    if png is None:
        return image
    try:
        pixels = load_image(base64.b64decode(png, validate=True), policy=_PNG_POLICY)
    except (TypeError, binascii.Error, ValueError, ImageError) as error:
        raise TraceError(f"trace.picture.png: {error}") from error
    decoded = RecordedImage.of(pixels)
    if decoded != image:
        raise TraceError("trace.picture.png holds another image than the run's: the hash of its pixels differs")
    return decoded
