"""Guesses of what earlier replies had in the same place."""

import pytest

from sam4mllm_tool.models.mllm.reply_drafts import ReplyDrafts

TOKENS = ["[", "]", ", ", "<end>", "0", "1", "27", "none", " "]


def encode(*texts: str) -> tuple[int, ...]:
    return tuple(map(TOKENS.index, texts))


@pytest.fixture
def drafts() -> ReplyDrafts:
    drafts = ReplyDrafts(TOKENS.__getitem__)
    drafts.add(encode("[", "0", "1", ", ", "27", "]", "<end>"))
    return drafts


@pytest.mark.parametrize(
    ("begun", "guess"),
    [
        pytest.param((), ("[",), id="what replies begin with"),
        pytest.param(("[",), (), id="a number is not guessed"),
        pytest.param(("[", "27"), (", ",), id="what follows a number, of any length"),
        pytest.param(("[", "0", "1", ", ", "1"), ("]", "<end>"), id="the rest, and the end"),
        pytest.param(("none",), (), id="a reply that begins otherwise"),
        pytest.param(("[", "0", "]"), (), id="a reply that goes on otherwise"),
    ],
)
def test_what_is_not_a_number_is_guessed_from_earlier_replies(
    drafts: ReplyDrafts, begun: tuple[str, ...], guess: tuple[str, ...]
) -> None:
    assert drafts.propose(encode(*begun)) == encode(*guess)


def test_the_latest_reply_that_fits_is_followed(drafts: ReplyDrafts) -> None:
    drafts.add(encode("none", "<end>"))
    assert drafts.propose(()) == encode("none", "<end>")
    assert drafts.propose(encode("[", "1")) == encode(", ")


def test_nothing_is_guessed_before_the_first_reply() -> None:
    assert ReplyDrafts(TOKENS.__getitem__).propose(()) == ()
