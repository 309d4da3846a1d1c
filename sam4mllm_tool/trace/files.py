"""A trace as one file: versioned JSON, gzipped where the name ends in .gz, whole or not there.

docs/trace.md describes the format. Reading is strict: what is cut off, foreign, of a newer version or at odds with itself is
a TraceError that names the file and the place. A file that was changed by hand and still makes sense is read; its seal, the
hash of everything but the verdict and the picture's encoding, no longer fits then (`Trace.altered`).
"""

import base64
import binascii
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import ImagePolicy, load_image
from sam4mllm_tool.trace.codec import from_plain, to_plain
from sam4mllm_tool.trace.schema import Picture, Trace, TraceError
from sam4mllm_tool.trace.verdicts import read_answer
from sam4mllm_tool.types import Image, Size

__all__ = ["FORMAT", "VERSION", "from_json", "load", "picture_png", "save", "seal", "to_json"]

FORMAT = "sam4mllm trace"
VERSION = 1
MAX_BYTES = 2**30
"""Of a file once it is unpacked."""
_PICTURES = ImagePolicy(formats=("PNG",), allow_paths=False, max_bytes=MAX_BYTES)
_KEPT_OUT = ("picture", "broken_seal", "verdict")  # of what the other fields are written as


def save(trace: Trace, path: str | os.PathLike[str], *, picture: bool = True) -> None:
    """Writes it beside its place and moves it there: a cut leaves what was there before.

    picture: whether its pixels go in, as PNG; its hash and size always do. Raises TraceError where it can't be written.
    """
    path = Path(path)
    content = json.dumps(to_json(trace, picture=picture), indent=1, allow_nan=False).encode("ascii") + b"\n"
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise TraceError(f"the trace can't be written to {quote_text(str(path))}: {error.strerror or error}") from error


def load(path: str | os.PathLike[str]) -> Trace:
    """The trace of a file, gzipped or not, whatever its name. Raises TraceError naming the file and what is wrong with it."""
    path = Path(path)
    try:
        return from_json(_parsed(_unpacked(path)))
    except TraceError as error:
        raise TraceError(f"{quote_text(str(path))}: {error}") from error


def to_json(trace: Trace, *, picture: bool = True) -> dict[str, Any]:
    """As the file has it. Raises TraceError for a number that is not finite."""
    told = _sealed_part(trace)
    if picture and trace.picture.image is not None:
        told["picture"]["png"] = base64.b64encode(picture_png(trace.picture.image)).decode("ascii")
    return {**told, "seal": trace.broken_seal or _hash(told), "verdict": to_plain(trace.verdict)}


def from_json(told: Any) -> Trace:
    """Inverse of `to_json`. Raises TraceError naming the place."""
    _check_format(told)
    body = {name: one for name, one in told.items() if name not in ("format", "version", "picture", "seal")}
    trace: Trace = from_plain(Trace, {**body, "picture": _bare(told.get("picture"))}, "trace")
    found = from_plain(str, told.get("seal"), "trace.seal")
    _check_sense(trace)
    fits = found == _hash({name: one for name, one in told.items() if name not in ("seal", "verdict")})
    picture = _with_pixels(trace.picture, told["picture"].get("png"))
    return replace(trace, picture=picture, broken_seal="" if fits else found or "none")


def seal(trace: Trace) -> str:
    """The hash, as hexadecimal digits, of all that was recorded: everything but the verdict."""
    return _hash(_sealed_part(trace))


def picture_png(image: Image) -> bytes:
    """The picture encoded without loss."""
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _sealed_part(trace: Trace) -> dict[str, Any]:
    told = {one.name: getattr(trace, one.name) for one in fields(Trace) if one.name not in _KEPT_OUT}
    picture = {"sha256": trace.picture.sha256, "size": list(trace.picture.size)}
    return {"format": FORMAT, "version": VERSION, "picture": picture, **to_plain(told)}


def _hash(told: Mapping[str, Any]) -> str:
    bare = {**told, "picture": _bare(told["picture"])}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _bare(picture: Any) -> Any:
    return {name: one for name, one in picture.items() if name != "png"} if isinstance(picture, dict) else picture


def _unpacked(path: Path) -> bytes:
    """The file's content, unzipped if need be, up to the limit."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else path.open("rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError("the file is cut off or damaged") from error
    except OSError as error:
        raise TraceError(f"can't be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise TraceError(f"the file is over the limit of {MAX_BYTES:,} bytes")
    return content


def _parsed(content: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no number of JSON")

    if not content.strip():
        raise TraceError("the file is empty")
    try:
        return json.loads(content, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        whole = content.rstrip().endswith(b"}") or not content.lstrip().startswith(b"{")
        raise TraceError("no trace: it is not JSON" if whole else "the file is cut off or damaged") from error


def _check_format(told: Any) -> None:
    if not isinstance(told, dict) or told.get("format") != FORMAT:
        raise TraceError(f"no trace: 'format' is not {FORMAT!r}")
    version = told.get("version")
    if type(version) is not int or version < 1:
        raise TraceError(f"no trace: 'version' is {version!r}")
    if version > VERSION:
        raise TraceError(f"the trace has version {version}, this program reads up to {VERSION}: update sam4mllm-tool")


def _check_sense(trace: Trace) -> None:
    """What the types alone don't say."""
    size = trace.picture.size
    if min(size) < 1:
        raise TraceError(f"trace.picture.size is {tuple(size)}: there is nothing in it")
    masks = [("trace.verdict.objects", runs) for runs in trace.verdict.objects or ()]
    answer = None if trace.result is None else read_answer(trace.result)
    if answer and answer.size != size:
        raise TraceError(f"trace.result is of a picture of {tuple(answer.size)} pixels, trace.picture of {tuple(size)}")
    masks += [("trace.result.objects", thing.mask) for thing in answer.objects] if answer else []
    for found in trace.found:
        masks += [("trace.steps", runs) for runs in (found.mask, *(other.mask for other in found.alternatives))]
    for where, runs in masks:
        if runs.size != (size.height, size.width):
            raise TraceError(
                f"{where}: a mask is {runs.size[1]} x {runs.size[0]} pixels, the picture {size.width} x {size.height}"
            )
        try:
            runs.mask()
        except ValueError as error:
            raise TraceError(f"{where}: {error}") from error


def _with_pixels(picture: Picture, png: Any) -> Picture:
    if png is None:
        return picture
    try:
        content = base64.b64decode(png, validate=True)
        image = load_image(content, policy=_PICTURES)
    except (TypeError, binascii.Error, ValueError, ImageError) as error:
        raise TraceError(f"trace.picture.png: {error}") from error
    held = Picture.of(image)
    if held != Picture(picture.sha256, Size(*picture.size)):
        raise TraceError("trace.picture.png holds another picture than the one that was asked about: its pixels' hash differs")
    return held
