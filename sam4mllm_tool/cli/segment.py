"""The command `sam4mllm segment`. Imports what it needs when it runs."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sam4mllm_tool.cli.image_arguments import AllowUrlOption, choose_policy, image_name, is_image, open_image
from sam4mllm_tool.cli.options import (
    LOADING_OPTIONS,
    AbstainOption,
    CloserOption,
    DialectOption,
    MethodOption,
    MllmOption,
    RefineCropsOption,
    SegmenterOption,
    TimeoutOption,
    read_refine_crops,
    refuse_options,
    require_effect,
    with_options,
)
from sam4mllm_tool.errors import Sam4MllmError, quote_text
from sam4mllm_tool.images.export import OUTPUT_NAMES
from sam4mllm_tool.images.output_formats import DEFAULT_OUTPUTS, OUTPUT_FORMATS, check_output_names, list_file_names
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.cli.batch_file import BatchItem
    from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
    from sam4mllm_tool.types import Image

__all__ = ["require_replaceable_outputs", "segment"]


@dataclass(frozen=True)
class _Output:
    """Where results go: a folder, in some formats, with or without points in overlays; a trace; stdout, as JSON or not."""

    folder: Path | None
    formats: Sequence[str]
    points: bool
    trace: Path | None
    as_json: bool

    def say_if_nothing_was_written(self) -> None:
        """Say so on stderr, unless the result was printed as JSON, and so may be kept by what reads it."""
        from sam4mllm_tool.cli.messages import say

        if not self.folder and not self.trace and not self.as_json:
            say("nothing was written; --out DIR writes mask.png, overlay.png and result.json")


@with_options(LOADING_OPTIONS)
def segment(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE... EXPRESSION",
            help="The image, a path, a data URI or a URL, and what to segment in it, as in photo.jpg 'the red mug'. "
            "With --expression, all of them are images; two words are always an image and an expression without it.",
        ),
    ] = None,
    expression: Annotated[
        list[str],
        typer.Option("--expression", metavar="TEXT", help="What to segment, in each of the images. Repeatable."),
    ] = [],  # noqa: B006 - Typer copies it
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Segment the pairs of a file, in one go: JSON lines such as {"image": "a.jpg", "expression": "the mug"}, or '
            "CSV with these columns if its name ends in .csv. 'name' may name the result. Paths start at the file's folder.",
        ),
    ] = None,
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    method: MethodOption = "pqpp",
    abstain: AbstainOption = 0.0,
    refine_crops: RefineCropsOption = True,
    closer: CloserOption = None,
    timeout_s: TimeoutOption = None,
    on_error: Annotated[
        Literal["return", "raise"],
        typer.Option(
            "--on-error",
            metavar="return|raise",
            help="What an expression's error does to a batch: 'return' reports it and goes on, 'raise' ends the batch there, "
            "and what has a result keeps it.",
        ),
    ] = "return",
    dialect: DialectOption = None,
    allow_url: AllowUrlOption = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to write mask.png, overlay.png and result.json to. Several results get a folder each and a line of "
            "results.jsonl there; after an interruption, the same command goes on.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME...",
            help=f"What to write instead: {', '.join(OUTPUT_FORMATS)}. docs/outputs.md describes each.",
        ),
    ] = None,
    points: Annotated[bool, typer.Option("--points/--no-points", help="Draw the labelled points in overlay.png.")] = True,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to record the whole run in, for 'sam4mllm trace'.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON and nothing else; several, as a line each.")
    ] = False,
    **loading: Any,
) -> int:
    """Segment what an expression means in an image.

    Prints each object's box, area, confidence and score. If the image has no such object, that is printed, with exit code 0.

    Several at once load the models once: IMAGE... --expression A --expression B, or --batch FILE. Exit code 1 if one failed.
    """
    from sam4mllm_tool.cli.batch_file import pair_images, read_batch

    # Whatever costs nothing to check is checked before the models are loaded.
    require_effect(ctx, method)
    if out is None:
        refuse_options(ctx, ("points", "formats"), "no effect without --out")
    output_formats = check_output_names(formats or DEFAULT_OUTPUTS)
    refine_crops = read_refine_crops(refine_crops, closer)
    policy = choose_policy(allow_url)
    settings: dict[str, Any] = {"abstain": abstain, "refine_crops": refine_crops}
    limits: dict[str, Any] = {"timeout_s": timeout_s}
    options = LoadOptions(**loading)
    load = partial(_load_models, mllm, segmenter, dialect=dialect, options=options, **settings, **limits)
    output = _Output(out, output_formats, points, trace, as_json)
    images, expressions = _read_words(ctx, words or [], expression, batch)
    items, faults = (pair_images(images, expressions), []) if batch is None else read_batch(batch)
    if batch is None and len(items) == 1:
        refuse_options(ctx, ("on_error",), "no effect on a single expression")
        _segment_one(items[0], open_image(items[0].source, policy), load, method, output)
        return 0
    refuse_options(ctx, ("trace",), "room for one run only: give one image and one expression")

    from sam4mllm_tool.cli.batch_results import BatchResults
    from sam4mllm_tool.cli.segment_batch import refuse_overwriting_images, run_batch

    results = None
    if out:
        refuse_overwriting_images(items, out, output_formats)
        settings |= {**_name_models(mllm, segmenter), "dialect": dialect, "method": method, **options.result_settings()}
        settings |= {"formats": output_formats} if formats else {}
        results = BatchResults(out, settings, points=points, formats=output_formats)
    code = run_batch(items, faults, load, method=method, policy=policy, results=results, as_json=as_json, on_error=on_error)
    output.say_if_nothing_was_written()
    return code


def _read_words(
    ctx: typer.Context, words: Sequence[str], expressions: Sequence[str], batch: Path | None
) -> tuple[Sequence[str], Sequence[str]]:
    """Part the arguments into images and expressions. Raises BadParameter where that isn't clear."""
    if batch:
        if words or expressions:
            raise typer.BadParameter("--batch FILE takes neither images nor --expression: both are in the file", ctx=ctx)
        return (), ()
    if not words:
        raise typer.BadParameter("missing argument 'IMAGE'", ctx=ctx)
    if expressions:
        return words, expressions
    if len(words) == 1:
        raise typer.BadParameter("missing argument 'EXPRESSION': say what to segment", ctx=ctx)
    if is_image(words[1]):
        reason = f"{quote_text(words[1])} is an image, not an expression; say what to segment in several with --expression"
        raise typer.BadParameter(reason, ctx=ctx)
    if len(words) > 2:
        text = quote_text(" ".join(words[1:]))
        raise typer.BadParameter(f"an expression of several words needs quotation marks, as in {text}", ctx=ctx)
    return words[:1], words[1:]


