"""`sam4mllm evaluate`: a thin skin, which imports what it needs when it runs.

Exit codes: 0 done; 1 the models failed (a process died, no sample was answered); 2 what was asked can't be done.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.pipeline.sam4mllm import METHODS

if TYPE_CHECKING:
    from sam4mllm_tool.evaluation.comparison import Comparison

__all__ = ["add_commands", "probability"]

_ABOUT = """Every run writes samples.jsonl (a line a sample), metrics.json (fractions of 1), timings.json, report.md and
report.html into --out. The same command after a cut goes on where it was, to the same report."""


def add_commands(commands: Any) -> None:
    """Registers `evaluate` on the parser's subcommands."""
    evaluate = commands.add_parser(
        "evaluate", help="figures under a published protocol, with intervals and a report; or compare two runs", epilog=_ABOUT
    )
    evaluate.add_argument("dataset", metavar="DATASET[:SPLIT]", nargs="?", help="refcoco:testA, reasonseg, ... (split: val)")
    evaluate.add_argument("--root", metavar="DIR", type=Path, help="the folder that holds the data set")
    evaluate.add_argument("--out", metavar="DIR", type=Path, help="the folder for the result")
    evaluate.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        help="how it is counted (default: rela for grefcoco, lisa for reasonseg, refcoco for others)",
    )
    _add_models(evaluate)
    evaluate.add_argument("--limit", metavar="N", type=_from_one, help="the first so many samples alone")
    evaluate.add_argument(
        "--processes", metavar="N", type=_from_one, default=1, help="how many work at once, each with its own models"
    )
    evaluate.add_argument(
        "--threads", metavar="N", type=_from_one, default=1, help="of a process, on a CPU (default: %(default)s)"
    )
    evaluate.add_argument(
        "--predictions", metavar="FILE", type=Path, help='score masks: lines of {"id", "mask": COCO RLE or null, "no_target"}'
    )
    evaluate.add_argument("--option", metavar="KEY=VALUE", action="append", default=[], help="of the reader, as images=DIR")
    evaluate.add_argument(
        "--compare",
        metavar=("A", "B"),
        nargs=2,
        type=Path,
        help="two results over the same samples, by paired bootstrap; --out writes compare.json",
    )
    evaluate.add_argument(
        "--calibrate",
        metavar="RUN",
        type=Path,
        help="fit the confidences of a finished run of --method adaptive; --out is the calibration.json to write",
    )
    evaluate.set_defaults(run=_evaluate)


def _add_models(evaluate: argparse.ArgumentParser) -> None:
    spec = "embedded, a folder or a hub id"
    evaluate.add_argument("--mllm", metavar="SPEC", help=f"{spec}, +ADAPTER (default: $SAM4MLLM_MLLM or embedded)")
    evaluate.add_argument("--segmenter", metavar="SPEC", help=f"{spec} (default: $SAM4MLLM_SEGMENTER or embedded)")
    evaluate.add_argument("--dialect", metavar="NAME", help="how the MLLM is spoken to (default: its dialect.json, else plain)")
    evaluate.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: the best there is)")
    evaluate.add_argument("--method", choices=METHODS, default="pqpp", help="default: %(default)s")
    evaluate.add_argument(
        "--abstain", metavar="P", type=probability, default=0.0, help="leave out objects of a confidence below P (default: 0)"
    )
    evaluate.add_argument(
        "--closer",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="with --method adaptive, mask small objects from close by",
    )


