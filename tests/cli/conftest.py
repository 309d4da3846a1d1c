from pathlib import Path

import pytest

from tests.unlike_images import load_photograph


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that is no drawn scene."""
    path = tmp_path_factory.mktemp("photographs") / "astronaut.png"
    load_photograph("astronaut.png").save(path)
    return path
