"""Options that several commands share, and options made from the fields of a settings class.

Typer reads a command's options from the signature of its function. `config_options` writes that part of the signature, so
that a settings class and its command cannot drift apart.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter, Signature, signature
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from sam4mllm_tool.cli.help_page import HelpCommand
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Method

__all__ = [
    "LOADING_OPTIONS",
    "AbstainOption",
    "CloserOption",
    "Command",
    "DialectOption",
    "MethodOption",
    "MllmOption",
    "RefineCropsOption",
    "SegmenterOption",
    "TimeoutOption",
    "complete_from",
    "config_options",
    "given_options",
    "read_refine_crops",
    "refuse_options",
    "require_effect",
    "with_options",
]

_SPEC = "'embedded' (built in, for drawn scenes only), a local folder, or a Hugging Face model id"
MllmOption = Annotated[
    str | None,
    typer.Option(
        "--mllm",
        metavar="SPEC",
        help=f"Multimodal language model: {_SPEC}. Append '+ADAPTER' to add a LoRA adapter. Or a model that runs elsewhere: "
        "openai:MODEL@URL, or langchain:PROVIDER:MODEL.",
        show_default="$SAM4MLLM_MLLM, or else embedded",
    ),
]
SegmenterOption = Annotated[
    str | None,
    typer.Option(
        "--segmenter",
        metavar="SPEC",
        help=f"Segment Anything model: {_SPEC}. Or a file as Meta released it: segment-anything:vit_h@FILE.",
        show_default="$SAM4MLLM_SEGMENTER, or else embedded",
    ),
]
DialectOption = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        metavar="NAME",
        help="Wording and coordinate format of the questions to the MLLM.",
        show_default="the dialect.json beside its weights, what probe measured, its family's, or else plain",
    ),
]
MethodOption = Annotated[
    Method,
    typer.Option(
        "--method",
        metavar="|".join(METHODS),
        help="How SAM is prompted: 'pqpp' lets the MLLM label points inside its box, 'ppg' lets it propose points, 'box' uses "
        "its box alone, 'points' uses points alone, 'adaptive' verifies several candidates and gives a calibrated confidence.",
    ),
]
AbstainOption = Annotated[
    float,
    typer.Option(
        "--abstain",
        metavar="P",
        min=0,
        max=1,
        help="Drop objects whose confidence is below this probability, from 0 to 1. Needs --method adaptive.",
        show_default="0, which keeps all",
    ),
]
RefineCropsOption = Annotated[
    bool,
    typer.Option(
        "--refine-crops/--no-refine-crops",
        help="Segment small objects again on three enlarged crops of the image. Applies to --method adaptive.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout-s",
        metavar="S",
        min=0.001,
        help="Time limit of one call of a model, in seconds. What takes longer ends with an error.",
        show_default="none",
    ),
]
CloserOption = Annotated[bool | None, typer.Option("--closer/--no-closer", hidden=True, help="Old name of --refine-crops.")]


def read_refine_crops(refine_crops: bool, closer: bool | None) -> bool:
    """Return the value of --refine-crops, or that of its deprecated name, with a warning on stderr."""
    if closer is None:
        return refine_crops
    old, new = ("--closer", "--refine-crops") if closer else ("--no-closer", "--no-refine-crops")
    print(f"sam4mllm: {old} is deprecated and will be removed; use {new}", file=sys.stderr)
    return closer


_PATHS = ("DIR", "FILE", "PATH", "PAGE", "CONFIG")
"""Placeholders of options that take a path."""


class Command(HelpCommand):
    """A command whose options of metavar `NAME...` take several values in a row, as in `--eval-methods pqpp box`.

    It also refuses an option in the place of another option's value, as in `--out --json`, and an empty path, which would be
    the current folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments with every repeated value behind a name of its own, which is what Typer understands."""
        return super().parse_args(ctx, list(self._separate_values(ctx, args)))

    def _separate_values(self, ctx: Any, args: list[str]) -> Iterator[str]:
        names = {name for param in self.params for name in (*param.opts, *param.secondary_opts) if name[0] == "-"}
        takes_value = {name for param in self.params if not getattr(param, "is_flag", False) for name in param.opts} & names
        takes_path = {name for param in self.params if param.metavar in _PATHS for name in param.opts} & names
        takes_several = {name for param in self.params if str(param.metavar).endswith("...") for name in param.opts} & names
        previous = several = ""
        for index, arg in enumerate(args):
            if arg == "--":
                yield from args[index:]
                return
            if previous in takes_value and arg in names:
                raise typer.BadParameter(f"expected a value, got the option {arg}", ctx=ctx, param_hint=f"'{previous}'")
            if (option := arg.removesuffix("=") if arg.endswith("=") else "" if arg else previous) in takes_path:
                raise typer.BadParameter("the path is empty", ctx=ctx, param_hint=f"'{option}'")
            if arg[:1] == "-" and previous not in takes_value:
                several = arg if arg in takes_several else ""
            elif several and previous != several:
                yield several
            yield arg
            previous = arg


# Options made from a settings class -------------------------------------------------------------------------------------


Function = TypeVar("Function", bound=Callable[..., Any])


def config_options(
    config: type, panels: Mapping[str, Mapping[str, str]], metavars: Mapping[str, str], flags: Mapping[str, str] = {}
) -> list[Parameter]:
    """Build one option per described field of a dataclass; its default is the field's.

    Args:
        config: A dataclass, every described field of which has a default.
        panels: The options' help by field name, under the heading of each part of the help page.
        metavars: Placeholders of values that are not numbers by field name; `NAME...` takes several values.
        flags: Options' names by field name, where they are not the field's own.
    """
    hints = get_type_hints(config)
    defaults: dict[str, Any] = {field.name: field.default for field in fields(config)}
    parameters = []
    for panel, helps in panels.items():
        for name, text in helps.items():
            kind, metavar = _option_type(hints[name])
            flag = flags.get(name, name.replace("_", "-"))
            names = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
            info = typer.Option(names, help=text, rich_help_panel=panel, metavar=metavars.get(name, metavar))
            value = list(defaults[name] or ()) if kind == list[str] else defaults[name]
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=value, annotation=Annotated[kind, info]))
    return parameters


def _option_type(hint: Any) -> tuple[Any, str | None]:
    """Return the one type that a field has on the command line, where a file may give several, and its placeholder."""
    if get_origin(hint) is Literal:
        return hint, "|".join(get_args(hint))
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if isinstance(hint, UnionType) else [hint]
    if bool in kinds:
        return bool, None
    if any(get_origin(kind) is tuple for kind in kinds):
        return list[str], "TEXT"
    kind = next((kind for kind in (int, float) if kind in kinds), str)
    return kind | None, {int: "N", float: "X"}.get(kind, "TEXT")


def with_options(parameters: Sequence[Parameter]) -> Callable[[Function], Function]:
    """Replace the `**options` in a command's signature with these parameters."""

    def decorate(function: Function) -> Function:
        own = [p for p in signature(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        function.__signature__ = Signature([*own, *parameters])  # type: ignore[attr-defined] # what inspect looks for
        return function

    return decorate


def given_options(ctx: typer.Context, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that stand on the command line, without those that have their default."""
    return {name: value for name, value in options.items() if _source(ctx, name) == "COMMANDLINE"}


def _source(ctx: typer.Context, name: str) -> str:
    source = ctx.get_parameter_source(name)
    return source.name if source else ""


def require_effect(ctx: typer.Context, methods: Method | Collection[Method]) -> None:
    """Refuse the options that only `adaptive` uses where it is not among the methods.

    Args:
        ctx: The command's context.
        methods: The methods that will run.

    Raises:
        typer.BadParameter: Such an option stands on the command line.
    """
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    if "adaptive" not in names:
        reason = f"no effect with --method {' and '.join(names)}; add --method adaptive, or leave it out"
        refuse_options(ctx, ("abstain", "refine_crops", "closer"), reason)


def refuse_options(ctx: typer.Context, names: Collection[str], reason: str) -> None:
    """Refuse the options that would have no effect.

    Args:
        ctx: The command's context.
        names: The options' parameter names, as in `refine_crops`.
        reason: What follows "--option has" in the message, as in "no effect without --out".

    Raises:
        typer.BadParameter: One of the options stands on the command line, whatever its value.
    """
    given = [param for param in ctx.command.params if param.name in names and _source(ctx, str(param.name)) == "COMMANDLINE"]
    for param in given[:1]:
        is_off = bool(param.secondary_opts) and ctx.params[str(param.name)] is False
        raise typer.BadParameter(f"{(param.secondary_opts if is_off else param.opts)[0]} has {reason}", ctx=ctx)


LOADING_OPTIONS = config_options(
    LoadOptions,
    {
        "Loading": {
            "device": "PyTorch device that runs the models, as in cpu, cuda, cuda:1 or mps; by default the first CUDA device, "
            "or else Apple's GPU, or else the CPU.",
            "segmenter_device": "Device of the segmenter; by default that of --device.",
            "dtype": "Precision; by default bfloat16 on GPUs that compute in it, float16 on other GPUs, float32 on a CPU.",
            "quantize": "Load the MLLM's weights in 4 or 8 bits, with bitsandbytes.",
            "device_map": "Spread the MLLM over all devices and main memory, in place of --device.",
            "attention": "The MLLM's attention as transformers names it, as in sdpa, eager or flash_attention_2.",
            "max_pixels": "Most pixels of an image that the MLLM reads; a larger image is shown smaller. By default as the "
            "model's own settings say, but at most 2,097,152 for families that read any size, such as Qwen-VL.",
            "compile": "Compile the image encoders by torch.compile: faster, after a first call of up to a minute longer.",
            "cpu_fallback": "Run on the CPU what the GPU has no memory for, instead of failing.",
        }
    },
    {"device": "NAME", "segmenter_device": "NAME", "dtype": "float32|bfloat16|float16", "quantize": "4bit|8bit"}
    | {"device_map": "auto", "attention": "NAME"},
    {"attention": "attn"},
)
"""The options of `LoadOptions`, for commands that load models."""


def complete_from(values: Sequence[str]) -> Callable[[], list[str]]:
    """Return a shell completion that offers these values."""
    return lambda: list(values)
