"""The commands `sam4mllm data ...`: draw, check, convert and show datasets; build training conversations and verify them.

Exit codes: 0 all is well; 1 something was dropped, repaired or missing, and the rest was kept; 2 the request is invalid.
Results go to stdout; progress and what was dropped go to stderr. Commands import what they need when they run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sam4mllm_tool.cli.help_page import CommandGroup
from sam4mllm_tool.cli.options import Command, complete_from, config_options, with_options
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.protocol import DIALECTS

if TYPE_CHECKING:
    from sam4mllm_tool.data.sample import Problems

__all__ = ["data_app"]

data_app = typer.Typer(cls=CommandGroup, help="Draw, check, convert and show datasets; build training conversations from them.")

_RECIPE = {
    "Recipe": {
        "pqpp": "Share of the samples that get a PQPP conversation, from 0 to 1.",
        "ppg": "Share of the samples that get a PPG conversation, from 0 to 1.",
        "point_mean": "Mean number of points to label per box in PQPP.",
        "point_deviation": "Standard deviation of that number of points.",
        "point_least": "Smallest number of points per box.",
        "point_most": "Largest number of points per box.",
        "groups": "Number of random point groups that PPG tries on the segmenter, per object.",
        "keep": "Number of those groups that PPG keeps: the ones with the highest IoU.",
        "on": "Number of points on the object in a PPG group.",
        "off": "Number of points off the object in a PPG group.",
        "references": "Largest number of samples of one image in a conversation.",
        "tokens": "Largest number of text tokens in a conversation, by estimate.",
        "vqa": "Share of the images that come from the --vqa-data sets, from 0 to below 1.",
        "segmenter": "Segment Anything model that PPG's point groups are tried on: 'embedded', a local folder or a Hugging "
        "Face model id.",
        "seed": "Seed of all random choices.",
    }
}
_SPLIT_SOURCE = "NAME:ROOT[:SPLIT]"

_NAMES = ("refcoco", "refcoco+", "refcocog", "grefcoco", "reasonseg", "vqa", "ade20k", "paco", "partimagenet", "jsonl")
NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help=f"Kind of dataset: {', '.join(_NAMES[:-1])} or jsonl.", autocompletion=complete_from(_NAMES)
    ),
]
RootArgument = Annotated[Path, typer.Argument(metavar="ROOT", help="Folder that holds the dataset.")]
ReaderOption = Annotated[
    list[str],
    typer.Option("--option", metavar="KEY=VALUE", help="Setting of the dataset's reader, as in images=DIR. Repeatable."),
]
HeldOutOption = Annotated[
    list[Path],
    typer.Option(
        metavar="ROOT",
        help="Folder of the RefCOCO family, whose validation and test images are left out; needed where it is not in a "
        "dataset's own folder. Repeatable.",
    ),
]
JsonlOption = Annotated[Path, typer.Option(metavar="PATH", help="File NAME.jsonl, or a folder for scenes.jsonl.")]


# Datasets ---------------------------------------------------------------------------------------------------------------


@data_app.command(cls=Command)
def scenes(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images and scenes.jsonl.")],
    count: Annotated[int, typer.Option(metavar="N", min=1, max=10**9, help="Number of scenes.")],
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=10**9, help="Seed of the first scene; the next one has the next seed.")
    ] = 0,
) -> None:
    """Draw scenes with expressions and exact masks."""
    from sam4mllm_tool.embedded.scene_files import write_scenes

    print(f"wrote {write_scenes(out, count, seed)}")


@data_app.command(cls=Command)
def check(
    name: NameArgument,
    root: RootArgument,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split, as in train, val or testA.", show_default="every split")
    ] = None,
    option: ReaderOption = [],  # noqa: B006 - Typer copies it
    deep: Annotated[bool, typer.Option("--deep", help="Decode every image too, which takes longer.")] = False,
) -> int:
    """Compare a dataset with its published counts and report what is wrong with it.

    Exit code 1 if a split has faults.
    """
    from sam4mllm_tool.data.split_report import check_split
    from sam4mllm_tool.data.splits import open_splits, read_options

    splits = open_splits(name, root, split, read_options(name, option))
    print(f"{name} in {root}")
    good = True
    for split_name, dataset in splits.opened.items():
        try:
            report = check_split(dataset, deep=deep)
        except DataError as error:
            if len(splits.opened) == 1:
                raise
            print(f"{split_name}: {error}")
            good = False
            continue
        print("\n".join(report.lines()))
        good = good and report.good
    for split_name, reason in splits.missing.items():
        print(f"{split_name}: not there ({reason})")
    print("all is well" if good else "not all is well")
    return 0 if good else 1


@data_app.command(cls=Command)
def convert(
    kind: Annotated[
        Literal["coco", "labelme", "folder"],
        typer.Argument(metavar="FORMAT", help="Format of the source: coco, labelme or folder."),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="coco: the JSON file; labelme: the folder; folder: one with NAME.jpg, NAME.png and NAME.txt."
        ),
    ],
    out: JsonlOption,
    copy: Annotated[
        bool,
        typer.Option(
            "--copy", help="Copy the images to images/ beside the file. Without it, the file refers to them where they are."
        ),
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Annotation field that holds the expression, for coco (by default the first of expression, caption, text and "
            "sentence that exists) and labelme (label or description).",
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the images, for coco.")] = None,
    values: Annotated[
        Literal["any", "each"] | None,
        typer.Option(
            metavar="any|each",
            help="For folder: 'any' takes all pixels that are not black as one object, 'each' takes every pixel value as an "
            "object of its own.",
            show_default="any",
        ),
    ] = None,
) -> int:
    """Convert your own data to JSONL, which 'data build' and 'train' read.

    Exit code 1 if an annotation was dropped.
    """
    from sam4mllm_tool.data.convert import write_records
    from sam4mllm_tool.data.from_coco import read_coco
    from sam4mllm_tool.data.from_folder import read_folder
    from sam4mllm_tool.data.from_labelme import read_labelme
    from sam4mllm_tool.data.sample import Problems

    problems = Problems()
    options = {key: value for key, value in (("column", column), ("images", images), ("values", values)) if value is not None}
    known = {"coco": ("column", "images"), "labelme": ("column",), "folder": ("values",)}[kind]
    _check_options(options, kind, known)
    readers: dict[str, Any] = {"coco": read_coco, "labelme": read_labelme, "folder": read_folder}
    written = write_records(readers[kind](source, problems, **options), out, problems, copy=copy)
    print(written.summary())
    _print_problems(problems)
    return 1 if any(fate == "dropped" for fate, _ in problems.counts) else 0


def _check_options(options: dict[str, Any], kind: str, known: Sequence[str]) -> None:
    """Raise DataError for options that the converter of this format doesn't know."""
    if unknown := [f"--{name}" for name in options if name not in known]:
        raise DataError(f"{' and '.join(unknown)} is not for {kind}, which has {', '.join(f'--{name}' for name in known)}")


