"""Reasoning segmentation as a LangGraph graph: answer, doubt the answer, try again within a budget, report the confidence.

A query goes through the MLLM and the segmenter. Where the MLLM, asked whether the object is the one that was meant, is not
sure, the graph tries again: it shows the MLLM its own answer, asks for another box, has a chat model rephrase the expression,
looks into a part of the image. Each way is a node, each step an event of the custom stream; the state between them is plain
JSON. The strategies, their weighing and the budget are those of `sam4mllm_tool.reasoning`.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NotRequired, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Checkpointer

from sam4mllm_tool.agents.rephraser import Rephraser, Rephrasings
from sam4mllm_tool.deprecation import rename_arguments
from sam4mllm_tool.errors import ImageError, quote_text
from sam4mllm_tool.images.load import TOOL_POLICY, ImagePolicy
from sam4mllm_tool.pipeline.requests import Flow
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol.dialogues import validate_expression
from sam4mllm_tool.reasoning.attempts import Attempt, ReasoningConfig
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.reasoning.decision import END_REASONS, EndReason, choose_best
from sam4mllm_tool.reasoning.explanation import explain_step
from sam4mllm_tool.reasoning.search import build_answer, reserve_rounds, select_step
from sam4mllm_tool.reasoning.strategies import ReasoningStrategies
from sam4mllm_tool.tools.image_store import ImageStore, is_image_id
from sam4mllm_tool.types import Image, Size

__all__ = ["ReasoningInput", "ReasoningOutput", "build_reasoning_graph", "graph"]

_LOADING = threading.Lock()


class ReasoningInput(TypedDict):
    """The graph's input.

    Attributes:
        image: The id of an image in the graph's store, or what its policy opens: by default a data URI.
        expression: What to segment.
        budget: Limits of this run below the graph's own: `rounds`, `tokens`, `seconds`, `requests`.
    """

    image: str
    expression: str
    budget: NotRequired[Mapping[str, Any] | None]


class ReasoningOutput(TypedDict):
    """The graph's output: `answer` is `ReasoningResult.to_dict()`, which `ReasoningResult.from_dict` reads."""

    answer: dict[str, Any]


class _State(ReasoningInput):
    tried: NotRequired[list[dict[str, Any]]]
    done: NotRequired[list[str]]
    spent: NotRequired[dict[str, Any]]
    answer: NotRequired[dict[str, Any] | None]


