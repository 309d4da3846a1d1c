"""Names from before the renaming: they work for one release, with a DeprecationWarning that names the new one."""

from importlib import import_module

import pytest

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.agents import image_middleware
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.agents.reasoning import build_reasoning_graph
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.tools import Sam4MllmToolkit, SegmentTool, image_store
from sam4mllm_tool.tools.image_store import ImageStore

PAIRS = [
    *[("tools.image_store", "tools.pictures", *pair.split()) for pair in image_store.OLD_NAMES.split(",")],
    *[("agents.image_middleware", "agents.pictures", *pair.split()) for pair in image_middleware.OLD_NAMES.split(",")],
]


@pytest.mark.parametrize(("module", "old_module", "old", "new"), PAIRS, ids=lambda text: text)
def test_an_old_name_is_the_new_one_in_both_modules(module: str, old_module: str, old: str, new: str) -> None:
    expected = getattr(import_module(f"sam4mllm_tool.{module}"), new)
    for place in (module, old_module):
        with pytest.warns(DeprecationWarning, match=rf"{old} is now sam4mllm_tool\.{module}\.{new}"):
            assert getattr(import_module(f"sam4mllm_tool.{place}"), old) is expected


@pytest.mark.parametrize("module", ["tools.image_store", "tools.pictures", "agents.image_middleware", "agents.pictures"])
def test_a_name_that_never_was_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Photo'"):
        _ = import_module(f"sam4mllm_tool.{module}").Photo


@pytest.mark.parametrize("tool_class", [SegmentTool, Sam4MllmToolkit])
def test_tools_take_their_image_store_by_its_old_name(tool_class: type[SegmentTool | Sam4MllmToolkit]) -> None:
    store = ImageStore()
    with pytest.warns(DeprecationWarning, match="'pictures' is now 'image_store'"):
        tool = tool_class(pictures=store)
    assert tool.image_store is store
    with pytest.warns(DeprecationWarning, match="`pictures` is now `image_store`"):
        assert tool.pictures is store


def test_the_middleware_takes_its_limits_by_their_old_names() -> None:
    with pytest.warns(DeprecationWarning, match="'shown' is now 'max_images'"):
        renderer = ImageMiddleware(shown=1).renderer
    assert (renderer.max_images, renderer.max_overlays, renderer.max_side) == (1, 2, 1024)
    with pytest.raises(TypeError, match="depth"):
        ImageMiddleware(depth=3)


def test_the_reasoning_graph_takes_its_image_store_by_its_old_name() -> None:
    models = Sam4Mllm(ScriptedMLLM(lambda _: ""), BoxSegmenter())
    with pytest.warns(DeprecationWarning, match="'pictures' is now 'image_store'"):
        assert build_reasoning_graph(models, pictures=ImageStore()).name == "reasoning"
    with pytest.raises(TypeError, match="depth"):
        build_reasoning_graph(models, depth=3)
