"""Faults of models, in this process and behind a server, at each stage of a run of the method `adaptive`.

Each run also checks that its calls stay within a budget, and that the next run with the same models gives the same result.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, RunHook
from sam4mllm_tool.reasoning import Budget
from sam4mllm_tool.reasoning.budget import Meter
from tests.faults.fault_case import FaultCase, attempt, describe
from tests.faults.model_faults import (
    IMAGE,
    LOCAL_FAULTS,
    MASK_FAULTS,
    SERVER_FAULTS,
    Cue,
    create_local_pair,
    create_remote_pair,
    find_stage,
    join_turns,
)
from tests.results import assert_equal_but_for_rounding

__all__ = ["list_model_cases", "list_server_cases"]

_BUDGET = Budget(rounds=6, tokens=2**20, seconds=60, requests=60)
_MOST_CALLS = 80
"""Of models or requests to a server in one run, repeated ones included."""


def _run_models(create: Callable[[str, Cue], AbstractContextManager[Sam4Mllm]], fault: str, stage: str) -> str:
    cue = Cue()
    with create(fault, cue) as models:
        expected = models.segment(IMAGE, "the ring")
        assert cue.calls > 0
        cue.calls, cue.stage, meter = 0, stage, Meter(_BUDGET)
        hook = _EndOfBudget(stage) if fault == _OVER_BUDGET else RunHook()
        watched = models.with_run_hooks(lambda *_: meter, lambda *_: hook)
        outcome = attempt(lambda: watched.segment(IMAGE, "the ring"))
        assert cue.strikes > 0 or fault == _OVER_BUDGET
        assert cue.calls <= _MOST_CALLS
        assert meter.spent.rounds <= _BUDGET.rounds
        assert meter.spent.requests <= (_BUDGET.requests or 0)
        cue.stage = ""
        assert_equal_but_for_rounding(models.segment(IMAGE, "the ring"), expected)
    return describe(outcome, expected)


_OVER_BUDGET = "is over the budget"


class _EndOfBudget(RunHook):
    """Refuses the requests of a stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def before_request(self, request: Request) -> None:
        """Raise OverBudgetError at the stage."""
        if isinstance(request, MLLMRequest):
            stages = {find_stage(join_turns(question)) for question in request.questions}
        else:
            stages = {"segmenter" if request.transform is None else "crop"}
        if self._stage in stages:
            raise OverBudgetError("nothing is left of the budget")


_FAST = {("answers 500", "round 1"), ("answers half a JSON", "round 2"), ("gives NaN", "verification")}
"""Of the faults of servers, whose requests take a while."""


def list_model_cases() -> Iterator[FaultCase]:
    asked, masks = ("round 1", "round 2", "verification"), ("segmenter", "crop")
    for fault in dict.fromkeys([*LOCAL_FAULTS, *MASK_FAULTS, _OVER_BUDGET]):
        stages = (asked if fault not in MASK_FAULTS or fault in LOCAL_FAULTS else ()) + (
            masks if fault not in LOCAL_FAULTS or fault in MASK_FAULTS else ()
        )
        for stage in asked + masks if fault == _OVER_BUDGET else stages:
            yield FaultCase(
                fault,
                stage,
                partial(_run_models, create_local_pair, fault, stage),
                is_slow=fault == "hangs",
            )


def list_server_cases() -> Iterator[FaultCase]:
    for fault in SERVER_FAULTS:
        for stage in ("round 1", "round 2", "verification"):
            yield FaultCase(
                fault,
                stage,
                partial(_run_models, create_remote_pair, fault, stage),
                (fault, stage) not in _FAST,
            )
