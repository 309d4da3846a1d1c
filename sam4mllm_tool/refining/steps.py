"""Programs: flows about more than one picture in a row, such as the picture itself and a copy with something painted over.

A program is a generator that yields `On(picture, flow)` and is sent what the flow comes to. As with flows, what is done next
is decided in one place and two thin drivers serve it, one that blocks and one that awaits.
"""

import asyncio
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from sam4mllm_tool.flows import Flow, Talk
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.types import Image

__all__ = ["On", "Program", "adrive", "drive"]


@dataclass(frozen=True)
class On:
    """Wanted: what `flow` comes to, its questions and prompts answered about `picture`. talk: where its seconds go."""

    picture: Image
    flow: Flow[Any]
    talk: Talk


T = TypeVar("T")
Program: TypeAlias = Generator[On, Any, T]


def drive(models: Sam4Mllm, program: Program[T]) -> T:
    """What the program comes to. Raises what it, its flows and the models raise."""
    result: Any = None
    while True:
        step, done = _advance(program, result)
        if step is None:
            return done  # type: ignore[return-value]
        result = models.run(step.picture, step.flow, step.talk)


async def adrive(models: Sam4Mllm, program: Program[T]) -> T:
    """As `drive`; the program's own work, pictures and masks, is done beside the event loop."""
    result: Any = None
    while True:
        step, done = await asyncio.to_thread(_advance, program, result)
        if step is None:
            return done  # type: ignore[return-value]
        result = await models.arun(step.picture, step.flow, step.talk)


def _advance(program: Program[T], result: Any) -> tuple[On | None, T | None]:
    """The next step, or None and what the program came to: a StopIteration can't leave a thread."""
    try:
        return program.send(result), None
    except StopIteration as end:
        return None, end.value
