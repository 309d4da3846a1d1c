"""`sam4mllm train` and `sam4mllm export`: a thin skin, which imports what it needs when it runs."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from sam4mllm_tool.errors import DataError
from sam4mllm_tool.training.config import TrainingConfig, read_config

__all__ = ["add_commands"]

_HELP = {
    "mllm": "embedded, a folder or a hub id; +ADAPTER goes on from an adapter",
    "lessons": "a folder that 'sam4mllm data build' wrote",
    "data": "NAME:ROOT or NAME:ROOT:SPLIT to build the lessons from; may be given several times",
    "vqa_data": "NAME:ROOT of conversations to mix in, in the recipe's share",
    "held_out": "where the RefCOCO family lies whose val and test pictures are left out",
    "build_processes": "how many processes build lessons from data",
    "out": "the folder for the result; the same command after a cut goes on from its checkpoints",
    "lora_targets": "names of layers inside the language model, or one regular expression for full names, told by its signs",
    "projector": "whether the projector is trained too; names of other modules can be told in a file",
    "eval_data": "NAME:ROOT of held-out samples that are segmented for real while it trains",
}


def add_commands(commands: Any) -> None:
    """Registers both on the parser's subcommands."""
    train = commands.add_parser("train", help="tune a model on lessons: a LoRA adapter that --mllm BASE+ADAPTER loads")
    train.add_argument(
        "config", metavar="CONFIG", nargs="?", type=Path, help="settings as TOML, JSON or YAML; a flag overrides the file"
    )
    hints = get_type_hints(TrainingConfig)
    for setting in fields(TrainingConfig):
        if setting.name == "recipe":  # a table of its own, in a file alone
            continue
        _add_flag(train, setting.name, hints[setting.name], setting.default)
    train.set_defaults(run=_train)
    export = commands.add_parser("export", help="merge an adapter into its base: a folder that transformers and vLLM load")
    export.add_argument("--mllm", metavar="SPEC", required=True, help="BASE+ADAPTER, or embedded")
    export.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    export.add_argument("--dialect", metavar="NAME", help="how it is spoken to (default: the dialect.json of the adapter)")
    export.add_argument("--dtype", metavar="NAME", help="float32, bfloat16 or float16 (default: the base's)")
    export.set_defaults(run=_export)


def _add_flag(parser: argparse.ArgumentParser, name: str, hint: Any, default: Any) -> None:
    """--name-of-setting; what is not given is not in the arguments, so that a file's setting stays."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)] if get_origin(hint) not in (None, tuple) else [hint]
    flag = f"--{name.replace('_', '-')}"
    told: dict[str, Any] = {"dest": f"setting_{name}", "default": argparse.SUPPRESS}
    shown = " ".join(default) if isinstance(default, tuple) else default
    about = _HELP.get(name, "") + (f" (default: {shown})" if default not in (None, "", ()) else "")
    if str(get_origin(hint)) == "typing.Literal":
        parser.add_argument(flag, choices=get_args(hint), help=about.strip(), **told)
    elif bool in kinds:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=about.strip(), **told)
    elif name in ("data", "vqa_data", "held_out"):
        parser.add_argument(flag, metavar="SET", action="append", help=about.strip(), **told)
    elif any(get_origin(kind) is tuple for kind in kinds):
        parser.add_argument(flag, metavar="NAME", nargs="+", help=about.strip(), **told)
    else:
        kind = next((kind for kind in (int, float) if kind in kinds), str)
        parser.add_argument(flag, metavar={int: "N", float: "X"}.get(kind, "VALUE"), type=kind, help=about.strip(), **told)


def _train(arguments: argparse.Namespace) -> None:
    told = read_config(arguments.config) if arguments.config else {}
    flags = {name.removeprefix("setting_"): value for name, value in vars(arguments).items() if name.startswith("setting_")}
    match flags.get("lora_targets"):
        case [str(one)] if not one.isidentifier():
            flags["lora_targets"] = one
    try:
        config = TrainingConfig.from_dict({**told, **flags})
    except ValueError as error:
        raise DataError(f"{arguments.config}: {error}" if arguments.config else str(error)) from error

    from sam4mllm_tool.training.run import train

    print(f"wrote {train(config)}")


def _export(arguments: argparse.Namespace) -> None:
    from sam4mllm_tool.training.merge_adapter import export

    print(f"wrote {export(arguments.mllm, arguments.out, dialect=arguments.dialect, dtype=arguments.dtype)}")
