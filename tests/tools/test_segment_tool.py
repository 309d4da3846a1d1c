"""The LangChain tool with a scripted MLLM and a segmenter that follows its prompts; langchain-tests' suites too."""

import asyncio
import base64
import copy
import json
import pickle
import re
import threading
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from langchain_core.messages import ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from PIL import Image

from sam4mllm_tool import Sam4Mllm, SegmentTool
from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.images.load import ImagePolicy
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import DIALECTS, RELEASED
from sam4mllm_tool.types import Labels, Question
from tests.tool_suites import ToolSuite

_file = BytesIO()
Image.new("RGB", (100, 80), "grey").save(_file, "PNG")
IMAGE_URI = "data:image/png;base64," + base64.b64encode(_file.getvalue()).decode()


def reply_about_ring(question: Question) -> str:
    if isinstance(question.answer, Labels):
        return "Yes" * question.answer.count
    text = question.turns[-1].text
    if "out of memory" in text:
        raise BackendError("the model ran out of memory; give a smaller image")
    return "[100,100,500,600]" if "ring" in text else "hmm" if "gibberish" in text else "No object found."


def models() -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM(reply_about_ring), BoxSegmenter(), dialect=RELEASED)


def hide_handle(message: ToolMessage) -> str:
    """Return the text that the model reads, without the handle, which is new each time."""
    return re.sub(r"seg-[0-9a-f]{16}", "seg-", message.content)


def call(image: object = IMAGE_URI, expression: object = "the ring", **others: object) -> dict[str, Any]:
    args = {"image": image, "expression": expression, **others}
    return {"name": "segment_image", "args": args, "id": "1", "type": "tool_call"}


def test_outputs_are_written_only_where_the_program_gives_a_folder(tmp_path: Path) -> None:
    assert "outputs" not in SegmentTool(sam4mllm=models()).args
    tool = SegmentTool(sam4mllm=models(), output_folder=tmp_path)
    assert "coco" in tool.args["outputs"]["items"]["enum"]
    assert "files" not in tool.invoke(call()).artifact
    message = tool.invoke(call(outputs="coco, cutout"))
    paths = [tmp_path / message.artifact["handle"] / name for name in ("coco.json", "cutout.png")]
    assert message.artifact["files"] == list(map(str, paths))
    assert all(f"wrote {path}" in message.content and path.stat().st_size for path in paths)
    refused = tool.invoke(call(outputs=["../../x"]))
    assert (refused.status, "no output format '../../x': expected mask" in refused.content) == ("error", True)
    assert len(list(tmp_path.iterdir())) == 1


class Suite(ToolSuite):
    models = staticmethod(models)
    example: ClassVar = {"image": IMAGE_URI, "expression": "the ring"}


class TestLangchainUnit(Suite, ToolsUnitTests):
    pass


class TestLangchainIntegration(Suite, ToolsIntegrationTests):
    pass


def test_the_schema_has_a_name_a_purpose_and_two_arguments() -> None:
    function = convert_to_openai_tool(SegmentTool(sam4mllm=models()))["function"]
    assert function["name"] == "segment_image"
    assert set(function["parameters"]["properties"]) == {"image", "expression"}
    assert function["parameters"]["required"] == ["expression"], "the image is the latest by default"
    assert all(field["description"] for field in function["parameters"]["properties"].values())


def test_the_artifact_is_plain_json_with_the_exact_mask() -> None:
    message = SegmentTool(sam4mllm=models()).invoke(call())
    assert isinstance(message, ToolMessage)
    assert message.status == "success"
    assert "1 object" in message.content
    assert "box (10, 8) to (50, 48)" in message.content
    assert json.loads(json.dumps(message.artifact)) == message.artifact
    (segmented,) = message.artifact["objects"]
    expected = np.zeros((80, 100), bool)
    expected[8:48, 10:50] = True
    assert np.array_equal(rle.decode(segmented["mask"]), expected)


async def test_async_gives_the_same() -> None:
    tool = SegmentTool(sam4mllm=models())
    blocking, awaited = tool.invoke(call()), await tool.ainvoke(call())
    assert hide_handle(blocking) == hide_handle(awaited)
    assert blocking.artifact["objects"] == awaited.artifact["objects"]


def test_no_such_object_is_a_success() -> None:
    message = SegmentTool(sam4mllm=models()).invoke(call(expression="the dog"))
    assert message.status == "success"
    assert "no such object" in message.content
    assert message.artifact["objects"] == []


def test_the_method_can_be_chosen_and_misspelt() -> None:
    artifact = SegmentTool(sam4mllm=models(), method="box").invoke(call()).artifact
    assert artifact["objects"][0]["points"] == []
    with pytest.raises(ValueError, match="method"):
        SegmentTool(sam4mllm=models(), method="boxes")


