"""Conversations of the chat graph at once, over one server whose queue is too short for them."""

import asyncio

import pytest

from tests.benchmarks.conversations import count_refusals, draw_conversations, find_faults, hold_alone, hold_at_once
from tests.server.server_process import run_server


@pytest.mark.slow
def test_conversations_at_once_are_answered_as_each_alone_is() -> None:
    conversations = draw_conversations(4)
    with run_server("--max-batch", "2", "--max-queue", "1", OMP_NUM_THREADS="1") as (_, url):
        together = asyncio.run(hold_at_once(url, conversations))
        assert count_refusals(url) > 0, "the queue was never full"
        alone = asyncio.run(hold_alone(url, conversations))
    assert find_faults(conversations, together, alone) == []
    assert all(answer.artifacts for answers in together for answer in answers[:2])
    swapped = [*together[1:], together[0]]
    assert len(find_faults(conversations, swapped, alone)) > len(conversations)
