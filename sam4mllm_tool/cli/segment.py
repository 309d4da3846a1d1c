"""The command `sam4mllm segment`. Imports what it needs when it runs."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sam4mllm_tool.cli.image_arguments import AllowUrlOption, choose_policy, open_image
from sam4mllm_tool.cli.options import (
    AbstainOption,
    CloserOption,
    DeviceOption,
    DialectOption,
    MethodOption,
    MllmOption,
    RefineCropsOption,
    SegmenterOption,
    read_refine_crops,
    require_effect,
)
from sam4mllm_tool.errors import Sam4MllmError, quote_text

__all__ = ["require_replaceable_outputs", "segment"]


def segment(
    ctx: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image: a path, a data URI or a URL.")],
    expression: Annotated[str, typer.Argument(metavar="EXPRESSION", help="What to segment, as in 'the red ring'.")],
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    method: MethodOption = "pqpp",
    abstain: AbstainOption = 0.0,
    refine_crops: RefineCropsOption = True,
    closer: CloserOption = None,
    dialect: DialectOption = None,
    device: DeviceOption = None,
    allow_url: AllowUrlOption = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write mask.png, overlay.png and result.json to.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to record the whole run in, for 'sam4mllm trace'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Segment what an expression means in an image.

    Prints each object's box, area, confidence and score. If the image has no such object, that is printed, with exit code 0.
    """
    from sam4mllm_tool.images.export import make_folder, summary, write_outputs
    from sam4mllm_tool.protocol.dialogues import validate_expression

    # Whatever costs nothing to check is checked before the models are loaded.
    require_effect(ctx, method)
    refine_crops = read_refine_crops(refine_crops, closer)
    loaded, expression = open_image(image, choose_policy(allow_url)), validate_expression(expression)
    require_replaceable_outputs(image, out, trace)
    for folder in filter(None, (out, trace.parent if trace else None)):
        make_folder(folder)

    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.trace import recorded

    models = Sam4Mllm.load(mllm, segmenter, dialect=dialect, device=device, abstain=abstain, refine_crops=refine_crops)
    with recorded(models, trace) as recorder:
        result = recorder.segment(loaded, expression, method=method)
    paths = write_outputs(out, loaded, result) if out else []
    for warning in result.warnings:
        print(f"sam4mllm: warning: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    print(summary(result, with_warnings=False))  # they are on stderr
    for path in [*paths, *([trace] if trace else [])]:
        print(f"wrote {path}")


def require_replaceable_outputs(image: str, out: Path | None, trace: Path | None) -> None:
    """Refuse to write over the image itself, over a result with a trace, or over a trace that was judged."""
    from sam4mllm_tool.images.export import OUTPUT_NAMES
    from sam4mllm_tool.trace.files import require_replaceable

    results = [out / name for name in OUTPUT_NAMES] if out else []
    for option, path in (*(("--out", path) for path in results), *([("--trace", trace)] if trace else [])):
        if _is_same_file(path, image):
            raise Sam4MllmError(f"{option} would replace the image {quote_text(image)} itself: choose another one")
    if trace is None:
        return
    if trace.absolute() in [path.absolute() for path in results]:
        raise Sam4MllmError(f"--out writes {quote_text(str(trace))} too: choose another name for --trace")
    require_replaceable(trace)


def _is_same_file(path: Path, image: str) -> bool:
    try:
        return path.samefile(image)
    except (OSError, ValueError):  # one of them is no file, as a data URI is none
        return False