def test_a_model_that_points_prompts_without_a_box() -> None:
    segmenter = BoxSegmenter()
    mllm = ScriptedMLLM(['<point x="10.0" y="50.0" alt="ring">ring</point>'])
    tool = SegmentTool(sam4mllm=Sam4Mllm(mllm, segmenter, dialect=DIALECTS["molmo"]), method="points")
    assert "1 object" in tool.invoke(call()).content
    assert segmenter.calls[0][0].points_only


WRONG = {
    "a cut-off image": (call(IMAGE_URI[:80]), "data URI"),
    "not an image": (call("data:text/plain,hello"), "formats"),
    "an image with half a character": (call("data:image/png,\ud800"), "half a character"),
    "a path": (call("/etc/hostname"), "paths are turned off"),
    "a URL": (call("https://example.com/a.png"), "URLs are turned off"),
    "an empty image": (call(""), "no latest image"),
    "an empty expression": (call(expression=" "), "expression is empty"),
    "a long expression": (call(expression="x" * 10_000), "10,000 characters"),
    "an unreadable reply": (call(expression="gibberish"), "could not be read"),
    "a model that fails": (call(expression="out of memory"), "ran out of memory"),
    "no expression": ({**call(), "args": {"image": IMAGE_URI}}, "expression: Field required"),
    "an expression that is no text": (call(expression=[3]), "expression.0: Input should be a valid string"),
    "an expression that is a number": (call(expression=3), "expected the expression as text"),
}


@pytest.mark.parametrize(("wrong", "named"), WRONG.values(), ids=WRONG)
async def test_an_error_is_a_message_that_the_model_can_act_on(wrong: dict[str, Any], named: str) -> None:
    tool = SegmentTool(sam4mllm=models())
    for message in (tool.invoke(wrong), await tool.ainvoke(wrong)):
        assert message.status == "error"
        assert named in message.content
        assert message.tool_call_id == "1"


def test_paths_open_where_the_policy_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "b.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    tool = SegmentTool(sam4mllm=models(), policy=ImagePolicy(allow_paths=(tmp_path / "in",)))
    assert tool.invoke(call("a.png")).status == "success"
    for outside in (str(tmp_path / "b.png"), "../b.png"):
        message = tool.invoke(call(outside))
        assert message.status == "error"
        assert "not in a folder" in message.content


async def test_models_are_loaded_once_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load() -> Sam4Mllm:
        loaded.append(threading.current_thread().name)
        return models()

    monkeypatch.setattr(Sam4Mllm, "load", load)
    tool = SegmentTool()
    assert loaded == [], "loaded before the first use"
    messages = await asyncio.gather(*(tool.ainvoke(call()) for _ in range(3)))
    assert {message.status for message in messages} == {"success"}
    assert len(loaded) == 1
    assert loaded[0] != threading.main_thread().name


def test_a_copy_shares_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = SegmentTool(sam4mllm=models(), method="box")
    other = copy.deepcopy(tool)
    assert other.sam4mllm is tool.sam4mllm
    assert hide_handle(other.invoke(call())) == hide_handle(tool.invoke(call()))
    loaded = [models()]
    monkeypatch.setattr(Sam4Mllm, "load", loaded.pop)
    tool = SegmentTool()
    assert tool.invoke(call()).status == "success"
    assert copy.deepcopy(tool).invoke(call()).status == "success", "not loaded a second time"


def test_a_pickled_tool_takes_given_models_along_and_loads_its_own_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = SegmentTool(sam4mllm=models(), method="box")
    assert hide_handle(pickle.loads(pickle.dumps(tool)).invoke(call())) == hide_handle(tool.invoke(call()))
    loaded: list[Sam4Mllm] = []

    def load() -> Sam4Mllm:
        loaded.append(Sam4Mllm(ScriptedMLLM(lambda _: "No object found."), BoxSegmenter(), dialect=RELEASED))
        return loaded[-1]

    monkeypatch.setattr(Sam4Mllm, "load", load)
    tool = SegmentTool()
    for again in (tool, pickle.loads(pickle.dumps(tool)), tool):
        assert again.invoke(call()).status == "success", "models that can't be pickled are no hindrance"
    assert len(loaded) == 2


async def test_the_result_is_encoded_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    encoding: list[threading.Thread] = []
    encode = rle.encode
    monkeypatch.setattr(rle, "encode", lambda mask: encoding.append(threading.current_thread()) or encode(mask))
    await SegmentTool(sam4mllm=models()).ainvoke(call())
    assert encoding
    assert threading.main_thread() not in encoding
