"""`sam4mllm data build` and `verify`: lessons from data sets. Every field of `Recipe` is a flag."""

import argparse
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from sam4mllm_tool.data.build import Source, build_lessons
from sam4mllm_tool.data.conversations import Recipe
from sam4mllm_tool.data.verify import is_clean, told, verify_lessons
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.protocol import DIALECTS

__all__ = ["add_build"]

_HELP = {
    "pqpp": "share of the samples that get a PQPP conversation",
    "ppg": "share of the samples that get a PPG conversation",
    "point_mean": "mean number of points asked about a box",
    "point_deviation": "its standard deviation",
    "point_least": "fewest points",
    "point_most": "most points",
    "groups": "PPG: groups of points tried on the segmenter",
    "keep": "PPG: how many of them are kept, the best by IoU",
    "on": "PPG: points on the object",
    "off": "PPG: points beside it",
    "references": "most samples of a picture in a lesson",
    "tokens": "most tokens of text in a lesson, by estimate",
    "vqa": "share of the pictures that come from the VQA sets",
    "segmenter": "spec of the segmenter that PPG's points are tried on",
    "seed": "seed of everything that is drawn",
}


def add_build(kinds: Any) -> None:
    """Registers `build` and `verify` on the subparsers of `data`."""
    build = kinds.add_parser("build", help="make lessons, for 'sam4mllm train', from data sets")
    source = {"metavar": "NAME:ROOT[:SPLIT]", "action": "append", "type": _source}
    build.add_argument("--data", required=True, help="a data set with masks; may be given several times", **source)
    build.add_argument("--vqa-data", default=[], help="a set of conversations to mix in (see --vqa)", **source)
    build.add_argument(
        "--option",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="of the readers, as images=DIR, for all sources; of one alone: NAME:ROOT:SPLIT?images=DIR&split_by=google",
    )
    build.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for lessons.jsonl and manifest.json")
    build.add_argument(
        "--held-out",
        metavar="ROOT",
        type=Path,
        action="append",
        default=[],
        help="where the RefCOCO family lies whose val and test pictures are left out, if not under a data set's own root",
    )
    build.add_argument("--dialect", choices=sorted(DIALECTS), default="joint", help="default: %(default)s")
    build.add_argument("--processes", metavar="N", type=int, default=1, help="how many build at once (default: %(default)s)")
    for setting in _settings():
        meaning = f"{_HELP[setting.name]} (default: {setting.default})"
        flag = "--" + setting.name.replace("_", "-")
        build.add_argument(flag, metavar=_metavar(setting), type=type(setting.default), default=setting.default, help=meaning)
    build.set_defaults(run=_build)
    verify = kinds.add_parser("verify", help="check lessons: whole, as their manifest says, and of no held-out picture")
    verify.add_argument("folder", metavar="DIR", type=Path, help="a folder that 'data build' wrote")
    verify.add_argument("--held-out", metavar="ROOT", type=Path, action="append", default=[], help="as for 'data build'")
    verify.set_defaults(run=_verify)


def _settings() -> list[Field[Any]]:
    return [setting for setting in fields(Recipe) if setting.default is not MISSING]


def _metavar(setting: Field[Any]) -> str:
    return {int: "N", float: "X"}.get(type(setting.default), "SPEC")


def _source(text: str) -> Source:
    try:
        return Source.parse(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _build(arguments: argparse.Namespace) -> int:
    """Exit code 1 where something was dropped or mended, by choice excepted: as `data check` has it."""
    settings = {setting.name: getattr(arguments, setting.name) for setting in _settings()}
    recipe = Recipe.of(DIALECTS[arguments.dialect], settings)
    out = build_lessons(
        [source.with_options(arguments.option) for source in arguments.data],
        arguments.out,
        recipe,
        vqa=[source.with_options(arguments.option) for source in arguments.vqa_data],
        held_out=arguments.held_out,
        processes=arguments.processes,
    )
    print("\n".join(verify_lessons(out, arguments.held_out)))
    for line in told(out):
        print(line, file=sys.stderr)
    return 0 if is_clean(out) else 1


def _verify(arguments: argparse.Namespace) -> None:
    print("\n".join(verify_lessons(arguments.folder, arguments.held_out)))
