"""Long texts made to be slow to read: a pattern that scans the rest of the text at every opening would take hours."""

import pytest
from langchain_core.messages import HumanMessage

from sam4mllm_tool.agents.chat import refused
from sam4mllm_tool.agents.image_rendering import PICTURE_LINE

REPETITIONS = 200_000


@pytest.mark.parametrize("opening", ["[picture img-0123456789ab", "[picture refused", "[picture "])
def test_unclosed_image_lines_are_read_in_linear_time(opening: str) -> None:
    assert PICTURE_LINE.sub(" ", opening * REPETITIONS + "]").count("[") >= REPETITIONS - 1


@pytest.mark.parametrize("opening", ["[picture refused: ", '[picture refused, "', '[picture refused, "a": '])
def test_unclosed_refusals_are_read_in_linear_time(opening: str) -> None:
    assert refused(HumanMessage(opening * REPETITIONS)) == ""
