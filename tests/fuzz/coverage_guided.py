"""Fuzz the reply parsers or the image door, guided by coverage, with atheris: `pip install -r tests/fuzz/requirements.txt`.

`python -m tests.fuzz.coverage_guided replies --seconds 600` begins with good inputs and keeps those that reach new code. It
ends at an error that isn't ours, or at an input that takes longer than 5 s, and writes that input to a file.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["sam4mllm_tool.protocol", "sam4mllm_tool.images", "PIL"]):
    from sam4mllm_tool.errors import ImageError
    from sam4mllm_tool.images.load import ImagePolicy, load_image
    from sam4mllm_tool.types import Box, Size
    from tests.fuzz.hostile_corpus import list_seed_images
    from tests.fuzz.text_targets import MODEL_DIALECTS, read_reply

_POLICY = ImagePolicy(max_pixels=1_000_000)
_NAMES = sorted(MODEL_DIALECTS)


def _read_reply(content: bytes) -> None:
    if content:
        read_reply((_NAMES[content[0] % len(_NAMES)], content[1:].decode("utf-8", "surrogateescape")))


def _read_image(content: bytes) -> None:
    try:
        image = load_image(content, policy=_POLICY)
    except ImageError:
        return
    assert image.mode == "RGB"


def _list_replies() -> list[bytes]:
    boxes = [Box(64, 48, 320, 240), Box(330, 250, 600, 400)]
    texts = [MODEL_DIALECTS[name].format_boxes(boxes, Size(640, 480)) for name in _NAMES]
    return [bytes([i]) + text.encode() for i, text in enumerate(texts)]


_TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], list[bytes]]]] = {
    "replies": (_read_reply, _list_replies),
    "images": (_read_image, lambda: list(list_seed_images())),
}


def main() -> None:
    """Fuzz one target for a while."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=_TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    read, list_seeds = _TARGETS[options.target]
    with TemporaryDirectory() as folder:
        for number, content in enumerate(list_seeds()):
            (Path(folder) / str(number)).write_bytes(content)
        limits = [f"-max_total_time={options.seconds}", "-timeout=5", "-rss_limit_mb=4096", "-max_len=20000"]
        atheris.Setup([sys.argv[0], folder, *limits], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
