"""Conversations of the chat graph at once, over one server that has no room for all of them."""

import asyncio

import pytest

from tests.benchmarks.conversations import count_refusals, draw_conversations, find_faults, hold_alone, hold_at_once
from tests.server.http_servers import serve
from tests.tool_suites import load_embedded_models


@pytest.mark.slow
def test_conversations_at_once_are_answered_as_each_alone_is() -> None:
    conversations = draw_conversations(4)
    with serve(load_embedded_models(), max_batch=1, max_queue=1) as url:
        together = asyncio.run(hold_at_once(url, conversations))
        assert count_refusals(url) > 0
        alone = asyncio.run(hold_alone(url, conversations))
    assert find_faults(conversations, together, alone) == []
    assert all(answer.artifacts for answers in together for answer in answers[:2])
    swapped = [*together[1:], together[0]]
    assert len(find_faults(conversations, swapped, alone)) > len(conversations)
