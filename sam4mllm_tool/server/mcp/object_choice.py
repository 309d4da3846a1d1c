"""Asks the user which object is meant where an expression fits several and the client can ask (the protocol's elicitation).

A client of 2026-07-28 gets the question as the answer to its call, and calls again with the user's answer and the handle of the
first result. A client of an earlier version is asked while its call waits.
"""

import re
from typing import Any

from mcp.server.mcpserver import Context
from mcp_types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from mcp_types.version import is_version_at_least

from sam4mllm_tool.geometry.boxes import format_box
from sam4mllm_tool.interactive import InteractiveState
from sam4mllm_tool.interactive.number_listing import format_numbers

__all__ = ["ask_which_object", "can_ask", "get_choice_handle"]

_KEY = "object"
_ALL = "all of them"
_MULTI_ROUND_TRIP = "2026-07-28"
"""The first version in which a question is the answer to a call."""


def _is_multi_round_trip(context: Context[Any, Any]) -> bool:
    version = context.protocol_version
    return version is not None and is_version_at_least(version, _MULTI_ROUND_TRIP)


def can_ask(context: Context[Any, Any]) -> bool:
    """Return whether the client can show the user a form."""
    capabilities = context.client_capabilities
    elicitation = None if capabilities is None else capabilities.elicitation
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        return False
    return _is_multi_round_trip(context) or context.session.can_send_request


def get_choice_handle(context: Context[Any, Any]) -> str | None:
    """Return the handle of the result that the user was asked about in the round before; None in the first round."""
    return context.request_state if _is_multi_round_trip(context) else None


async def ask_which_object(
    context: Context[Any, Any], state: InteractiveState, handle: str
) -> str | InputRequiredResult | None:
    """Ask which object is meant.

    Args:
        context: The call.
        state: The result, with choices.
        handle: Its handle.

    Returns:
        The instruction for `refine_segmentation`; None where the result is to stay; in the first round with a client of
        2026-07-28, the question, to be returned to it.
    """
    question = _build_question(state)
    answer: Any
    if _is_multi_round_trip(context):
        answer = (context.input_responses or {}).get(_KEY)
        if answer is None:
            return InputRequiredResult(input_requests={_KEY: ElicitRequest(params=question)}, request_state=handle)
    else:
        answer = await context.session.elicit_form(
            question.message, question.requested_schema, related_request_id=context.request_id
        )
    if not isinstance(answer, ElicitResult) or answer.action != "accept" or not answer.content:
        return None
    return _read_answer(state, str(answer.content.get(_KEY, "")))


def _build_question(state: InteractiveState) -> ElicitRequestFormParams:
    shown, choices = len(state.objects), len(state.choices)
    numbered = [*(segmented.prompt.box for segmented in state.objects), *(choice.box for choice in state.choices)]
    options = [f"{number}: the one at {format_box(box)}" for number, box in enumerate(numbered, start=1)]
    schema = {
        "type": "object",
        "properties": {_KEY: {"type": "string", "title": "Which one?", "enum": [*options, _ALL], "default": options[0]}},
        "required": [_KEY],
    }
    message = f'"{state.expression}" fits {shown + choices} objects: which one is meant? Places are in pixels, x then y.'
    return ElicitRequestFormParams(message=message, requested_schema=schema)


def _read_answer(state: InteractiveState, answer: str) -> str | None:
    start = len(state.objects) + 1
    numbers = range(start, start + len(state.choices))
    if answer == _ALL:
        return f"also {format_numbers(numbers)}"
    match = re.match(r"(\d{1,4})\b", answer)
    return match[1] if match and int(match[1]) in numbers else None
