"""What the tests of training share: training conversations and a tiny base, made once a session."""

from pathlib import Path

import pytest

from tests.checkpoints import FAMILIES
from tests.training.drawn_conversations import write_conversations


@pytest.fixture(scope="session")
def conversations_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images with conversations about one expression each, so six rows."""
    return write_conversations(tmp_path_factory.mktemp("conversations"), 6, expressions=1, points=2)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA."""
    return FAMILIES["llava"](tmp_path_factory.mktemp("base"))
