from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import Image
from tests.models.mllm.questions import BUILDERS

OTHERS = ("llava_next", "idefics3")
"""Families whose tests run with the slow ones: what is particular about them is tested elsewhere, too."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = getattr(item, "callspec", None)
        if Path(__file__).parent in item.path.parents and parameters and parameters.params.get("family") in OTHERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's checkpoint, saved once a session."""
    saved: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in saved:
            saved[family] = BUILDERS[family](tmp_path_factory.mktemp(family))
        return saved[family]

    return get


@pytest.fixture(scope="session")
def mllm(checkpoint: Callable[[str], Path]) -> Callable[[str], TransformersMLLM]:
    """Return a family's checkpoint, loaded once a session."""
    loaded: dict[str, TransformersMLLM] = {}

    def get(family: str) -> TransformersMLLM:
        if family not in loaded:
            loaded[family] = TransformersMLLM.load(str(checkpoint(family)))
        return loaded[family]

    return get


@pytest.fixture
def image() -> Image:
    """Return noise, wider than high, so that families with tiles cut several."""
    pixels = np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)
