"""Long texts that are slow to read for a pattern that scans the rest of the text at every opening: it would take hours."""

import pytest
from langchain_core.messages import HumanMessage

from sam4mllm_tool.agents.image_rendering import IMAGE_LINE
from sam4mllm_tool.agents.plain_requests import list_refusals
from sam4mllm_tool.tools.image_blocks import DATA_URI

REPETITIONS = 200_000


@pytest.mark.parametrize("opening", ["[image img-0123456789ab", "[picture img-0123456789ab", "[image refused", "[image "])
def test_unclosed_image_lines_are_read_in_linear_time(opening: str) -> None:
    assert IMAGE_LINE.sub(" ", opening * REPETITIONS + "]").count("[") >= REPETITIONS - 1


@pytest.mark.parametrize("opening", ["[image refused: ", '[image refused, "', '[image refused, "a": ', "[picture refused: "])
def test_unclosed_refusals_are_read_in_linear_time(opening: str) -> None:
    assert list_refusals(HumanMessage(opening * REPETITIONS)) == ""


@pytest.mark.parametrize("text", ["data:image/", "data:image/png", "data:image/png;base64,AA "])
def test_data_uris_are_found_in_linear_time(text: str) -> None:
    assert len(DATA_URI.findall(text * REPETITIONS)) == (REPETITIONS if "base64" in text else 0)
