"""The command `sam4mllm evaluate`: evaluate models, score predictions, compare two runs or fit a calibration.

Exit codes: 0 done; 1 the models failed (a process died, no sample was answered); 2 the request is invalid.
Imports what it needs when it runs.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    complete_from,
    read_refine_crops,
    refuse_options,
    require_effect,
    with_options,
)
from sam4mllm_tool.errors import DataError, count_noun
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.evaluation import EvaluationConfig
    from sam4mllm_tool.evaluation.comparison import Comparison

__all__ = ["EPILOG", "evaluate"]

EPILOG = (
    "Each run writes samples.jsonl (one line per sample), metrics.json (fractions of 1), timings.json (seconds), report.md and "
    "report.html into --out. After an interruption, the same command continues the run and gives the same report."
)


_WITHOUT_MODELS = (
    *("mllm", "segmenter", "dialect", "method", "abstain", "refine_crops", "closer", "timeout_s"),
    *(option.name for option in LOADING_OPTIONS),
)
_WITHOUT_DATASET = (*_WITHOUT_MODELS, "root", "protocol", "limit", "processes", "threads", "option")


@with_options(LOADING_OPTIONS)
def evaluate(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET[:SPLIT]", help="Dataset and split, as in refcoco:testA or reasonseg. The split is val by default."
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder that holds the dataset.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Folder for the result; with --calibrate, the calibration.json to write."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(PROTOCOLS),
            help="Published protocol to score by.",
            show_default="rela for grefcoco, lisa for reasonseg, refcoco for others",
            autocompletion=complete_from(list(PROTOCOLS)),
        ),
    ] = None,
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    dialect: DialectOption = None,
    method: MethodOption = "pqpp",
    abstain: AbstainOption = 0.0,
    refine_crops: RefineCropsOption = True,
    closer: CloserOption = None,
    timeout_s: TimeoutOption = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of samples to evaluate, from the first one on.", show_default="all"),
    ] = None,
    processes: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of processes that work at the same time, each with its own models.")
    ] = 1,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads per process.")] = 1,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Score these masks in place of models: JSON lines of {"id", "mask": COCO RLE or null, "no_target"}, or the '
            "folder of a finished 'sam4mllm batch'.",
        ),
    ] = None,
    option: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Setting of the dataset's reader, as in images=DIR. Repeatable.")
    ] = [],  # noqa: B006 - Typer copies it
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A B",
            help="Compare the results of two runs on the same samples by paired bootstrap; --out gets compare.json and a "
            "report with the images that differ most.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Fit the confidences of a finished run of --method adaptive; --out is the file to write."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file that --compare or --calibrate writes.")
    ] = False,
    **loading: Any,
) -> None:
    """Evaluate models on a dataset under a published protocol, with confidence intervals and a report; or compare two runs."""
    if compare:
        if dataset or predictions:
            raise DataError("--compare takes two results and neither a dataset nor predictions")
        refuse_options(ctx, _WITHOUT_DATASET, "no effect with --compare, which only reads two results: leave it out")
        _compare(*compare, out, overwrite=overwrite)
        return
    if calibrate:
        if dataset or predictions or out is None:
            raise DataError("--calibrate takes a finished run and --out, the calibration.json to write")
        refuse_options(ctx, _WITHOUT_DATASET, "no effect with --calibrate, which only reads a finished run: leave it out")
        _calibrate(calibrate, out, overwrite=overwrite)
        return
    if dataset is None or root is None or out is None:
        missing = [name for name, value in (("DATASET", dataset), ("--root", root), ("--out", out)) if value is None]
        raise DataError(f"an evaluation needs {', '.join(missing)}; or --compare A B; see sam4mllm evaluate --help")
    if predictions:
        refuse_options(ctx, _WITHOUT_MODELS, "no effect with --predictions, which takes the place of models: leave it out")
    else:
        require_effect(ctx, method)

    from sam4mllm_tool.data.splits import read_options
    from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec

    name, _, split = dataset.partition(":")
    refine_crops = read_refine_crops(refine_crops, closer)
    config = EvaluationConfig(
        name,
        root,
        split=split or "val",
        options=read_options(name, option),
        protocol=protocol or "",
        models=ModelSpec(
            mllm,
            segmenter,
            dialect=dialect,
            options=LoadOptions(**loading),
            abstain=abstain,
            refine_crops=refine_crops,
            timeout_s=timeout_s,
        ),
        method=method,
        predictions=predictions,
        limit=limit,
        threads=threads,
    )
    _evaluate(config, out, processes)


def _evaluate(config: "EvaluationConfig", out: Path, processes: int) -> None:
    from sam4mllm_tool.evaluation import evaluate as run_evaluation

    metrics = run_evaluation(config, out, processes=processes)
    if not metrics:  # this is one of several processes, and not the first
        return
    for warning in metrics["warnings"]:
        print(f"sam4mllm: warning: {warning}", file=sys.stderr)
    print("\n".join([*_metric_lines(metrics), *_timing_lines(out)]))
    print(f"wrote {out / 'report.html'}")


def _metric_lines(metrics: dict[str, Any]) -> list[str]:
    from sam4mllm_tool.evaluation.report import format_figure, format_heading, format_unit

    samples = count_noun(metrics["samples"], "sample")
    lines = [f"{format_heading(metrics['order'])}: {samples}, protocol {metrics['protocol']}, with 95 % intervals"]
    lines += [f"  {name:26}{format_figure(name, metrics)} {format_unit(name)}" for name in metrics["intervals"]]
    if count := metrics["misses"]["count"]:
        first = " ".join(metrics["misses"]["first"][0].split())
        lines.append(f"  {count:,} without a prediction count as misses, as {first[:200]}")
    if metrics["dropped"]:
        lines.append(f"  {len(metrics['dropped']):,} can't be scored, as {metrics['dropped'][0][:200]}")
    return [*lines, *(f"  the reader: {line}" for line in metrics["read"]["counts"])]


def _timing_lines(out: Path) -> list[str]:
    """Return the mean seconds per sample and step; nothing where no model ran."""
    from sam4mllm_tool.evaluation.summary import TIMINGS_FILE

    timings = json.loads((out / TIMINGS_FILE).read_text(encoding="utf-8"))
    steps = [f"{values['mean']:.3g} {step}" for step, values in timings.items() if step != "all"]
    return [f"  seconds per sample        {timings['all']['mean']:.3g} ({', '.join(steps)})"] if steps else []


def _compare(first: Path, second: Path, out: Path | None, *, overwrite: bool) -> None:
    from sam4mllm_tool.atomic_io import require_new_file, write_json
    from sam4mllm_tool.evaluation.comparison import compare
    from sam4mllm_tool.evaluation.comparison_report import write_comparison_report

    if out is not None:
        require_new_file(out / "compare.json", overwrite=overwrite)
        require_new_file(out / "report.html", overwrite=overwrite)
    comparison = compare(first, second)
    print("\n".join(_comparison_lines(comparison, first, second)))
    if out is not None:
        path = out / "compare.json"
        differences = {
            name: {**vars(figure), "difference": figure.difference, "interval": list(figure.interval)}
            for name, figure in comparison.differences.items()
        }
        out.mkdir(parents=True, exist_ok=True)
        content = {"orders": comparison.orders, "samples": comparison.samples, "differences": differences}
        write_json(path, content, ensure_ascii=True)
        write_comparison_report(path.parent, comparison, first, second)
        print(f"wrote {path} and {path.with_name('report.html')}")


def _comparison_lines(comparison: "Comparison", first: Path, second: Path) -> list[str]:
    from sam4mllm_tool.evaluation.report import MEANS_PER_SAMPLE, format_heading, format_unit

    lines = [
        f"A {first}: {format_heading(comparison.orders[0])}",
        f"B {second}: {format_heading(comparison.orders[1])}",
        f"{count_noun(comparison.samples, 'sample')}, protocol {comparison.orders[0]['protocol']}, paired bootstrap",
        f"  {'':26}{'A':>8}{'B':>8}   B - A [95 % interval]      p",
    ]
    for name, figure in comparison.differences.items():
        scale = 1 if name in MEANS_PER_SAMPLE else 100
        low, high = (scale * end for end in figure.interval)
        gap = f"{scale * figure.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        values = f"{scale * figure.first:8.2f}{scale * figure.second:8.2f}"
        lines.append(f"  {name:26}{values}   {gap:26} {figure.p:<8.3g} {format_unit(name)}")
    return lines


def _calibrate(run: Path, out: Path, *, overwrite: bool) -> None:
    from sam4mllm_tool.atomic_io import require_new_file, write_json
    from sam4mllm_tool.evaluation.calibration_fit import fit_calibration

    if out.is_dir():
        raise DataError(f"{out} is a folder: --out is the calibration.json to write")
    require_new_file(out, overwrite=overwrite)
    fit = fit_calibration(run)
    write_json(out, json.loads(fit.calibration.to_json()))
    for answer, (count, before, after) in fit.errors.items():
        if answer not in fit.not_fitted:
            errors = f"ECE {100 * before:.2f} % before and {100 * after:.2f} % after"
            print(f"{answer}: {count_noun(count, 'answer')}, {errors}, on these very answers")
    for answer, shortage in fit.not_fitted.items():
        print(f"{answer}: not fitted, the run's own scaling is kept: {shortage}")
    print(f"wrote {out}; put it beside the adapter's weights as calibration.json")