def _from_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def probability(text: str) -> float:
    """An argument from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a probability from 0 to 1, got {text!r}")
    return value


def _evaluate(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.errors import DataError

    if arguments.compare:
        if arguments.dataset or arguments.predictions:
            raise DataError("--compare takes two results and neither a data set nor predictions")
        _compare(arguments.compare[0], arguments.compare[1], arguments.out)
        return
    if arguments.calibrate:
        if arguments.dataset or arguments.predictions or arguments.out is None:
            raise DataError("--calibrate takes a finished run and --out, the calibration.json to write")
        _calibrate(arguments.calibrate, arguments.out)
        return
    if missing := [name for name in ("dataset", "root", "out") if getattr(arguments, name) is None]:
        told = ", ".join("DATASET" if name == "dataset" else f"--{name}" for name in missing)
        raise DataError(f"an evaluation needs {told}; or --compare A B; see sam4mllm evaluate --help")

    from sam4mllm_tool.data.splits import read_options
    from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate

    name, _, split = arguments.dataset.partition(":")
    config = EvaluationConfig(
        name,
        arguments.root,
        split=split or "val",
        options=read_options(name, arguments.option),
        protocol=arguments.protocol or "",
        models=ModelSpec(
            arguments.mllm,
            arguments.segmenter,
            dialect=arguments.dialect,
            device=arguments.device,
            abstain=arguments.abstain,
            closer=arguments.closer,
        ),
        method=arguments.method,
        predictions=arguments.predictions,
        limit=arguments.limit,
        threads=arguments.threads,
    )
    metrics = evaluate(config, arguments.out, processes=arguments.processes)
    print("\n".join([*_table(metrics), *_seconds(arguments.out)]))
    print(f"wrote {arguments.out / 'report.html'}")


def _table(metrics: dict[str, Any]) -> list[str]:
    from sam4mllm_tool.evaluation.report import figure, heading

    lines = [f"{heading(metrics['order'])}: {metrics['samples']:,} samples, protocol {metrics['protocol']}, % [95 % interval]"]
    lines += [f"  {name:26}{figure(name, metrics)}" for name in metrics["intervals"]]
    if count := metrics["misses"]["count"]:
        first = " ".join(metrics["misses"]["first"][0].split())
        lines.append(f"  {count:,} without a prediction count as misses, as {first[:200]}")
    if metrics["dropped"]:
        lines.append(f"  {len(metrics['dropped']):,} can't be scored, as {metrics['dropped'][0][:200]}")
    return [*lines, *(f"  the reader: {line}" for line in metrics["read"]["counts"])]


def _seconds(out: Path) -> list[str]:
    """What a sample took, as timings.json has it; nothing where no model ran."""
    from sam4mllm_tool.evaluation.summary import TIMINGS_FILE

    told = json.loads((out / TIMINGS_FILE).read_text(encoding="utf-8"))
    steps = [f"{values['mean']:.3g} {step}" for step, values in told.items() if step != "all"]
    return [f"  seconds per sample        {told['all']['mean']:.3g} ({', '.join(steps)})"] if steps else []


def _compare(first: Path, second: Path, out: Path | None) -> None:
    from sam4mllm_tool.evaluation.comparison import compare

    found = compare(first, second)
    print("\n".join(_differences(found, first, second)))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        told = {
            name: {**vars(one), "difference": one.difference, "interval": list(one.interval)}
            for name, one in found.differences.items()
        }
        path = out / "compare.json"
        path.write_text(json.dumps({"orders": found.orders, "samples": found.samples, "differences": told}, indent=2) + "\n")
        print(f"wrote {path}")


def _calibrate(run: Path, out: Path) -> None:
    from sam4mllm_tool.atomic_io import write_json
    from sam4mllm_tool.errors import DataError
    from sam4mllm_tool.evaluation.fit_calibration import calibrate

    if out.is_dir():
        raise DataError(f"{out} is a folder: --out is the calibration.json to write")
    found = calibrate(run)
    write_json(out, json.loads(found.calibration.to_json()))
    for what, (count, before, after) in found.errors.items():
        print(
            f"{what}: {count:,} answers, ECE {100 * before:.2f} % before and {100 * after:.2f} % after, on these very answers"
        )
    print(f"wrote {out}; put it beside the adapter's weights as calibration.json")


def _differences(found: "Comparison", first: Path, second: Path) -> list[str]:
    from sam4mllm_tool.evaluation.report import PLAIN_NUMBERS, heading

    lines = [
        f"A {first}: {heading(found.orders[0])}",
        f"B {second}: {heading(found.orders[1])}",
        f"{found.samples:,} samples, protocol {found.orders[0]['protocol']}, paired bootstrap, %",
        f"  {'':26}{'A':>8}{'B':>8}   B - A [95 % interval]      p",
    ]
    for name, one in found.differences.items():
        scale = 1 if name in PLAIN_NUMBERS else 100
        low, high = (scale * end for end in one.interval)
        gap = f"{scale * one.difference:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(f"  {name:26}{scale * one.first:8.2f}{scale * one.second:8.2f}   {gap:26} {one.p:.3g}")
    return lines
