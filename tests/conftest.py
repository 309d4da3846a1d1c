from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sam4mllm_tool.cli.main import main

Run = Callable[..., tuple[int, str, str]]

settings.register_profile("patient", deadline=None)  # the time that an example takes depends on the machine's load
settings.load_profile("patient")

if find_spec("torchvision") is not None and "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    # A torchvision built for CUDA does not fit a torch built for the CPU: its operators can't be loaded, and importing it
    # fails unless they are at least declared. Image processors only resize, which needs no operator.
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


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
