"""The method `adaptive`: ask where an answer decides something, and whether the box is right at all.

The paper asks where a fixed grid falls. Here the segmenter's candidates for the box say where an answer can be relied on.
"""

from sam4mllm_tool import stable
from sam4mllm_tool.flows import Flow, Flows, Talk
from sam4mllm_tool.protocol import PQPP, BoxOnly, Dialogue, Placed
from sam4mllm_tool.types import SegmentedObject, Size

__all__ = ["adaptively"]


def adaptively(
    flows: Flows, expression: str, size: Size, talk: Talk
) -> Flow[tuple[Dialogue, list[SegmentedObject], float | None]]:
    """Boxes, their masks, questions where these say that an answer can be relied on, masks again, the better kept.

    A mask whose box is far from the one that was told says that the box was rough: it is tried as a prompt too.
    """
    asked = yield from flows.settle(BoxOnly.start(expression, size, dialect=flows.dialect), talk)
    alone = yield from flows.masks(asked.prompts, size)
    places = ((prompt.box, stable.points_for(thing)) for prompt, thing in zip(asked.prompts, alone, strict=True))
    start = PQPP.start(expression, size, dialect=flows.dialect, sampler=Placed(tuple(places)), thresholds=flows.thresholds)
    dialogue = yield from flows.settle(start.answer([asked.history[0].reply]), talk)
    pointed = yield from flows.masks(dialogue.prompts, size)
    found = [stable.better(thing, bare) for thing, bare in zip(pointed, alone, strict=True)]
    again = {n: prompt for n, thing in enumerate(found) if (prompt := stable.reboxed(thing)) is not None}
    redone = yield from flows.masks(list(again.values()), size)
    for number, thing in zip(again, redone, strict=True):
        found[number] = stable.better(found[number], thing)
    return dialogue, found, None
