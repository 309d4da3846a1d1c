from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import tests.torchvision_operators  # noqa: F401  # before anything imports torchvision
from sam4mllm_tool.cli.main import main

Run = Callable[..., tuple[int, str, str]]

settings.register_profile("patient", deadline=None, max_examples=50)  # an example takes as long as the machine is busy
settings.register_profile("few", deadline=None, max_examples=10)  # for coverage, which they hardly change
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's own cache, and the dialects measured there, out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAM4MLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process; return its exit code, stdout and stderr."""

    def run_command(*argv: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command
