"""The command `sam4mllm batch`. Imports what it needs when it runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sam4mllm_tool.cli.options import (
    LOADING_OPTIONS,
    AbstainOption,
    DialectOption,
    MethodOption,
    MllmOption,
    RefineCropsOption,
    SegmenterOption,
    TimeoutOption,
    refuse_options,
    require_effect,
    with_options,
)
from sam4mllm_tool.errors import Sam4MllmError, count_noun, quote_text
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.batch import BatchConfig, BatchSummary
    from sam4mllm_tool.batch.job import Engine
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["BATCH_EPILOG", "batch"]

BATCH_EPILOG = (
    "Exit codes: 0 all rows are done; 3 done, some rows have an error; 2 nothing could be done; 1 the models fail, whatever "
    "the row. After an interruption, the same command goes on."
)


@with_options(LOADING_OPTIONS)
def batch(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="The rows: JSON lines, COCO, Parquet, WebDataset's tar files, or a folder of images; a file, a folder or a "
            "pattern such as 'data/*.tar', here or at a URL that fsspec knows.",
        ),
    ],
    output: Annotated[
        str,
        typer.Argument(metavar="OUTPUT", help="Folder of the results, here or at a URL; new, or that of an interrupted run."),
    ],
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Who does the work: this process, or a pool of Ray's actors.", metavar="local|ray"),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of the Ray cluster, as in auto or ray://head:10001. Needs --engine ray.",
            show_default="$RAY_ADDRESS, or else a new cluster on this machine",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Actors, each with its own models. Needs --engine ray.")] = 1,
    gpus_per_worker: Annotated[
        float, typer.Option(metavar="X", min=0, help="GPUs per actor, such as 1 or 0.5. Needs --engine ray.")
    ] = 0.0,
    cpus_per_worker: Annotated[
        float, typer.Option(metavar="X", min=0, help="CPU cores per actor, and its threads. Needs --engine ray.")
    ] = 1.0,
    input_format: Annotated[
        Literal["jsonl", "coco", "parquet", "webdataset", "folder"] | None,
        typer.Option(
            help="Format of INPUT.", metavar="jsonl|coco|parquet|webdataset|folder", show_default="as the names of files say"
        ),
    ] = None,
    expression: Annotated[
        list[str],
        typer.Option(
            "--expression", metavar="TEXT", help="What to segment in each image of a folder, or without one. Repeatable."
        ),
    ] = [],  # noqa: B006 - Typer copies it
    expression_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Further expressions, a line each, as with --expression.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="Folder or URL that the relative paths of images start at.",
            show_default="the folder of the file that names them",
        ),
    ] = None,
    shard_format: Annotated[
        Literal["parquet", "coco"], typer.Option("--format", metavar="parquet|coco", help="Format of the results' files.")
    ] = "parquet",
    shard_rows: Annotated[int, typer.Option(metavar="N", min=1, help="Rows per file of results.")] = 500,
    images_at_once: Annotated[int, typer.Option(metavar="N", min=1, help="Images that a worker has in work at a time.")] = 16,
    allow_url: Annotated[
        bool,
        typer.Option(
            "--allow-url",
            help="Open images at URLs: http and https at public addresses, and others by fsspec. Those on INPUT's own file "
            "system are opened anyway.",
        ),
    ] = False,
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    method: MethodOption = "pqpp",
    abstain: AbstainOption = 0.0,
    timeout_s: TimeoutOption = None,
    refine_crops: RefineCropsOption = True,
    dialect: DialectOption = None,
    **loading: Any,
) -> int:
    """Segment many rows, an image and an expression each, into files of results; what a kill leaves is gone on with.

    OUTPUT gets a file per shard of rows, with every row in it: its objects, or its error. A file is there as a whole or not at
    all, each row is in one of them, and _manifest.json lists them once all are there.
    """
    require_effect(ctx, method)
    if engine != "ray":
        refuse_options(ctx, ("address", "workers", "gpus_per_worker", "cpus_per_worker"), "no effect without --engine ray")

    from sam4mllm_tool.batch import BatchConfig, RowInput, run_job
    from sam4mllm_tool.cli.messages import say
    from sam4mllm_tool.evaluation import ModelSpec

    options = LoadOptions(**loading)
    settings: Any = {"abstain": abstain, "refine_crops": refine_crops, "timeout_s": timeout_s}
    models = ModelSpec(mllm, segmenter, dialect=dialect, options=options, **settings)
    config = BatchConfig(
        input=RowInput(source, input_format, (*expression, *_read_expressions(expression_file)), images),
        output=output,
        format=shard_format,
        models=models,
        method=method,
        shard_rows=shard_rows,
        images_at_once=images_at_once,
        allow_url=allow_url,
    )
    if engine == "ray":
        from sam4mllm_tool.batch.ray_engine import RayEngine

        pool: dict[str, Any] = {"workers": workers, "gpus_per_worker": gpus_per_worker, "cpus_per_worker": cpus_per_worker}
        worker_pool: Engine = RayEngine(address=address, **pool)
    else:
        from sam4mllm_tool.batch.job import LocalEngine

        worker_pool = LocalEngine(partial(_load, config))
    try:
        summary = run_job(config, worker_pool, say=say)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        raise
    return _report(summary)


def _load(config: "BatchConfig") -> "Sam4Mllm":
    from sam4mllm_tool.cli.messages import timed_loading
    from sam4mllm_tool.cli.quick_loading import quick_loading

    with timed_loading(), quick_loading(config.models.options):
        return config.models.load()


def _read_expressions(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise Sam4MllmError(f"{quote_text(str(path))} is not text in UTF-8") from error


def _report(summary: "BatchSummary") -> int:
    """Print what became of the job, and return the exit code."""
    rows, errors = count_noun(summary.rows, "row"), count_noun(summary.errors, "error")
    if summary.errors == summary.rows:
        raise Sam4MllmError(
            f"nothing could be done: all {rows} have an error; see the column 'error' beside {summary.manifest}"
        )
    print(f"wrote {summary.manifest}: {rows}, {errors}")
    return 3 if summary.errors else 0
