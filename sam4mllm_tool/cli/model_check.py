"""What `sam4mllm doctor --mllm SPEC --segmenter SPEC` prints: models are loaded, asked about a drawn scene, and described.

What can't be loaded raises; a reply that can't be read is printed, since it says more than its error.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image as PILImage

from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import EverydayScene, draw_scene, list_expressions
from sam4mllm_tool.errors import ReplyError, quote_text
from sam4mllm_tool.geometry.boxes import mask_iou, mask_to_box
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.protocol.coordinate_codec import placeholders
from sam4mllm_tool.protocol.native_codec import Resizing
from sam4mllm_tool.types import MLLM, Box, ObjectPrompt, Reply, Size

__all__ = ["check_mllm", "check_segmenter", "describe_frame"]

_MAX_REPLY = 80


def check_mllm(spec: str, dialect_name: str | None, options: LoadOptions) -> bool:
    """Load an MLLM, ask for a box and about a point, and print what came of it.

    Args:
        spec: Model spec.
        dialect_name: As in `find_dialect`.
        options: How to load it.

    Returns:
        Whether the reply could be read.

    Raises:
        Sam4MllmError: The model can't be loaded, or failed.
    """
    from sam4mllm_tool.models.metadata import find_dialect, fit_dialect
    from sam4mllm_tool.models.mllm import load_mllm
    from sam4mllm_tool.models.probing.first_use import load_with_dialect

    began = time.perf_counter()
    if dialect_name is None:
        mllm, dialect = load_with_dialect(spec, options)
    else:
        dialect = find_dialect(spec, dialect_name)
        mllm = load_mllm(spec, dialect=dialect, options=options)
    dialect = fit_dialect(dialect, mllm)
    loaded = time.perf_counter()
    source = "as given" if dialect_name else _find_source(spec, getattr(mllm, "version", None), dialect)
    _print_row("MLLM", spec)
    _print_row("dialect", f"{dialect.name}, {source}")
    is_readable, rows = _ask(mllm, dialect, draw_scene(TEST_SEEDS))
    answered = time.perf_counter()
    _print_row("frame", describe_frame(dialect, Size(256, 256)))
    _print_row("device", getattr(mllm, "hardware", "a server's or another library's"))
    _print_row("memory", _measure_memory(getattr(mllm, "device", None)))
    _print_row("seconds", f"{loaded - began:.1f} to load, {answered - loaded:.1f} for two questions")
    for name, value in rows:
        _print_row(name, value)
    return is_readable


def check_segmenter(spec: str, options: LoadOptions) -> bool:
    """Load a segmenter, prompt it with the true box of a drawn object, and print what came of it.

    Returns:
        Whether it has a mask.

    Raises:
        Sam4MllmError: The segmenter can't be loaded, or failed.
    """
    from sam4mllm_tool.models.segmenter import load_segmenter

    began = time.perf_counter()
    segmenter = load_segmenter(spec, options=options)
    loaded = time.perf_counter()
    scene = draw_scene(TEST_SEEDS)
    _, target, box = _choose_object(scene)
    (segmented,) = segmenter.segment(PILImage.fromarray(scene.image), [ObjectPrompt(box)])
    answered, iou = time.perf_counter(), mask_iou(segmented.mask, scene.mask(target))
    _print_row("segmenter", spec)
    _print_row("device", getattr(segmenter, "hardware", "another library's"))
    _print_row("memory", _measure_memory(getattr(segmenter, "device", None)))
    _print_row("seconds", f"{loaded - began:.1f} to load, {answered - loaded:.1f} for one box")
    _print_row("mask", f"IoU with the true mask of a drawn object {iou:.2f}, score {segmented.score:.2f}")
    return bool(segmented.mask.any())


def describe_frame(dialect: Dialect, size: Size) -> str:
    """Return in words what the numbers of a dialect count, on an image of `size`."""
    first = placeholders(dialect.box_text)[0][0]
    square = ", of the square around the image" if dialect.padded else ""
    if dialect.frame == "processed":
        if dialect.resizing is None:
            return f"pixels of the image as the model gets it, {first} first: how it is resized is unknown"
        width, height = Resizing(*dialect.resizing).apply(size)
        return f"pixels of the image as the model gets it, {first} first: {size.width} x {size.height} as {width} x {height}"
    return f"0 to {dialect.scale - (dialect.frame == 'steps')}, {first} first{square}"


def _ask(mllm: MLLM, dialect: Dialect, scene: EverydayScene) -> tuple[bool, list[tuple[str, str]]]:
    """Return whether the reply about a box could be read, and the rows about both replies."""
    expression, _, box = _choose_object(scene)
    image = PILImage.fromarray(scene.image)
    size = Size(*image.size)
    question = dialect.ask_boxes(expression)
    middle = box.center
    about_point = dialect.ask_points((), box, [middle], size)
    (reply,), label_replies = mllm.reply(image, [question]), mllm.reply(image, about_point)
    quoted = quote_text(reply.text[:_MAX_REPLY])
    rows = [("asked for", f"{quote_text(expression)} in a drawn scene, answered {quoted}")]
    try:
        boxes = dialect.parse_boxes(question, reply, size)
    except ReplyError as error:
        rows.append(("read as", f"nothing: {error.reason}; 'sam4mllm probe' measures which dialect fits"))
        return False, [*rows, _describe_confidence(mllm, label_replies)]
    iou = max((candidate.iou(box) for candidate in boxes), default=0.0)
    rows.append(("read as", f"boxes: {len(boxes)}, best IoU with the true one {iou:.2f}"))
    return True, [*rows, _describe_confidence(mllm, label_replies)]


def _describe_confidence(mllm: MLLM, label_replies: Sequence[Reply]) -> tuple[str, str]:
    if not label_replies:
        return "confidence", "none: it can't be asked about points"
    if label_replies[0].label_probabilities is None:
        return "confidence", "none: labels come without probabilities"
    votes = getattr(mllm, "gives_probabilities", True) is False
    reported = "the shares of sampled answers" if votes else "the probabilities of tokens that the model's server reports"
    return "confidence", str(getattr(mllm, "confidence_source", reported))


def _find_source(spec: str, version: str | None, dialect: Dialect) -> str:
    from sam4mllm_tool.models.metadata import find_probed_dialect, find_trained_dialect, read_metadata

    if read_metadata(spec, "dialect.json", Dialect.from_json):
        return "from the dialect.json beside the weights"
    if find_trained_dialect(spec):
        return "that of the published adapter, which has the same base"
    if find_probed_dialect(spec, version):
        return "as sam4mllm probe measured"
    return "for any model" if dialect.name == PLAIN.name else "that of the model's family"


def _choose_object(scene: EverydayScene) -> tuple[str, int, Box]:
    """Return an expression of the scene, the object that it means, and the object's box."""
    expression = next(e for e in list_expressions(scene) if e.kind == "attribute")
    target = expression.targets[0]
    return expression.text, target, mask_to_box(scene.mask(target))


def _measure_memory(device: Any) -> str:
    import torch

    from sam4mllm_tool.models.devices import format_bytes

    if device is not None and torch.device(device).type == "cuda":
        return f"{format_bytes(torch.cuda.max_memory_allocated(device))} at most on the device"
    try:
        import resource
    except ImportError:  # on Windows
        return "unknown"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return f"{format_bytes(peak)} at most in this process"


def _print_row(name: str, value: str) -> None:
    print(f"{name:11} {value}")
