"""The command `sam4mllm probe`. Imports what it needs when it runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam4mllm_tool.cli.messages import say, timed_loading
from sam4mllm_tool.cli.options import LOADING_OPTIONS, MllmOption, with_options
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.models.probing.measurement import ProbeReport

__all__ = ["probe"]


@with_options([option for option in LOADING_OPTIONS if option.name != "segmenter_device"])
def probe(
    mllm: MllmOption = None,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only dialect to ask in.", show_default="the family's own and plain words"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write the dialect to as well, such as dialect.json.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON and nothing else.")] = False,
    **loading: Any,
) -> None:
    """Measure in which coordinates and words an MLLM answers, and keep the dialect for later loads.

    Shows it drawn images with objects at known places, and asks for boxes in every wording that may fit. Where no coordinate
    frame is clearly ahead, nothing is kept and the exit code is 1.
    """
    from sam4mllm_tool.atomic_io import write_text
    from sam4mllm_tool.models.metadata import list_candidate_dialects
    from sam4mllm_tool.models.mllm import load_mllm, parse_remote_spec
    from sam4mllm_tool.models.probing.first_use import keep_measured_dialect, measured_dialect
    from sam4mllm_tool.models.probing.measurement import probe_mllm
    from sam4mllm_tool.pipeline.sam4mllm import choose_specs

    options, (spec, _) = LoadOptions(**loading), choose_specs(mllm, None)
    candidates = list_candidate_dialects(spec, dialect)
    with timed_loading():
        model = load_mllm(spec, dialect=candidates[0], options=options)
    report = probe_mllm(model, candidates)
    print(json.dumps(report.to_dict()) if as_json else _format_report(report))
    best = measured_dialect(report, is_sent=parse_remote_spec(spec) is not None)
    paths = [keep_measured_dialect(spec, model, best)]
    if out is not None:
        write_text(out, best.to_json())
        paths.append(out)
    for path in paths:
        say(f"wrote {path}")


def _format_report(report: "ProbeReport") -> str:
    """Return a table for people."""
    best = report.trials[0]
    following = best.choice.next
    rows = [
        ("MLLM", report.mllm),
        ("dialect", report.dialect.name if report.dialect else "none: the coordinate frame is in doubt"),
        ("best frame", f"{best.choice.best.frame.name}: mean IoU {best.choice.best.iou:.2f}"),
        ("next frame", f"{following.frame.name}: mean IoU {following.iou:.2f}" if following else "none reads other boxes"),
        ("boxes", f"mean IoU {best.iou:.2f} of {len(best.choice.best.ious)} objects, as the dialect reads them"),
        ("absent objects", f'"none" for {best.absent_right} of {best.absent}'),
    ]
    if points := report.points:
        source = "with probabilities" if points.has_probabilities else "without probabilities"
        rows.append(("points", f"Yes or No rightly for {points.right} of {points.count}, {source}"))
    rows.append(("speed", f"{best.seconds_per_question:.2f} s per question"))
    rows += [(f"in {trial.dialect.name}", f"gIoU {trial.giou:.2f}") for trial in report.trials]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)
