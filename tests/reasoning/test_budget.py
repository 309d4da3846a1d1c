"""Budgets and the meter that holds flows to them."""

import pytest

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.pipeline.requests import Flow, Flows, MLLMRequest, SegmentRequest, Transcript
from sam4mllm_tool.protocol import EMBEDDED, BoxOnly
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.types import FreeText, Question, Reply, Size, Tokens, Turn

QUESTION = Question((Turn("user", "where is the ring"),), FreeText(10))  # at most 17 + 16 + 10 tokens beside the picture


def asking(times: int) -> Flow[int]:
    """Asks so often, and tells how often it was answered."""
    for answered in range(times):
        try:
            yield MLLMRequest((QUESTION,))
        except OverBudgetError:
            return answered
    return times


def run(meter: Meter, flow: Flow[int], *, tokens: Tokens | None = None) -> int:
    driven = meter.metered(flow)
    try:
        next(driven)
        while True:
            driven.send([Reply("here", tokens=tokens)])
    except StopIteration as done:
        return int(done.value)


def test_a_flow_is_told_in_time_and_gives_what_it_has() -> None:
    meter = Meter(Budget(rounds=3))
    assert run(meter, asking(5)) == 3
    assert meter.spent.rounds == 3


def test_a_flow_that_catches_nothing_passes_it_on() -> None:
    flows = Flows(EMBEDDED)
    with pytest.raises(OverBudgetError, match="left of the budget"):
        next(Meter(Budget(rounds=0)).metered(flows.settle(BoxOnly.start("ring", Size(9, 9), dialect=EMBEDDED), Transcript())))


@pytest.mark.parametrize(
    ("tokens", "told", "answered"),
    [
        (4096 + 42, Tokens(100, 1), 0),  # a picture may cost 4,096 until a reply tells
        (4096 + 43, Tokens(100, 1), 40),  # then it costs at most 100, and a question 143
        (4096 + 43, None, 1),  # where nobody tells, what it may cost is charged
    ],
)
def test_tokens_are_weighed_by_what_a_question_may_cost(tokens: int, told: Tokens | None, answered: int) -> None:
    meter = Meter(Budget(rounds=99, tokens=tokens, seconds=None))
    assert run(meter, asking(99), tokens=told) == answered
    assert meter.spent.tokens <= tokens


def test_seconds_are_weighed_by_the_slowest_call() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5  # half a second passes between any two looks at the clock
        return now[0]

    meter = Meter(Budget(rounds=99, seconds=2.4), clock=clock)
    assert run(meter, asking(99)) == 3, "a fourth could last 1 s, as twice the slowest, and end at 2.5"
    assert meter.spent.seconds == pytest.approx(1.5)


def test_masks_cost_time_alone() -> None:
    meter = Meter(Budget(rounds=0, tokens=0))

    def prompting() -> Flow[None]:
        yield SegmentRequest(())

    driven = meter.metered(prompting())
    assert next(driven) == SegmentRequest(())


def test_what_was_spent_is_stored_and_gone_on_from() -> None:
    meter = Meter(Budget(rounds=5))
    run(meter, asking(2), tokens=Tokens(100, 1))
    later = Meter(Budget(rounds=5), Spent(**meter.spent.to_dict()))
    assert run(later, asking(9), tokens=Tokens(100, 1)) == 3


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, Budget(5, 100, None)),
        ({"rounds": 9, "tokens": None}, Budget(5, 100, None)),
        ({"rounds": 2, "tokens": 50, "seconds": 3}, Budget(2, 50, 3)),
    ],
)
def test_limits_only_ever_lower_a_budget(limits: dict[str, float | None], expected: Budget) -> None:
    assert Budget(5, 100, None).at_most(limits) == expected


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"rounds": None}, {"rounds": 1.5}, {"tokens": True}, {"seconds": "3"}])
def test_a_budget_that_can_t_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)  # type: ignore[arg-type]
