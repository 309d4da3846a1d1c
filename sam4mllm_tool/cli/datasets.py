"""The commands `sam4mllm data scenes | gallery | check | convert | split | show`. They import what they need when they run."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sam4mllm_tool.cli.options import complete_from
from sam4mllm_tool.errors import DataError, count_noun

if TYPE_CHECKING:
    from sam4mllm_tool.data.sample import Problems

__all__ = ["check", "convert", "gallery", "scenes", "show", "split"]

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
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
JsonlOption = Annotated[Path, typer.Option(metavar="PATH", help="File NAME.jsonl, or a folder for scenes.jsonl.")]


def scenes(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images and scenes.jsonl.")],
    count: Annotated[int, typer.Option(metavar="N", min=1, max=10**9, help="Number of scenes.")],
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=10**9, help="Seed of the first scene; the next one has the next seed.")
    ] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw scenes of everyday things, with expressions and exact masks."""
    from sam4mllm_tool.embedded.scene_files import write_scenes

    print(f"wrote {write_scenes(out, count, seed, overwrite=overwrite)}")


def gallery(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Image to write, a PNG or JPEG file.")],
    scenes: Annotated[
        int, typer.Option(metavar="N", min=0, max=200, help="Draw N scenes with expressions; 0: every thing with its parts.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=10**9, help="Seed of the first scene, or of the things.")] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw the everyday things with their parts, or scenes of them, into one image."""
    from sam4mllm_tool.atomic_io import require_new_file
    from sam4mllm_tool.data.contact_sheet import save_sheet
    from sam4mllm_tool.embedded.everyday.gallery import draw_objects_sheet, draw_scenes_sheet

    require_new_file(out, overwrite=overwrite)
    save_sheet(draw_scenes_sheet(scenes, seed) if scenes else draw_objects_sheet(seed), out)
    print(f"wrote {out}")


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
    overwrite: OverwriteOption = False,
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
    written = write_records(readers[kind](source, problems, **options), out, problems, copy=copy, overwrite=overwrite)
    print(written.summary())
    return _report_problems(problems)


def _check_options(options: dict[str, Any], kind: str, known: Sequence[str]) -> None:
    """Raise DataError for options that the converter of this format doesn't know."""
    if unknown := [f"--{name}" for name in options if name not in known]:
        raise DataError(f"{' and '.join(unknown)} is not for {kind}, which has {', '.join(f'--{name}' for name in known)}")


def _report_problems(problems: "Problems") -> int:
    """Print what was dropped or corrected to stderr, the first faults in full; return 1 if a record was lost by a fault."""
    from sam4mllm_tool.data.class_reader import LEFT_OUT_BY_CHOICE

    for line in [*problems.lines(), *(f"  {record}" for record in problems.first)]:
        print(line, file=sys.stderr)
    if more := problems.count - len(problems.first):
        print(f"  and {more:,} more", file=sys.stderr)
    return 1 if any(fate == "dropped" and what not in LEFT_OUT_BY_CHOICE for fate, what in problems.counts) else 0


def split(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="File NAME.jsonl, or the folder of scenes.jsonl.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the files.", show_default="the source's folder")
    ] = None,
    val: Annotated[
        float,
        typer.Option(metavar="X", min=0, help="Share of the images for val.jsonl if below 1, else their number; 0: none."),
    ] = 0.1,
    test: Annotated[
        float,
        typer.Option(metavar="X", min=0, help="Share of the images for test.jsonl if below 1, else their number; 0: none."),
    ] = 0.1,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the random division.")] = 0,
    overwrite: OverwriteOption = False,
) -> int:
    """Divide your own data by image into train.jsonl, val.jsonl and test.jsonl.

    No image is in two files, under whichever name. Exit code 1 if a line was left out.
    """
    from sam4mllm_tool.data.sample import Problems
    from sam4mllm_tool.data.split_files import split_dataset

    shares = {name: share for name, share in (("val", val), ("test", test)) if share}
    folder = out or (source if source.is_dir() else source.parent)
    problems = Problems()
    for written in split_dataset(source, folder, shares, problems, seed=seed, overwrite=overwrite):
        print(written.summary())
    return _report_problems(problems)


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
    overwrite: OverwriteOption = False,
) -> int:
    """Draw samples with their masks into one image.

    Exit code 1 if a sample could not be read or drawn.
    """
    from tqdm import tqdm

    from sam4mllm_tool.atomic_io import require_new_file
    from sam4mllm_tool.data.contact_sheet import draw_contact_sheet, pick_samples, save_sheet
    from sam4mllm_tool.data.splits import open_splits, read_options

    require_new_file(out, overwrite=overwrite)
    dataset = next(iter(open_splits(name, root, split, read_options(name, option)).opened.values()))
    title = f"{dataset.name} {dataset.split}"
    samples = pick_samples(tqdm(dataset, desc=title, unit="sample", disable=None), count, seed)
    drawn = count_noun(len(samples), "sample")
    sheet = draw_contact_sheet(samples, f"{title}, {drawn}")
    save_sheet(sheet.image, out)
    print(f"wrote {out}: {drawn} of {title}")
    for fault in sheet.faults:
        print(f"not drawn: {fault}", file=sys.stderr)
    return _report_problems(dataset.problems) or (1 if sheet.faults else 0)