def _name_models(mllm: str | None, segmenter: str | None) -> dict[str, str]:
    from sam4mllm_tool.pipeline.sam4mllm import choose_specs

    return dict(zip(("mllm", "segmenter"), choose_specs(mllm, segmenter), strict=True))


def _load_models(*specs: str | None, options: LoadOptions, **settings: Any) -> "Sam4Mllm":
    from sam4mllm_tool.cli.messages import timed_loading
    from sam4mllm_tool.cli.quick_loading import quick_loading

    with timed_loading(), quick_loading(options):
        from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

        return Sam4Mllm.load(*specs, options=options, **settings)


def _segment_one(
    item: "BatchItem",
    image: "Image",
    load: Callable[[], "Sam4Mllm"],
    method: "Method",
    output: _Output,
) -> None:
    from sam4mllm_tool.cli.messages import print_warnings, say
    from sam4mllm_tool.images.export import make_folder, summary, write_outputs

    out, trace = output.folder, output.trace
    name = image_name(item.source) or "image.png"
    require_replaceable_outputs(item.source, out, trace, list_file_names(output.formats, name))
    for folder in filter(None, (out, trace.parent if trace else None)):
        make_folder(folder)
    models = load()
    began = time.perf_counter()

    from sam4mllm_tool.trace import recorded

    with recorded(models, trace) as recorder:
        result = recorder.segment(image, item.expression, method=method)
    say(f"segmenting took {time.perf_counter() - began:.1f} s")
    drawing: dict[str, Any] = {"points": output.points, "formats": output.formats, "image_name": name}
    paths = write_outputs(out, image, result, **drawing) if out else []
    print_warnings(result.warnings, set())
    if output.as_json:
        print(json.dumps(result.to_dict()))
        return
    print(summary(result, with_warnings=False))
    for path in [*paths, *([trace] if trace else [])]:
        print(f"wrote {path}")
    output.say_if_nothing_was_written()


def require_replaceable_outputs(image: str, out: Path | None, trace: Path | None, names: Sequence[str] = OUTPUT_NAMES) -> None:
    """Refuse to write over the image itself, over a result with a trace, or over a trace that was judged.

    Args:
        image: The image as `open_image` takes it.
        out: The folder of the results.
        trace: The file of the trace.
        names: The names of the results' files.
    """
    from sam4mllm_tool.trace.files import require_replaceable

    results = [out / name for name in names] if out else []
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
