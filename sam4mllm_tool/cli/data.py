"""The commands `sam4mllm data check | convert | show`: what a user types, and what is told.

Exit codes: 0 all is well; 1 something was dropped, mended or missing, and what was good was kept; 2 what was asked can't be
done. Results go to stdout; progress and what was dropped to stderr.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sam4mllm_tool.data.sample import Problems

__all__ = ["add_commands"]

_NAMES = "refcoco, refcoco+, refcocog, grefcoco, reasonseg, vqa, ade20k, paco, partimagenet or jsonl"
_COLUMN = (
    "the annotation's field that holds the expression (coco: default expression, caption, text or sentence, what there is)"
)


def add_commands(kinds: Any) -> None:
    """Adds the commands to `sam4mllm data`. kinds: its subparsers, of argparse."""
    _add_check(kinds)
    _add_convert(kinds)
    _add_show(kinds)


def _add_check(kinds: Any) -> None:
    check = kinds.add_parser(
        "check", help="what is there of a data set, against the published counts, and what is wrong with it"
    )
    _add_dataset(check)
    check.add_argument("--deep", action="store_true", help="decode every picture too, which takes longer")
    check.set_defaults(run=_check)


def _add_convert(kinds: Any) -> None:
    convert = kinds.add_parser("convert", help="write your own data as JSONL, which training reads")
    convert.add_argument("format", metavar="FORMAT", choices=("coco", "labelme", "folder"), help="coco, labelme or folder")
    convert.add_argument(
        "source", metavar="SOURCE", type=Path, help="COCO's json; LabelMe's folder; a folder of name.jpg, name.png and name.txt"
    )
    convert.add_argument("--out", metavar="PATH", type=Path, required=True, help="a file.jsonl, or a folder for scenes.jsonl")
    convert.add_argument(
        "--copy", action="store_true", help="copy the pictures to images/ beside it (default: name their place)"
    )
    convert.add_argument("--column", metavar="NAME", help=_COLUMN + "; labelme: label or description")
    convert.add_argument("--images", metavar="DIR", type=Path, help="coco: where the pictures are")
    convert.add_argument(
        "--values", choices=("any", "each"), help="folder: all that is not black is one object (default), or each value is one"
    )
    convert.set_defaults(run=_convert)


def _add_show(kinds: Any) -> None:
    show = kinds.add_parser("show", help="draw samples with their masks into one picture")
    _add_dataset(show)
    show.add_argument("--out", metavar="FILE", type=Path, required=True, help="the picture, a PNG or JPEG")
    show.add_argument("--count", metavar="N", type=_count, default=12, help="how many (default: %(default)s)")
    show.add_argument("--seed", metavar="S", type=int, default=0, help="which (default: %(default)s)")
    show.set_defaults(run=_show)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help=_NAMES)
    parser.add_argument("root", metavar="ROOT", type=Path, help="the folder that holds it")
    parser.add_argument("--split", metavar="S", help="train, val, testA, ... (default: all that are there; show: the first)")
    parser.add_argument("--option", metavar="KEY=VALUE", action="append", default=[], help="of its reader, as images=DIR")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 200:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to 200, got {text!r}")
    return int(text)


def _check(arguments: argparse.Namespace) -> int:
    from sam4mllm_tool.data.split_report import check_split
    from sam4mllm_tool.data.splits import open_splits, read_options
    from sam4mllm_tool.errors import DataError

    there = open_splits(arguments.name, arguments.root, arguments.split, read_options(arguments.name, arguments.option))
    print(f"{arguments.name} in {arguments.root}")
    good = True
    for split, dataset in there.found.items():
        try:
            report = check_split(dataset, deep=arguments.deep)
        except DataError as error:
            if len(there.found) == 1:
                raise
            print(f"{split}: {error}")
            good = False
            continue
        print("\n".join(report.lines()))
        good = good and report.good
    for split, why in there.missing.items():
        print(f"{split}: not there ({why})")
    print("all is well" if good else "not all is well")
    return 0 if good else 1


def _convert(arguments: argparse.Namespace) -> int:
    from sam4mllm_tool.data.convert import write_records
    from sam4mllm_tool.data.from_coco import read_coco
    from sam4mllm_tool.data.from_folder import read_folder
    from sam4mllm_tool.data.from_labelme import read_labelme
    from sam4mllm_tool.data.sample import Problems

    problems = Problems()
    source, given = arguments.source, _given(arguments, ("column", "images", "values"))
    if arguments.format == "coco":
        records = read_coco(source, problems, **_only(given, "coco", "column", "images"))
    elif arguments.format == "labelme":
        records = read_labelme(source, problems, **_only(given, "labelme", "column"))
    else:
        records = read_folder(source, problems, **_only(given, "folder", "values"))
    written = write_records(records, arguments.out, problems, copy=arguments.copy)
    print(written.summary())
    _tell(problems)
    return 1 if any(fate == "dropped" for fate, _ in problems.counts) else 0


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _only(given: dict[str, Any], kind: str, *known: str) -> dict[str, Any]:
    """The options, all of which the converter has to know."""
    from sam4mllm_tool.errors import DataError

    if unknown := [f"--{name}" for name in given if name not in known]:
        raise DataError(f"{' and '.join(unknown)} is not for {kind}, which has {', '.join(f'--{name}' for name in known)}")
    return given


def _show(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from sam4mllm_tool.data.contact_sheet import contact_sheet, pick, save_sheet
    from sam4mllm_tool.data.splits import open_splits, read_options

    there = open_splits(arguments.name, arguments.root, arguments.split, read_options(arguments.name, arguments.option))
    dataset = next(iter(there.found.values()))
    samples = pick(tqdm(dataset, desc=f"{dataset.name} {dataset.split}", unit="sample"), arguments.count, arguments.seed)
    sheet = contact_sheet(samples, f"{dataset.name} {dataset.split}, {len(samples)} samples")
    save_sheet(sheet.image, arguments.out)
    print(f"wrote {arguments.out}: {len(samples)} samples of {dataset.name} {dataset.split}")
    for fault in sheet.faults:
        print(f"not drawn: {fault}", file=sys.stderr)
    return 1 if sheet.faults else 0


def _tell(problems: "Problems") -> None:
    for line in problems.lines():
        print(line, file=sys.stderr)
    for told in problems.first:
        print(f"  {told}", file=sys.stderr)
