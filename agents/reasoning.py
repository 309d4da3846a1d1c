"""Reasoning segmentation as a LangGraph graph: look, doubt, look again within a budget, and say how sure the answer is.

A query passes straight through the MLLM and the segmenter. Where the MLLM, asked whether that is what was meant, is not sure,
the graph looks again: it shows the MLLM its own answer, asks for another box, has a chat model say it in other words, looks
into a part of the picture. Each way is a node, each step an event of the custom stream; the state between them is plain JSON.
How to look, what to make of it and what it may cost is sam4mllm_tool/looking's.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NotRequired, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from sam4mllm_tool.agents.rephraser import Rephraser, Wordings
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline.crop_refinement import refine_crops
from sam4mllm_tool.pipeline.requests import Flow, Transcript
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.reasoning.attempts import Attempt, Ended, Looking, answer, next_step, stand
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.strategies import Looker
from sam4mllm_tool.tools.image_store import PictureStore, is_picture_id
from sam4mllm_tool.types import Size

__all__ = ["Asked", "Told", "build_reasoning_graph", "graph"]

_LOADING = threading.Lock()
_ENDS: Mapping[str, Ended] = {"confident": "confident", "budget": "budget", "abstained": "abstained", "exhausted": "exhausted"}


class Asked(TypedDict):
    """The graph's input. image: the id of a picture in the graph's store, or what its policy opens: data URIs by default.

    budget: rounds, tokens, seconds; what there is of them and is less than the graph's own counts.
    """

    image: str
    expression: str
    budget: NotRequired[Mapping[str, Any] | None]


class Told(TypedDict):
    """The graph's output. answer: `Reasoned.to_dict()`, read by `Reasoned.from_dict`."""

    answer: dict[str, Any]


class _State(TypedDict):
    image: str
    expression: str
    budget: NotRequired[Mapping[str, Any] | None]
    tried: NotRequired[list[dict[str, Any]]]
    done: NotRequired[list[str]]
    spent: NotRequired[dict[str, Any]]
    answer: NotRequired[dict[str, Any] | None]


