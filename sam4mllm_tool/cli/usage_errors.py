"""What the command line says about invalid arguments: what is wrong, what was perhaps meant, and whose help to read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.text import suggest_name

__all__ = ["IMAGE_SUFFIXES", "complete_usage_error", "describe_unknown_command", "describe_usage_error"]

_MAX_MESSAGE = 600
"""Characters of a message, which may quote a whole argument."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def describe_usage_error(error: typer.TyperException) -> str:
    """Return one line: the command, what is wrong, the name that was perhaps meant, and the command whose help to read."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "sam4mllm"
    reason = _describe_bad_number(error) or _describe_unknown_option(error) or _plain_reason(error)
    reason = reason if len(reason) <= _MAX_MESSAGE else f"{reason[:_MAX_MESSAGE]}..."
    end = "" if reason.endswith("?") else ";"
    return f"{command}: {reason[:1].lower()}{reason[1:]}{end} see {command} --help"


def complete_usage_error(error: typer.TyperException, ctx: Any, args: Sequence[str]) -> None:
    """Add to the parser's error what it left out: whose arguments they were, and the whole of a word like `-out`."""
    if getattr(error, "ctx", ctx) is None:
        error.ctx = ctx  # type: ignore[attr-defined]
    name = str(getattr(error, "option_name", ""))
    if len(name) == 2 and name[0] == "-" and hasattr(error, "possibilities"):
        word = next((arg for arg in args if arg.startswith(name)), name)
        error.option_name = word.partition("=")[0]  # type: ignore[attr-defined]


def describe_unknown_command(word: str, commands: Sequence[str]) -> str:
    """Return what to say about a first word that is no command."""
    reason = f"no such command: {quote_text(word)}"
    if word.lower().endswith(IMAGE_SUFFIXES) or _is_file(word):
        return f"{reason}; did you mean 'sam4mllm segment IMAGE EXPRESSION'?"
    return f"{reason}{suggest_name(word, commands) or suggest_name(f'--{word}', ('--help', '--version'))}"


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _describe_unknown_option(error: Any) -> str:
    """Return what to say about an option that the command doesn't have; "" for another error."""
    if not hasattr(error, "possibilities"):
        return ""
    name, ctx = error.option_name, error.ctx
    names = _option_names(ctx.command, ctx)
    reason = f"no such option: {quote_text(name)[1:-1]}"
    if suggestion := suggest_name(f"--{name.lstrip('-')}", names):
        return f"{reason}{suggestion}"
    subcommands = getattr(ctx.command, "commands", {})
    owners = [word for word, command in subcommands.items() if name in _option_names(command, ctx)]
    return f"{reason}; it goes behind the command, as in '{ctx.command_path} {owners[0]} {name}'" if owners else reason


def _option_names(command: Any, ctx: Any) -> list[str]:
    params = (param for param in command.get_params(ctx) if not getattr(param, "hidden", False))
    return [name for param in params for name in (*param.opts, *param.secondary_opts) if name.startswith("--")]


def _describe_bad_number(error: Any) -> str:
    """Return what to say about a value that is no number or out of its range; "" for another error."""
    from pydantic import ValidationError  # which Typer's own is made from

    param, cause = getattr(error, "param", None), error.__cause__
    kinds = {"int": "a whole number", "float": "a number"}
    kind = next((kind for word, kind in kinds.items() if word in getattr(cause, "title", "")), None)
    if param is None or kind is None or not isinstance(cause, ValidationError):
        return ""
    name = param.opts[-1] if param.opts[-1].startswith("-") else param.metavar
    low = "" if param.min is None else f" from {param.min:,}"
    high = "" if param.max is None else f" to {param.max:,}"
    return f"invalid value for '{name}': expected {kind}{low}{high}, got {quote_text(str(cause.errors()[0]['input']))}"


def _plain_reason(error: Any) -> str:
    reason = " ".join(error.format_message().split()).rstrip(".")
    reason = reason.removeprefix("Invalid value: ").replace("Value error, ", "")  # how Typer and pydantic begin
    value, _, choices = reason.partition(" is not one of ")
    return reason + suggest_name(value.rpartition(" '")[2].rstrip("'"), re.findall(r"'([^']+)'", choices))
