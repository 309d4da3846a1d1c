"""Budgets, and the hook that holds runs to them."""

import pytest
from PIL import Image as PILImage

from sam4mllm_tool.errors import OverBudgetError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline import Sam4Mllm
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, Response, SegmentRequest
from sam4mllm_tool.protocol import EMBEDDED, BoxOnly
from sam4mllm_tool.reasoning.budget import Budget, Meter, Spent
from sam4mllm_tool.types import FreeText, Question, Reply, Size, Tokens, Turn

QUESTION = Question((Turn("user", "where is the ring"),), FreeText(10))  # at most 17 + 16 + 10 tokens beside the picture


def ask_times(times: int) -> Flow[int]:
    """Asks so often; returns how often it was answered."""
    for answered in range(times):
        try:
            yield MLLMRequest((QUESTION,))
        except OverBudgetError:
            return answered
    return times


def run(meter: Meter, times: int, *, tokens: Tokens | None = None, seconds: float = 0.0, requests: int | None = None) -> int:
    """Serves a flow under the meter, every request taking so many tokens, seconds and requests to a server."""
    flow = ask_times(times)
    try:
        request = next(flow)
        while True:
            try:
                meter.before_request(request)
            except OverBudgetError as error:
                request = flow.throw(error)
                continue
            response = Response([Reply("here", tokens=tokens, requests=requests)], seconds)
            meter.after_request(request, response)
            request = flow.send(response)
    except StopIteration as end:
        return int(end.value)


def test_a_flow_that_is_refused_returns_what_it_has() -> None:
    meter = Meter(Budget(rounds=3))
    assert run(meter, 5) == 3
    assert meter.spent.rounds == 3


def test_a_flow_that_catches_nothing_passes_the_error_on() -> None:
    models = Sam4Mllm(ScriptedMLLM([]), BoxSegmenter(), dialect=EMBEDDED)
    dialogue = models.start_run(Size(9, 9)).run_dialogue(BoxOnly.start("ring", Size(9, 9), dialect=EMBEDDED))
    with pytest.raises(OverBudgetError, match="left of the budget"):
        models.run(PILImage.new("RGB", (9, 9)), dialogue, hooks=[Meter(Budget(rounds=0))])


@pytest.mark.parametrize(
    ("tokens", "counted", "answered"),
    [
        (4096 + 42, Tokens(100, 1), 0),  # an image may cost 4,096 until a reply tells
        (4096 + 43, Tokens(100, 1), 40),  # then it costs at most 100, and a question 143
        (4096 + 43, None, 1),  # where no reply tells, what it may cost is charged
    ],
)
def test_tokens_are_weighed_by_what_a_question_may_cost(tokens: int, counted: Tokens | None, answered: int) -> None:
    meter = Meter(Budget(rounds=99, tokens=tokens, seconds=None))
    assert run(meter, 99, tokens=counted) == answered
    assert meter.spent.tokens <= tokens


@pytest.mark.parametrize(
    ("requests", "answered"),
    [(1, 7), (3, 2), (None, 99)],
    ids=["one a question", "votes or repeats", "a model that runs here sends none"],
)
def test_requests_to_a_server_are_weighed_by_the_most_that_a_question_took(requests: int | None, answered: int) -> None:
    meter = Meter(Budget(rounds=99, seconds=None, requests=7))
    assert run(meter, 99, requests=requests) == answered
    assert meter.spent.requests == answered * (requests or 0)
    assert run(Meter(Budget(rounds=99, seconds=None, requests=0)), 99) == 0


def test_a_budget_is_lowered_by_each_limit_alone() -> None:
    budget = Budget(rounds=6, tokens=500, seconds=60)
    assert budget.at_most({"tokens": 900, "requests": 3}) == Budget(6, 500, 60, 3)
    assert budget.at_most({"rounds": 2, "seconds": 5}) == Budget(2, 500, 5)
    with pytest.raises(ValueError, match="not calls"):
        budget.at_most({"calls": 3})


def test_seconds_are_weighed_by_the_slowest_call() -> None:
    meter = Meter(Budget(rounds=99, seconds=2.4))
    assert run(meter, 99, seconds=0.5) == 3, "a fourth could last 1 s, as twice the slowest, and end at 2.5"
    assert meter.spent.seconds == pytest.approx(1.5)


def test_masks_cost_time_alone() -> None:
    meter = Meter(Budget(rounds=0, tokens=0))
    meter.before_request(SegmentRequest(()))
    meter.after_request(SegmentRequest(()), Response([], 0.5))
    assert meter.spent == Spent(seconds=0.5, slowest=0.5)


def test_a_later_run_goes_on_from_what_was_spent() -> None:
    meter = Meter(Budget(rounds=5))
    run(meter, 2, tokens=Tokens(100, 1))
    later = Meter(Budget(rounds=5), Spent(**meter.spent.to_dict()))
    assert run(later, 9, tokens=Tokens(100, 1)) == 3


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, Budget(5, 100, None)),
        ({"rounds": 9, "tokens": None}, Budget(5, 100, None)),
        ({"rounds": 2, "tokens": 50, "seconds": 3}, Budget(2, 50, 3)),
    ],
)
def test_limits_only_lower_a_budget(limits: dict[str, float | None], expected: Budget) -> None:
    assert Budget(5, 100, None).at_most(limits) == expected


@pytest.mark.parametrize("wrong", [{"rounds": -1}, {"rounds": None}, {"rounds": 1.5}, {"tokens": True}, {"seconds": "3"}])
def test_an_invalid_budget_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)  # type: ignore[arg-type]