def _print_problems(problems: "Problems") -> None:
    for line in [*problems.lines(), *(f"  {record}" for record in problems.first)]:
        print(line, file=sys.stderr)


@data_app.command(cls=Command)
def show(
    name: NameArgument,
    root: RootArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Image to write, a PNG or JPEG file.")],
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split, as in train, val or testA.", show_default="the first one there is"),
    ] = None,
    option: ReaderOption = [],  # noqa: B006 - Typer copies it
    count: Annotated[int, typer.Option(metavar="N", min=1, max=200, help="Number of samples, from 1 to 200.")] = 12,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random choice of samples.")] = 0,
) -> int:
    """Draw samples with their masks into one image.

    Exit code 1 if a sample could not be drawn.
    """
    from tqdm import tqdm

    from sam4mllm_tool.data.contact_sheet import draw_contact_sheet, pick_samples, save_sheet
    from sam4mllm_tool.data.splits import open_splits, read_options

    dataset = next(iter(open_splits(name, root, split, read_options(name, option)).opened.values()))
    title = f"{dataset.name} {dataset.split}"
    samples = pick_samples(tqdm(dataset, desc=title, unit="sample", disable=None), count, seed)
    sheet = draw_contact_sheet(samples, f"{title}, {len(samples)} samples")
    save_sheet(sheet.image, out)
    print(f"wrote {out}: {len(samples)} samples of {title}")
    for fault in sheet.faults:
        print(f"not drawn: {fault}", file=sys.stderr)
    return 1 if sheet.faults else 0


# Training conversations -------------------------------------------------------------------------------------------------


@data_app.command(cls=Command)
@with_options(config_options(Recipe, _RECIPE, {"segmenter": "SPEC"}))
def build(
    data: Annotated[list[str], typer.Option(metavar=_SPLIT_SOURCE, help="Dataset with masks. Repeatable.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for lessons.jsonl and manifest.json.")],
    vqa_data: Annotated[
        list[str],
        typer.Option(metavar=_SPLIT_SOURCE, help="Dataset of conversations to mix in, in the share --vqa. Repeatable."),
    ] = [],  # noqa: B006 - Typer copies it
    option: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="Setting of all datasets' readers, as in images=DIR; for one of them, "
            "NAME:ROOT:SPLIT?images=DIR&split_by=google. Repeatable.",
        ),
    ] = [],  # noqa: B006
    held_out: HeldOutOption = [],  # noqa: B006
    dialect: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"Wording and coordinate format of the questions: {', '.join(sorted(DIALECTS))}.",
            autocompletion=complete_from(sorted(DIALECTS)),
        ),
    ] = "joint",
    processes: Annotated[int, typer.Option(metavar="N", help="Number of processes that build at the same time.")] = 1,
    **settings: Any,
) -> int:
    """Build training conversations from datasets, for 'sam4mllm train --lessons DIR'.

    Exit code 1 if a sample was dropped or repaired.
    """
    from sam4mllm_tool.data.build import Source, build_conversations
    from sam4mllm_tool.data.verify import describe_problems, is_clean, verify_conversations

    if dialect not in DIALECTS:
        raise DataError(f"no such dialect: expected one of {', '.join(sorted(DIALECTS))}, got {dialect!r}")
    sources, vqa = ([Source.parse(text).with_options(option) for text in texts] for texts in (data, vqa_data))
    recipe = Recipe.of(DIALECTS[dialect], settings)
    build_conversations(sources, out, recipe, vqa=vqa, held_out=held_out, processes=processes)
    print("\n".join(verify_conversations(out, held_out)))
    for line in describe_problems(out):
        print(line, file=sys.stderr)
    return 0 if is_clean(out) else 1


@data_app.command(cls=Command)
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that 'data build' wrote.")],
    held_out: HeldOutOption = [],  # noqa: B006
) -> None:
    """Check that training conversations are complete, match their manifest, and use no held-out image."""
    from sam4mllm_tool.data.verify import verify_conversations

    print("\n".join(verify_conversations(folder, held_out)))
