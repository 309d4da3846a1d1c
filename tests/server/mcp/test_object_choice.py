"""An expression that fits several objects: the user is asked where the client can ask, else the choices are numbered."""

from typing import Any

import pytest
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult

from tests.server.mcp.mcp_servers import ERAS, LEFT, RIGHT, create_ring_server, get_text, list_boxes, segment

pytestmark = pytest.mark.parametrize("mode", ERAS)


class User:
    """A user who picks the option of a number, declines, or answers something else."""

    def __init__(self, pick: int | str | None) -> None:
        self.pick = pick
        self.questions: list[str] = []

    async def __call__(self, _context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        """Answer the server's question."""
        self.questions.append(params.message)
        if self.pick is None:
            return ElicitResult(action="decline")
        options: list[str] = params.requested_schema["properties"]["object"]["enum"]  # type: ignore[union-attr]
        return ElicitResult(
            action="accept", content={"object": options[self.pick] if isinstance(self.pick, int) else self.pick}
        )


async def choose(mode: str, pick: int | str | None, **options: Any) -> tuple[User, CallToolResult]:
    user = User(pick)
    async with Client(create_ring_server(), mode=mode, elicitation_callback=user) as client:
        return user, await segment(client, "the ring", **options)


@pytest.mark.parametrize(
    ("pick", "boxes"),
    [
        pytest.param(0, [LEFT], id="the one that is shown"),
        pytest.param(1, [RIGHT], id="the other one"),
        pytest.param(-1, [LEFT, RIGHT], id="all of them"),
        pytest.param(None, [LEFT], id="no answer keeps the result"),
        pytest.param("7: no such option", [LEFT], id="an answer that was not offered keeps it too"),
    ],
)
async def test_the_users_choice_is_the_result(mode: str, pick: int | str | None, boxes: list[list[int]]) -> None:
    user, result = await choose(mode, pick)
    assert list_boxes(result) == boxes
    assert user.questions == ['"the ring" fits 2 objects: which one is meant? Places are in pixels, x then y.']


async def test_a_client_that_can_not_ask_gets_numbered_choices(mode: str) -> None:
    async with Client(create_ring_server(), mode=mode) as client:
        result = await segment(client, "the ring")
        assert "say '2' to have it instead" in get_text(result)
        assert [choice["number"] for choice in result.structured_content["choices"]] == [2]
        chosen = await client.call_tool("refine_segmentation", {"instruction": "2"})
    assert list_boxes(chosen) == [RIGHT]


async def test_progress_goes_on_after_the_question(mode: str) -> None:
    steps: list[float] = []

    async def note(progress: float, _total: float | None, _message: str | None) -> None:
        steps.append(progress)

    await choose(mode, 1, progress_callback=note)
    assert steps == sorted(set(steps))
    assert len(steps) > 3


async def test_nobody_is_asked_where_only_one_object_fits(mode: str) -> None:
    user = User(1)
    async with Client(create_ring_server(), mode=mode, elicitation_callback=user) as client:
        await segment(client, "the left ring")
    assert user.questions == []
