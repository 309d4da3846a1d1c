"""The command `sam4mllm reason`. Imports what it needs when it runs."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sam4mllm_tool.cli.chat_models import ChatModelOption, load_optional_chat_model
from sam4mllm_tool.cli.image_arguments import AllowUrlOption, choose_policy, open_image
from sam4mllm_tool.cli.messages import print_warnings
from sam4mllm_tool.cli.options import LOADING_OPTIONS, DialectOption, MllmOption, SegmenterOption, with_options
from sam4mllm_tool.cli.quick_loading import quick_loading
from sam4mllm_tool.cli.segment import require_replaceable_outputs
from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.models.load_options import LoadOptions

if TYPE_CHECKING:
    from sam4mllm_tool.pipeline.requests import Flow
    from sam4mllm_tool.reasoning import Attempt, ReasoningResult
    from sam4mllm_tool.types import Segmentation

__all__ = ["reason"]


@with_options(LOADING_OPTIONS)
def reason(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image: a path, a data URI or a URL.")],
    expression: Annotated[
        str, typer.Argument(metavar="EXPRESSION", help="What to segment, as in 'what you drink your tea from'.")
    ],
    mllm: MllmOption = None,
    segmenter: SegmenterOption = None,
    dialect: DialectOption = None,
    chat_model: ChatModelOption = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=0, help="Calls of the MLLM and of the chat model, at most.")] = 6,
    tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Tokens that these read and write, at most.", show_default="no limit"),
    ] = None,
    seconds: Annotated[float, typer.Option(metavar="X", min=0, help="Seconds of work, at most.")] = 60.0,
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Requests to a remote MLLM's server, at most.", show_default="no limit"),
    ] = None,
    allow_url: AllowUrlOption = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to write mask.png, overlay.png and result.json to.")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to record the whole run in, for 'sam4mllm trace'.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
    **loading: Any,
) -> None:
    """Segment what takes thought: doubt the answer, try again within a budget, and say why it stands.

    Prints each step and what it gave, then each object, and the reason of the answer. "No such object" and "not sure enough"
    are answers, with exit code 0.
    """
    from sam4mllm_tool.images.export import make_folder, summary, write_outputs
    from sam4mllm_tool.protocol.dialogues import validate_expression
    from sam4mllm_tool.reasoning import Budget, Meter, ReasoningConfig, ReasoningResult, ReasoningStrategies
    from sam4mllm_tool.reasoning.search import run_reasoning

    # Whatever costs nothing to check is checked before the models are loaded.
    options = LoadOptions(**loading)
    loaded, expression = open_image(image, choose_policy(allow_url)), validate_expression(expression)
    require_replaceable_outputs(image, out, trace)
    for folder in filter(None, (out, trace.parent if trace else None)):
        make_folder(folder)
    rephraser_model = load_optional_chat_model(chat_model)

    from sam4mllm_tool.agents.rephraser import Rephraser
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
    from sam4mllm_tool.trace import recorded
    from sam4mllm_tool.types import Size

    with quick_loading(options):
        models = Sam4Mllm.load(mllm, segmenter, dialect=dialect, options=options)
    meter, outcome = Meter(Budget(rounds, tokens, seconds, requests)), list[ReasoningResult]()
    run = models.start_run(Size(*loaded.size), expression)
    config = ReasoningConfig().for_models(models.dialect, rephrases=rephraser_model is not None)
    rephraser = None if rephraser_model is None else Rephraser(rephraser_model, config.wordings, time.monotonic)
    flow = run_reasoning(
        ReasoningStrategies(run, expression, config),
        meter,
        find_wordings=None if rephraser is None else rephraser.find_wordings,
        watch=None if as_json else _StepPrinter(),
    )
    with recorded(models, trace) as recorder:
        recorder.run(loaded, _as_segmentation(flow, outcome), run, hooks=[meter])
    (result,) = outcome
    segmentation = result.as_segmentation()
    paths = write_outputs(out, loaded, segmentation) if out else []
    print_warnings(result.warnings, set())
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    print(summary(replace(segmentation, notes=segmentation.notes[:-1]), with_warnings=False))
    print(f"why: {result.reason}")
    print(f"spent: {_format_spent(result)}")
    for path in [*paths, *([trace] if trace else [])]:
        print(f"wrote {path}")


class _StepPrinter:
    """Prints each step when it is done, with its number."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, step: str, before: "Sequence[Attempt]", after: "Sequence[Attempt]") -> None:
        from sam4mllm_tool.reasoning.explanation import explain_step

        self._count += 1
        print(f"{self._count}. {explain_step(step, before, after)}", flush=True)


def _as_segmentation(flow: "Flow[ReasoningResult]", outcome: "list[ReasoningResult]") -> "Flow[Segmentation]":
    """Run the flow and keep its result in `outcome`; a trace holds the answer as a segmentation."""
    result = yield from flow
    outcome.append(result)
    return result.as_segmentation()


def _format_spent(result: "ReasoningResult") -> str:
    spent = result.spent
    requests = f"{count_noun(spent.requests, 'request')}, " if spent.requests else ""
    return f"{count_noun(spent.rounds, 'model call')}, {requests}{spent.tokens:,} tokens, {spent.seconds:.1f} s"
