"""Models that misbehave at one stage of a run on cue, and answer as they should at all others."""

import json
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.mllm.openai_compatible import OpenAICompatibleMLLM
from sam4mllm_tool.models.mllm.server_options import ServerOptions
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import PLAIN
from sam4mllm_tool.types import Image, ObjectPrompt, Question, Reply, SegmentedObject
from tests.openai_servers import Exchange, build_completion, serve

__all__ = [
    "IMAGE",
    "LOCAL_FAULTS",
    "MASK_FAULTS",
    "SERVER_FAULTS",
    "Cue",
    "create_local_pair",
    "create_remote_pair",
    "find_stage",
    "join_turns",
]

IMAGE = np.full((300, 400, 3), 128, np.uint8)
IMAGE[0, 0] = 255  # which no crop has
_BOX = "[400,400,500,550]"
"""Small enough for crops."""
_RETRIES = 1


@dataclass
class Cue:
    """At which stage a model misbehaves, and how often it was asked.

    Attributes:
        stage: "round 1", "round 2", "verification", "segmenter" or "crop"; empty for none.
        calls: Of models or servers.
        strikes: How many of them went wrong.
        left: How many more calls go wrong; None for all.
    """

    stage: str = ""
    calls: int = 0
    strikes: int = 0
    left: int | None = None

    def strike(self, stage: str) -> bool:
        """Count a call at a stage; return whether it is to go wrong."""
        self.calls += 1
        if stage != self.stage or self.left == 0:
            return False
        self.left = None if self.left is None else self.left - 1
        self.strikes += 1
        return True


def find_stage(text: str) -> str:
    """Return the stage of a run that a question of the dialect PLAIN belongs to, by what its turns say."""
    if "Is the point below" in text:
        return "round 2"
    return "verification" if "bounding box below what this describes" in text else "round 1"


def join_turns(question: Question) -> str:
    """Return the text of all turns: a correction is of the stage of what it corrects."""
    return "\n".join(turn.text for turn in question.turns)


def _answer(text: str) -> str:
    return _BOX if find_stage(text) == "round 1" else "Yes"


# In this process -------------------------------------------------------------------------------------------------------


def _fail(*_: Any) -> Any:
    raise RuntimeError("device-side assert triggered")


