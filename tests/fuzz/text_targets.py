"""What strangers hand us as text or JSON: a target makes an input from a seed, and reads or refuses it."""

import contextlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from sam4mllm_tool import Sam4Mllm, Sam4MllmToolkit
from sam4mllm_tool.errors import ExpressionError, ReplyError, Sam4MllmError
from sam4mllm_tool.interactive.compound_expression import split_expression
from sam4mllm_tool.interactive.instructions import read_instruction
from sam4mllm_tool.models.domain import ImageDomain, fit_domain
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.protocol import DIALECTS, JOINT, PPG, PQPP, BoxOnly, Dialect, Pointing
from sam4mllm_tool.protocol.references import complete_expression, concept, is_plural, pluralize, singularize
from sam4mllm_tool.tools.artifacts import restore_result, validate_extent
from sam4mllm_tool.tools.dialogue_state import DialogueState
from sam4mllm_tool.trace import TraceError, files
from sam4mllm_tool.types import Box, FreeText, Labels, Point, Question, Reply, Size, Turn
from tests.fuzz.mutations import mutate_json, mutate_json_text, mutate_text, random_text
from tests.server.http_servers import create_ring_models
from tests.server.mcp.mcp_servers import IMAGE_URI
from tests.trace.traced import scripted, traced

__all__ = ["MODEL_DIALECTS", "TARGETS", "Target", "read_reply"]

