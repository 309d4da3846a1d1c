"""Help pages, drawn with rich. Typer's own panels cut long option names off in a terminal of 80 columns; these never do."""

from collections.abc import Iterator, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from sam4mllm_tool.cli.usage_errors import complete_usage_error, describe_unknown_command

__all__ = ["CommandGroup", "HelpCommand"]

_MAX_WIDTH = 100
"""Columns of a page."""
_NAME_WIDTH = 26
"""Columns of a name; the help of a longer name begins below it."""


class HelpCommand(TyperCommand):
    """A command with a help page, whose usage errors name it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; the errors of all of them say whose they are."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            complete_usage_error(error, ctx, given)
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(_render(self, ctx, []))


class CommandGroup(TyperGroup):
    """A group of commands with a help page, which suggests commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        if args and self.get_command(ctx, args[0]) is None and args[0][:1] != "-":
            raise typer.BadParameter(describe_unknown_command(args[0], self.list_commands(ctx)), ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page with the group's commands."""
        commands = [self.commands[name] for name in self.list_commands(ctx)]
        formatter.write(_render(self, ctx, [command for command in commands if not command.hidden]))


def _render(command: Any, ctx: Any, subcommands: Sequence[Any]) -> str:
    console = Console(highlight=False)
    console.width = min(console.width, _MAX_WIDTH)
    with console.capture() as capture:
        for part in _page_parts(command, ctx, subcommands):
            console.print(part)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def _page_parts(command: Any, ctx: Any, subcommands: Sequence[Any]) -> Iterator[RenderableType]:
    params = [param for param in command.get_params(ctx) if not getattr(param, "hidden", False)]
    arguments = [param for param in params if param.param_type_name == "argument"]
    yield Text.assemble(("Usage: ", "bold"), _usage(ctx, arguments, subcommands))
    for paragraph in command.help.split("\n\n"):
        yield Text("\n" + " ".join(paragraph.split()))
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [(param.metavar, _describe(param)) for param in arguments]}
    options = [param for param in params if param.param_type_name == "option"]
    if not subcommands and any(not option.rich_help_panel for option in options[:-1]):
        sections["Options"] = []  # in the first place, unless there is nothing but --help and the like
    for item in subcommands:
        sections.setdefault(item.rich_help_panel or "Commands", []).append((item.name, item.help.partition("\n\n")[0]))
    for option in options:
        panel = getattr(option, "rich_help_panel", None) or "Options"
        sections.setdefault(panel, []).append((_option_names(option), _describe(option)))
    for title, rows in sections.items():
        if rows:
            yield Text(f"\n{title}:", style="bold")
        for name, text in rows:
            yield from _row(name, text)
    for paragraph in filter(None, (command.epilog or "").split("\n\n")):
        yield Text(f"\n{paragraph}")


def _usage(ctx: Any, arguments: Sequence[Any], subcommands: Sequence[Any]) -> str:
    words = [argument.metavar if argument.required else f"[{argument.metavar}]" for argument in arguments]
    return " ".join([ctx.command_path, *words, "[OPTIONS]", *(["COMMAND ..."] if subcommands else [])])


def _row(name: str, text: str) -> Iterator[RenderableType]:
    styled = Text(name, style="cyan")
    if len(name) > _NAME_WIDTH:
        yield Padding(styled, (0, 0, 0, 2))
        styled = Text()
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=_NAME_WIDTH)
    table.add_column()
    table.add_row(styled, Text(" ".join(text.split())))
    yield Padding(table, (0, 0, 0, 2))


def _option_names(option: Any) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    names = f"{names} / {', '.join(option.secondary_opts)}" if option.secondary_opts else names
    return names if option.is_flag else f"{names} {option.metavar}"


def _describe(param: Any) -> str:
    """Return the help of a parameter with its default, or that it is required."""
    note = "required" if param.required else _default_text(param)
    return f"{param.help or ''} [{note}]" if note else param.help or ""


def _default_text(param: Any) -> str:
    if isinstance(param.show_default, str):
        return f"default: {param.show_default}"
    if getattr(param, "is_flag", False):
        return f"default: {'on' if param.default else 'off'}" if param.secondary_opts else ""
    values = param.default if isinstance(param.default, list | tuple) else [param.default]
    text = ", ".join(str(value) for value in values if value not in (None, ""))
    return f"default: {text}" if text else ""
