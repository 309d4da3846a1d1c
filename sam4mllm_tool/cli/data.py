"""The commands `sam4mllm data ...`: draw, check, convert and show datasets; build training conversations and verify them.

Exit codes: 0 all is well; 1 something was dropped, repaired or missing, and the rest was kept; 2 the request is invalid.
Results go to stdout; progress and what was dropped go to stderr. Commands import what they need when they run.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sam4mllm_tool.cli.datasets import check, convert, gallery, scenes, show, split
from sam4mllm_tool.cli.help_page import CommandGroup
from sam4mllm_tool.cli.options import Command, complete_from, config_options, with_options
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.protocol import DIALECTS

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

HeldOutOption = Annotated[
    list[Path],
    typer.Option(
        metavar="ROOT",
        help="Folder of the RefCOCO family, whose validation and test images are left out; needed where it is not in a "
        "dataset's own folder. Repeatable.",
    ),
]

for _command in (scenes, gallery, check, convert, split, show):
    data_app.command(cls=Command)(_command)


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
