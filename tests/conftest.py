from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from sam4mllm_tool.cli.main import main

Run = Callable[..., tuple[int, str, str]]

settings.register_profile("patient", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("patient")

if find_spec("torchvision") is not None and "+cpu" in torch.__version__ and "+cpu" not in version("torchvision"):
    # A torchvision built for CUDA beside a torch that is not: its operators can't be loaded, and its import fails unless they
    # are at least declared. Processors only resize, which is Python.
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; gives its exit code, stdout and stderr."""

    def run_command(*argv: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as done:
            code = int(done.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run_command
