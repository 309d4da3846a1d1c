"""`create_segmentation_agent`, and the names that the package offers without having imported them."""

import subprocess
import sys

import numpy as np
import pytest
from langchain_core.messages import ToolMessage

import sam4mllm_tool
from sam4mllm_tool import ImageMiddleware, ImageStore, Sam4MllmToolkit, agents, create_segmentation_agent
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.geometry.boxes import mask_iou
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.grouped_scenes import PAIR
from tests.tool_suites import load_embedded_models
from tests.tools.conversations import FIRST, FIRST_NAME, UserTurn


def test_one_line_gives_an_agent_that_segments_what_a_message_shows() -> None:
    model = ScriptedChatModel(answers=[call("segment_image", expression=FIRST_NAME), "There."])
    agent = create_segmentation_agent(model, toolkit=Sam4MllmToolkit(sam4mllm=load_embedded_models()))
    messages = agent.invoke({"messages": [UserTurn(f"Cut out {FIRST_NAME}.", (), PAIR.scene).message()]})["messages"]
    (answer,) = [message for message in messages if isinstance(message, ToolMessage)]
    (segmented,) = answer.artifact["objects"]
    assert mask_iou(rle.decode(segmented["mask"]), PAIR.scene.mask(FIRST)) > 0.9
    assert "base64" not in str(messages), "the state holds no image"
    assert len(model.tools[0]) == 6


def test_the_package_and_its_agents_list_their_lazy_names() -> None:
    program = (
        "import sys, sam4mllm_tool; from sam4mllm_tool import agents; names = dir(sam4mllm_tool); "
        "print(*[name for name in ('ImageMiddleware', 'ImageStore', 'create_segmentation_agent', 'agents', 'tools') "
        "if name not in names], *[name for name in agents.__all__ if name not in dir(agents)], "
        "*[name for name in ('torch', 'langchain', 'langgraph') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == ""


def test_every_name_of_the_agents_exists() -> None:
    assert all(hasattr(agents, name) for name in agents.__all__)
    with pytest.raises(AttributeError, match="build_chat_grap"):
        agents.build_chat_grap  # noqa: B018


def test_the_old_names_warn() -> None:
    for old, new in (("PictureStore", ImageStore), ("PictureMiddleware", ImageMiddleware)):
        with pytest.warns(DeprecationWarning, match=f"{old} is now sam4mllm_tool.{new.__name__}"):
            assert getattr(sam4mllm_tool, old) is new


def test_masks_are_read_from_an_artifact_as_arrays() -> None:
    artifact = {"objects": [{"mask": rle.encode(np.eye(3, dtype=bool))}]}
    assert rle.decode(artifact["objects"][0]["mask"]).sum() == 3