def build_reasoning_graph(
    models: Sam4Mllm | None = None,
    chat_model: BaseChatModel | str | None = None,
    checkpointer: Checkpointer = None,
    *,
    budget: Budget = Budget(),
    config: ReasoningConfig = ReasoningConfig(),
    image_store: ImageStore | None = None,
    policy: ImagePolicy = TOOL_POLICY,
    clock: Callable[[], float] = time.monotonic,
    **old_names: Any,
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Build the graph: `ReasoningInput` in, `ReasoningOutput` out, an event of the custom stream for each step.

    Args:
        models: By default those that the environment names, else the embedded pair, loaded on first use.
        chat_model: What rephrases the expression, or its spec as in "openai:gpt-5"; without any that step is left out.
        checkpointer: What keeps the state.
        budget: What each run may cost.
        config: When and how to try again.
        image_store: Where the images are kept; in a folder if a run is to go on in another process.
        policy: What `image` may be besides an id.
        clock: Returns the time in seconds.
        old_names: `image_store` and `config` by their deprecated names.

    Raises:
        SpecError: The chat model can't be loaded.
    """
    if isinstance(chat_model, str):
        from sam4mllm_tool.agents.chat import load_chat_model

        chat_model = load_chat_model(chat_model)
    settings: dict[str, Any] = {"budget": budget, "config": config, "image_store": image_store, "policy": policy}
    settings |= rename_arguments(old_names, "pictures image_store, looking config")
    nodes = ReasoningNodes(models, chat_model, clock, **settings)
    return nodes.build_graph().compile(checkpointer=checkpointer, name="reasoning")


@cache
def graph() -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph for LangGraph's server, built on first use.

    The environment names the models (SAM4MLLM_MLLM, SAM4MLLM_SEGMENTER) and the chat model (SAM4MLLM_CHAT_MODEL).
    """
    return build_reasoning_graph(chat_model=os.environ.get("SAM4MLLM_CHAT_MODEL") or None)


class ReasoningNodes:
    """The graph's nodes, blocking and async, and the decision between them. Arguments as in `build_reasoning_graph`."""

    def __init__(
        self,
        models: Sam4Mllm | None,
        chat_model: BaseChatModel | None,
        clock: Callable[[], float],
        *,
        budget: Budget,
        config: ReasoningConfig,
        image_store: ImageStore | None,
        policy: ImagePolicy,
    ) -> None:
        self.models, self.clock, self.budget, self.policy = models, clock, budget, policy
        self.image_store = ImageStore() if image_store is None else image_store
        self.rephraser = None if chat_model is None else Rephraser(chat_model, config.wordings, clock)
        self.config = config if self.rephraser else config.without("rephrase")

    def build_graph(self) -> StateGraph[Any, Any, Any, Any]:
        """Connect the nodes: from each step to the next one, or to the choice of the answer."""
        steps = ("look", *self.config.steps)
        built = StateGraph(_State, input_schema=ReasoningInput, output_schema=ReasoningOutput)
        built.add_node("begin", RunnableLambda(self.begin, afunc=self.abegin))
        built.add_edge(START, "begin")
        for name in (*steps, "choose"):
            built.add_node(name, self.create_node(name))
        for name in ("begin", *steps):
            built.add_conditional_edges(name, self.select_node, [*steps, "choose"])
        built.add_edge("choose", END)
        return built

    def begin(self, state: _State) -> dict[str, Any]:
        """Keep the image, and reset what an earlier run of the thread left."""
        self._create_meter(state)  # refuses an impossible budget before anything is opened
        image = state.get("image")
        if not image or not isinstance(image, str):
            raise ImageError(
                f"the input has no image, got {quote_text(str(image))}: give `image`, the id of an image in the graph's store, "
                "or what its policy opens, such as a data URI"
            )
        validate_expression(state.get("expression"))
        image_id = image if is_image_id(image) else self.image_store.put(image, policy=self.policy)
        self.image_store.get(image_id)
        self._load_models()  # here, in a thread, where it blocks no event loop
        return {"image": image_id, "tried": [], "done": [], "spent": Spent().to_dict(), "answer": None}

    async def abegin(self, state: _State) -> dict[str, Any]:
        """Do what `begin` does, in a thread."""
        return await asyncio.to_thread(self.begin, state)

    def select_node(self, state: _State) -> str:
        """Return the name of the next node."""
        step = self._select_step(state)
        return "choose" if step in END_REASONS else step

    def create_node(self, name: str) -> RunnableLambda[_State, dict[str, Any]]:
        """Create the node of a strategy, or of the choice."""

        def run(state: _State) -> dict[str, Any]:
            step, models = self._start_step(name, state), self._load_models()
            if self.rephraser and name == "rephrase":
                step.rephrasings = self.rephraser.rephrase(state["expression"], step.meter)
            return models.run(step.image, step.run(), step.strategies.run, hooks=[step.meter])

        async def arun(state: _State) -> dict[str, Any]:
            step = await asyncio.to_thread(self._start_step, name, state)
            models = await asyncio.to_thread(self._load_models)
            if self.rephraser and name == "rephrase":
                step.rephrasings = await self.rephraser.arephrase(state["expression"], step.meter)
            return await models.arun(step.image, step.run(), step.strategies.run, hooks=[step.meter])

        return RunnableLambda(run, afunc=arun, name=name)

    def _start_step(self, name: str, state: _State) -> "_Step":
        image = self.image_store.get(state["image"])
        run = self._load_models().start_run(Size(*image.size))
        strategies = ReasoningStrategies(run, state["expression"], self.config)
        meter, next_name = self._create_meter(state), self._select_step(state)
        reserve_rounds(name, state["done"], self.config, meter)
        ended = next((reason for reason in END_REASONS if reason == next_name), None)
        return _Step(name, state, image, meter, strategies, ended)

    def _select_step(self, state: _State) -> str:
        meter, config = self._create_meter(state), self.config
        config = config.for_models(self._load_models().dialect, rephrases=self.rephraser is not None)
        return select_step(_restore_attempts(state), state["done"], config, meter)

    def _create_meter(self, state: _State) -> Meter:
        budget = self.budget.at_most(state.get("budget") or {})
        return Meter(budget, Spent(**state.get("spent") or {}), clock=self.clock)

    def _load_models(self) -> Sam4Mllm:
        with _LOADING:
            if self.models is None:
                self.models = Sam4Mllm.load()
            return self.models


@dataclass
class _Step:
    """One run of a node. `ended` says why the run ends, in the last step; `rephrasings` belong to the step `rephrase`."""

    name: str
    state: _State
    image: Image
    meter: Meter
    strategies: ReasoningStrategies
    ended: EndReason | None
    rephrasings: Rephrasings | None = None

    def run(self) -> Flow[dict[str, Any]]:
        """Take the step; the result updates the graph's state."""
        if self.name == "choose":
            return (yield from self._choose())
        before = _restore_attempts(self.state)
        wordings = () if self.rephrasings is None else self.rephrasings.phrases
        if self.rephrasings is not None:
            fault = {"fault": self.rephrasings.fault} if self.rephrasings.fault else {}
            self._write_event("rephrase", wordings=list(wordings), **fault)
        attempts = yield from self.strategies.take_step(self.name, before, wordings)
        new = [
            _describe_attempt(n, attempt) for n, attempt in enumerate(attempts) if n >= len(before) or attempt is not before[n]
        ]
        reason = explain_step(self.name, before, attempts)
        self._write_event(self.name, seen=new, confidence=choose_best(attempts).confidence, reason=reason)
        tried = [attempt.to_dict() for attempt in attempts]
        return {"tried": tried, "done": [*self.state["done"], self.name], "spent": self.meter.spent.to_dict()}

    def _choose(self) -> Flow[dict[str, Any]]:
        """Choose the best answer, and refine its masks on crops."""
        ended = self.ended or "exhausted"
        result = yield from build_answer(self.strategies, _restore_attempts(self.state), ended, self.meter)
        segmentation = result.segmentation
        boxes = None if segmentation is None else [list(segmented.prompt.box) for segmented in segmentation.objects]
        self._write_event("chosen", boxes=boxes, confidence=result.confidence, ended=ended, reason=result.reason)
        return {"answer": result.to_dict(), "spent": self.meter.spent.to_dict()}

    def _write_event(self, event: str, **fields: Any) -> None:
        spent = self.meter.spent
        counts = {"rounds": spent.rounds, "tokens": spent.tokens, "seconds": round(spent.seconds, 3)}
        get_stream_writer()({"event": event, **fields, "spent": counts})


def _restore_attempts(state: _State) -> list[Attempt]:
    return [Attempt.from_dict(attempt) for attempt in state["tried"]]


def _describe_attempt(index: int, attempt: Attempt) -> dict[str, Any]:
    """Return what an event says of an attempt."""
    fields = {"attempt": index + 1, "expression": attempt.expression, "boxes": [list(box) for box in attempt.boxes]}
    return {**fields, "confidence": attempt.confidence, **({"note": attempt.note} if attempt.note else {})}