def _run_out_of_memory(*_: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _lose_file(*_: Any) -> Any:
    raise OSError("Input/output error")


def _hang(*_: Any) -> Any:
    threading.Event().wait(1)  # longer than the time limit, and then out of the way of the next test


def _with_nan(replies: list[Reply]) -> list[Reply]:
    rows = ((float("nan"), 0.0),)
    return [replace(reply, label_probabilities=rows, log_probability=float("nan")) for reply in replies]


LOCAL_FAULTS: dict[str, Callable[[list[Reply]], Any]] = {
    "raises": _fail,
    "is out of memory": _run_out_of_memory,
    "loses its file": _lose_file,
    "hangs": _hang,
    "gives no text": lambda replies: [Reply("") for _ in replies],
    "gives other words": lambda replies: [Reply("I am sorry, I can't help with that.") for _ in replies],
    "gives fewer replies": lambda replies: replies[:-1],
    "gives surplus replies": lambda replies: [*replies, Reply("Yes")],
    "gives NaN": _with_nan,
    "gives what is no reply": lambda replies: [reply.text for reply in replies],
}
"""What becomes of the replies of an MLLM in this process."""


def _edit(objects: Sequence[SegmentedObject], **changes: Any) -> list[SegmentedObject]:
    return [replace(each, **changes) for each in objects]


MASK_FAULTS: dict[str, Callable[[list[SegmentedObject]], Any]] = {
    "raises": _fail,
    "is out of memory": _run_out_of_memory,
    "loses its file": _lose_file,
    "hangs": _hang,
    "gives fewer masks": lambda objects: objects[:-1],
    "gives surplus masks": lambda objects: [*objects, *objects],
    "gives NaN": lambda objects: _edit(objects, score=float("nan")),
    "gives masks of another size": lambda objects: _edit(objects, mask=np.ones((7, 9), np.bool_)),
    "gives masks of floats": lambda objects: [replace(each, mask=each.mask.astype(np.float32)) for each in objects],
    "gives empty masks": lambda objects: [replace(each, mask=np.zeros_like(each.mask)) for each in objects],
}
"""What becomes of the objects of a segmenter."""


class _FaultyMLLM(ScriptedMLLM):
    def __init__(self, cue: Cue, fault: Callable[[list[Reply]], Any]) -> None:
        super().__init__(self._answer_question)
        self._cue, self._fault = cue, fault

    def _answer_question(self, question: Question) -> Reply:
        words = getattr(question.answer, "words", None)
        return Reply(_answer(join_turns(question)), ((0.9, 0.1),) if words else None)

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """Answer, or let the fault have its way with the answers of its stage."""
        replies = super().reply(image, questions)
        stages = [find_stage(join_turns(question)) for question in questions]
        if not self._cue.strike(self._cue.stage if self._cue.stage in stages else stages[0]):
            return replies
        struck = self._fault([reply for reply, stage in zip(replies, stages, strict=True) if stage == self._cue.stage])
        others = [reply for reply, stage in zip(replies, stages, strict=True) if stage != self._cue.stage]
        before_others = stages[0] == self._cue.stage
        return [*struck, *others] if before_others else [*others, *struck]


class _FaultySegmenter(BoxSegmenter):
    def __init__(self, cue: Cue, fault: Callable[[list[SegmentedObject]], Any]) -> None:
        super().__init__()
        self._cue, self._fault = cue, fault

    def segment(self, image: Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        """Segment, or let the fault have its way with the objects of its stage."""
        objects = super().segment(image, prompts)
        is_crop = image.getpixel((0, 0)) != (255, 255, 255)
        return self._fault(objects) if self._cue.strike("crop" if is_crop else "segmenter") else objects


@contextmanager
def create_local_pair(fault: str, cue: Cue) -> Iterator[Sam4Mllm]:
    """Yield models in this process that have a fault where the cue says."""
    mllm = _FaultyMLLM(cue, LOCAL_FAULTS.get(fault, LOCAL_FAULTS["raises"]))
    segmenter = _FaultySegmenter(cue, MASK_FAULTS.get(fault, MASK_FAULTS["raises"]))
    yield Sam4Mllm(mllm, segmenter, dialect=PLAIN, method="adaptive", max_points=2, timeout_s=0.3 if fault == "hangs" else None)


# Behind a server -------------------------------------------------------------------------------------------------------

_RETRY_AT_ONCE = {"Retry-After-Ms": "1"}


def _complete(exchange: Exchange, probability: float = 0.9) -> dict[str, Any]:
    text = _answer(str(exchange.body))
    return build_completion(text, probabilities=[{text: probability} | ({"No": 0.1} if text == "Yes" else {})])


def _cut_in_half(exchange: Exchange) -> Any:
    text = json.dumps(_complete(exchange))
    return 200, text[: len(text) // 2], {"Content-Type": "application/json"}


SERVER_FAULTS: dict[str, Callable[[Exchange], Any]] = {
    "answers 429 once": lambda _: (429, {"error": "slow down"}, _RETRY_AT_ONCE),
    "answers 429": lambda _: (429, {"error": "slow down"}, _RETRY_AT_ONCE),
    "answers 500": lambda _: (500, {"error": "worker died"}, _RETRY_AT_ONCE),
    "answers a web page": lambda _: (200, "<html>Bad gateway</html>", {}),
    "answers half a JSON": _cut_in_half,
    "answers another JSON": lambda _: (200, {"detail": "ok"}, {}),
    "closes the connection": lambda _: (200, "{", {"Content-Length": "500", "Connection": "close"}),
    "hangs": lambda _: threading.Event().wait(2),
    "gives no text": lambda _: build_completion(None),
    "gives other words": lambda _: build_completion("I am sorry, I can't help with that."),
    "gives another number of labels": lambda _: build_completion("Yes No Yes"),
    "gives NaN": lambda exchange: _complete(exchange, math.nan),
}
"""What a server answers in place of a completion."""


@contextmanager
def create_remote_pair(fault: str, cue: Cue) -> Iterator[Sam4Mllm]:
    """Yield models of which the MLLM is behind a server that has a fault where the cue says."""
    cue.left = 1 if fault.endswith("once") else None

    def answer(exchange: Exchange) -> Any:
        strikes = exchange.path.endswith("/completions") and cue.strike(find_stage(str(exchange.body)))
        return SERVER_FAULTS[fault](exchange) if strikes else _complete(exchange)

    with serve(answer, models=["m"]) as server:
        is_silent = fault in ("hangs", "closes the connection")  # the client waits half a second before it asks again
        options = ServerOptions(timeout_s=1.0 if fault == "hangs" else 30.0, retries=0 if is_silent else _RETRIES)
        mllm = OpenAICompatibleMLLM("m", server.url, dialect=PLAIN, options=options)
        yield Sam4Mllm(mllm, BoxSegmenter(), dialect=PLAIN, method="adaptive", max_points=2)