def build_reasoning_graph(
    models: Sam4Mllm | None = None,
    chat_model: BaseChatModel | str | None = None,
    checkpointer: Checkpointer = None,
    *,
    budget: Budget = Budget(),  # noqa: B008 - a frozen value
    looking: Looking = Looking(),  # noqa: B008 - a frozen value
    pictures: PictureStore | None = None,
    policy: ImagePolicy = TOOL_POLICY,
    clock: Callable[[], float] = time.monotonic,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """The compiled graph: `Asked` in, `Told` out, an event of the custom stream for each step.

    models: by default what the environment names, else the embedded pair, loaded when first needed. chat_model: who finds
    other words, or its spec as in "openai:gpt-5"; without one nothing is said in other words. budget: of each run. pictures:
    where they lie; a store with a folder lets a run go on in another process. policy: what `image` may be besides an id.
    clock: seconds. Raises SpecError for a chat model that can't be had.
    """
    if isinstance(chat_model, str):
        from sam4mllm_tool.agents.chat import load_chat_model

        chat_model = load_chat_model(chat_model)
    rephraser = None if chat_model is None else Rephraser(chat_model, looking.wordings, clock)
    if rephraser is None:
        looking = replace(looking, steps=tuple(step for step in looking.steps if step != "rephrase"))
    store = PictureStore() if pictures is None else pictures
    nodes = _Nodes(models, rephraser, budget, looking, store, policy, clock)
    steps = ("look", *looking.steps)
    built = StateGraph(_State, input_schema=Asked, output_schema=Told)
    built.add_node("begin", RunnableLambda(nodes.begin, afunc=nodes.abegin))
    built.add_edge(START, "begin")
    for name in (*steps, "choose"):
        built.add_node(name, nodes.node(name))
    for name in ("begin", *steps):
        built.add_conditional_edges(name, nodes.then, [*steps, "choose"])
    built.add_edge("choose", END)
    return built.compile(checkpointer=checkpointer, name="reasoning")


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """The graph as LangGraph's server wants it: built when it is asked for, with what the environment names.

    SAM4MLLM_MLLM and SAM4MLLM_SEGMENTER: the models; SAM4MLLM_CHAT_MODEL: who finds other words.
    """
    return build_reasoning_graph(chat_model=os.environ.get("SAM4MLLM_CHAT_MODEL") or None)


@dataclass
class _Nodes:
    """The graph's nodes, blocking and async, and the one decision between them."""

    models: Sam4Mllm | None
    rephraser: Rephraser | None
    budget: Budget
    looking: Looking
    pictures: PictureStore
    policy: ImagePolicy
    clock: Callable[[], float]

    def begin(self, state: _State) -> dict[str, Any]:
        """The picture put where it stays, nothing tried and nothing spent, whatever the thread's last run left."""
        self._meter(state)  # a budget that can't be is refused before anything is opened
        image = state["image"]
        name = image if is_picture_id(image) else self.pictures.put(image, policy=self.policy)
        self.pictures.get(name)
        self._loaded()  # here, where it keeps no event loop waiting
        return {"image": name, "tried": [], "done": [], "spent": Spent().to_dict(), "answer": None}

    async def abegin(self, state: _State) -> dict[str, Any]:
        return await asyncio.to_thread(self.begin, state)

    def then(self, state: _State) -> str:
        """The node that comes next."""
        step = self._next(state)
        return "choose" if step in _ENDS else step

    def node(self, name: str) -> RunnableLambda[_State, dict[str, Any]]:
        """The node of one way of looking, or of the choice."""

        def run(state: _State) -> dict[str, Any]:
            meter, picture, models = self._meter(state), self.pictures.get(state["image"]), self._loaded()
            said = self.rephraser.words(state["expression"], meter) if self.rephraser and name == "rephrase" else None
            return models.run(picture, meter.metered(self._work(name, state, meter, Size(*picture.size), said)))

        async def arun(state: _State) -> dict[str, Any]:
            meter, picture = self._meter(state), await asyncio.to_thread(self.pictures.get, state["image"])
            models = await asyncio.to_thread(self._loaded)
            said = await self.rephraser.awords(state["expression"], meter) if self.rephraser and name == "rephrase" else None
            return await models.arun(picture, meter.metered(self._work(name, state, meter, Size(*picture.size), said)))

        return RunnableLambda(run, afunc=arun, name=name)

    def _work(self, name: str, state: _State, meter: Meter, size: Size, said: Wordings | None) -> Flow[dict[str, Any]]:
        looker, tried = Looker(self._loaded().flows, state["expression"], size, self.looking), _tried(state)
        if name == "choose":
            return (yield from self._choose(looker, state, meter))
        if said is not None:
            _tell("rephrase", meter, wordings=list(said.words), **({"fault": said.fault} if said.fault else {}))
            tried = yield from looker.reword(tried, said.words)
        else:
            ways = {"look": looker.look, "verify": looker.verify, "other": looker.other, "zoom": looker.zoom}
            tried = yield from ways[name](tried)
        told = [attempt.to_dict() for attempt in tried]
        new = [n for n, one in enumerate(told) if one not in state["tried"]]
        _tell(name, meter, seen=[_short(n, tried[n]) for n in new], confidence=stand(tried).confidence)
        return {"tried": told, "done": [*state["done"], name], "spent": meter.spent.to_dict()}

    def _choose(self, looker: Looker, state: _State, meter: Meter) -> Flow[dict[str, Any]]:
        """The best answer, its masks made from close by."""
        ended = _ENDS[self._next(state)]
        reasoned = answer(state["expression"], looker.size, _tried(state), ended, meter.spent)
        found = reasoned.segmentation
        if found and found.objects and self.looking.closer:
            objects = yield from refine_crops(looker.flows, found.objects, looker.size, Transcript())
            found = replace(found, objects=tuple(objects))
        told = replace(reasoned, segmentation=found, spent=meter.spent).to_dict()
        boxes = None if found is None else [list(thing.prompt.box) for thing in found.objects]
        _tell("chosen", meter, boxes=boxes, confidence=reasoned.confidence, ended=ended)
        return {"answer": told, "spent": meter.spent.to_dict()}

    def _next(self, state: _State) -> str:
        meter, looking = self._meter(state), self.looking
        reads = bool(self._loaded().dialect.ask_again_text) if looking.overlay is None else looking.overlay
        if not reads:
            looking = replace(looking, steps=tuple(step for step in looking.steps if step != "verify"))
        return next_step(_tried(state), state["done"], looking, lambda rounds: meter.affords(rounds=rounds))

    def _meter(self, state: _State) -> Meter:
        budget = self.budget.at_most(state.get("budget") or {})
        return Meter(budget, Spent(**state.get("spent") or {}), clock=self.clock)

    def _loaded(self) -> Sam4Mllm:
        with _LOADING:
            if self.models is None:
                self.models = Sam4Mllm.load()
            return self.models


def _tried(state: _State) -> list[Attempt]:
    return [Attempt.from_dict(told) for told in state["tried"]]


def _short(number: int, attempt: Attempt) -> dict[str, Any]:
    """What an event tells of an attempt."""
    told = {"attempt": number + 1, "expression": attempt.expression, "boxes": [list(box) for box in attempt.boxes]}
    return {**told, "confidence": attempt.confidence, **({"note": attempt.note} if attempt.note else {})}


def _tell(event: str, meter: Meter, **what: Any) -> None:
    spent = meter.spent
    counts = {"rounds": spent.rounds, "tokens": spent.tokens, "seconds": round(spent.seconds, 3)}
    get_stream_writer()({"event": event, **what, "spent": counts})