_SIZE = Size(640, 480)
MODEL_DIALECTS = {name: dialect.for_model((28, 3136, 12_845_056)) for name, dialect in DIALECTS.items()}
"""As for models that are loaded."""
_BOXES = (Box(64, 48, 320, 240), Box(330, 250, 600, 400))
_TEXT_QUESTION = Question((Turn("user", "?"),), FreeText(99))


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        make: Makes an input.
        read: Reads it.
        refusals: How it may be refused.
    """

    make: Callable[[random.Random], Any]
    read: Callable[[Any], object]
    refusals: tuple[type[Exception], ...]


def _make_reply(rng: random.Random) -> tuple[str, str]:
    name = rng.choice(list(MODEL_DIALECTS))
    dialect = MODEL_DIALECTS[name]
    good = rng.choice(
        (
            dialect.format_boxes(_BOXES[: rng.randrange(3)], _SIZE),
            dialect.format_labels(rng.choices((0, 1), k=rng.randrange(30))),
            dialect.format_points([Point(9, 9), Point(600, 400)], _SIZE),
        )
    )
    return name, random_text(rng) if rng.random() < 0.3 else mutate_text(rng, good)


def read_reply(given: tuple[str, str]) -> None:
    """Parse a reply in each way that a dialect can."""
    name, text = given
    dialect = MODEL_DIALECTS[name]
    for parse in (dialect.parse_boxes, dialect.parse_prompts, dialect.parse_points):
        with contextlib.suppress(ReplyError):
            parse(_TEXT_QUESTION, Reply(text), _SIZE)
    for count in (1, 25):
        question = Question(_TEXT_QUESTION.turns, Labels(count, (dialect.yes, dialect.no)))
        with contextlib.suppress(ReplyError):
            dialect.parse_labels(question, Reply(text))


_EXPRESSIONS = (
    "the red ring left of two blue circles",
    "all cars except the white one and the bus",
    "the second mug from the left",
)


def _make_expression(rng: random.Random) -> str:
    return random_text(rng, 40) if rng.random() < 0.3 else mutate_text(rng, rng.choice(_EXPRESSIONS))


def _read_expression(text: str) -> None:
    for start in (PQPP.start, PPG.start, BoxOnly.start, Pointing.start):
        with contextlib.suppress(ExpressionError):
            assert start(text, _SIZE, dialect=DIALECTS["plain"]).pending
    for read in (split_expression, read_instruction, lambda words: complete_expression(words, _EXPRESSIONS[0])):
        with contextlib.suppress(Sam4MllmError):
            read(text)
    for change in (concept, is_plural, pluralize, singularize):
        change(text)


@cache
def _artifacts() -> tuple[dict[str, Any], ...]:
    tools = {tool.name: tool for tool in Sam4MllmToolkit(sam4mllm=create_ring_models()).get_tools()}

    def use(name: str, **arguments: Any) -> Any:
        message = tools[name].invoke({"name": name, "args": arguments, "id": "1", "type": "tool_call"})
        return json.loads(json.dumps(message.artifact))

    started = use("propose_boxes", image=IMAGE_URI, expression="all rings")
    checked = use("check_points", dialogue=started, points=[[20, 20], [80, 20]])
    return started, checked, use("segment_image", image=IMAGE_URI, expression="all rings")


def _read_artifact(artifact: Any) -> None:
    if not isinstance(artifact, dict) or not isinstance(artifact.get("state"), dict):
        return  # `find_artifact` skips it
    if artifact.get("kind") not in ("dialogue", "result") or not isinstance(artifact.get("picture"), str):
        return
    size = artifact["state"].get("size") if artifact["kind"] == "dialogue" else artifact.get("size")
    if isinstance(size, dict) and size == {"width": 100, "height": 80}:
        validate_extent(artifact, Size(100, 80))
    else:
        return
    if artifact["kind"] == "result":
        restore_result(artifact)
        return
    models = Sam4Mllm(ScriptedMLLM([]), BoxSegmenter(), dialect=JOINT)
    DialogueState.from_dict(artifact["state"]).points(models.start_run(Size(100, 80)))


@cache
def _trace() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(json.dumps(files.to_json(traced(scripted("[100,100,500,600]", "YesNoNoYes")))))
    return tree


def _read_trace(text: str) -> None:
    files.from_json(files._parse(text.encode("utf-8", "surrogatepass")))


@cache
def _domain() -> dict[str, Any]:
    rows = [np.array([float((i * j) % 7 + i) for j in range(4)]) for i in range(1, 12)]
    tree: dict[str, Any] = json.loads(fit_domain(rows, rows, "Only drawn scenes.", layer=1, components=2).to_json())
    return tree


_FILES: dict[str, Callable[[str], object]] = {
    "dialect": Dialect.from_json,
    "calibration": Calibration.from_json,
    "domain": ImageDomain.from_json,
}


def _make_file(rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(list(_FILES))
    if kind == "domain":
        return kind, mutate_json_text(rng, _domain())
    text = Calibration().to_json() if kind == "calibration" else DIALECTS[rng.choice(list(DIALECTS))].to_json()
    return kind, mutate_json_text(rng, json.loads(text))


def _read_file(given: tuple[str, str]) -> None:
    """Read a file beside weights, and use what it says."""
    kind, text = given
    value: Any = _FILES[kind](text)
    if kind == "dialect":
        questions = (value.ask_boxes("a {ring}"), *value.ask_points((), _BOXES[0], [Point(99, 99)], _SIZE))
        assert all(len(question.turns[-1].text) < 200_000 for question in questions)
        with contextlib.suppress(ReplyError):
            value.parse_boxes(_TEXT_QUESTION, Reply(value.format_boxes(_BOXES, _SIZE)), _SIZE)
    elif kind == "calibration":
        assert 0 <= value.objects(0.7) <= 1
    else:
        value.contains(value.mean)


TARGETS: dict[str, Target] = {
    "replies": Target(_make_reply, read_reply, ()),
    "expressions": Target(_make_expression, _read_expression, ()),
    "artifacts": Target(lambda rng: mutate_json(rng, rng.choice(_artifacts())), _read_artifact, (Sam4MllmError,)),
    "traces": Target(lambda rng: mutate_json_text(rng, _trace()), _read_trace, (TraceError,)),
    "files beside weights": Target(_make_file, _read_file, (ValueError,)),
}
"""By name."""
