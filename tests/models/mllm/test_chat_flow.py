"""What chat APIs say of tokens' probabilities."""

import math

import pytest

from sam4mllm_tool.models.mllm.chat_flow import AnswerToken


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_probability_that_is_not_a_number_is_unknown(value: float) -> None:
    good = {"token": "Yes", "logprob": -0.1, "top_logprobs": [{"token": "No", "logprob": -math.inf}]}
    assert AnswerToken.read_all([good])
    assert AnswerToken.read_all([good, {**good, "logprob": value}]) is None
    assert AnswerToken.read_all([{**good, "top_logprobs": [{"token": "No", "logprob": math.nan}]}]) is None
