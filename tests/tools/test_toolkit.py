"""Every tool by itself, with a scripted MLLM: langchain-tests' suites, schemas, state, and what goes wrong."""

import base64
import copy
import json
import pickle
from io import BytesIO
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from PIL import Image

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.tools import (
    CheckPointsTool,
    DescribeRegionTool,
    ProposeBoxesTool,
    RefineTool,
    Sam4MllmToolkit,
    SegmentPromptTool,
    SegmentTool,
)
from sam4mllm_tool.tools.dialogue_state import DialogueState
from sam4mllm_tool.tools.shared_models import SharedModels
from sam4mllm_tool.types import Labels, Point, Question, Reply, Size
from tests.tool_suites import ToolSuite

_file = BytesIO()
Image.new("RGB", (100, 80), "grey").save(_file, "PNG")
IMAGE_URI = "data:image/png;base64," + base64.b64encode(_file.getvalue()).decode()


def reply_about_rings(question: Question) -> Reply:
    """Know two rings, left and right; the first half of the points is on the object."""
    text = question.turns[-1].text
    if isinstance(question.answer, Labels):
        rows = tuple(
            (0.9, 0.1) if index < question.answer.count / 2 else (0.05, 0.95) for index in range(question.answer.count)
        )
        return Reply("Yes" * question.answer.count, rows)
    if "Describe" in text:
        return Reply("a grey area")
    if any("gibberish" in turn.text for turn in question.turns):
        return Reply("hmm")
    if "Not the object in" in text:
        return Reply("[500,100,900,500]")
    if "rings" in text:
        return Reply("[100,100,400,500] [500,100,900,500]")
    return Reply("[100,100,400,500]" if "ring" in text else "no such object")


def models() -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM(reply_about_rings), BoxSegmenter(), dialect=JOINT)


SHARED = models()
TOOLS: dict[str, BaseTool] = {tool.name: tool for tool in Sam4MllmToolkit(sam4mllm=SHARED).get_tools()}


def use(name: str, runtime: Any = None, **arguments: Any) -> ToolMessage:
    """Call a tool as an agent does."""
    args = {**arguments, **({"runtime": runtime} if runtime else {})}
    message = TOOLS[name].invoke({"name": name, "args": args, "id": "1", "type": "tool_call"})
    assert isinstance(message, ToolMessage)
    return message


def dialogue(expression: str = "the ring") -> dict[str, Any]:
    return dict(use("propose_boxes", image=IMAGE_URI, expression=expression).artifact)


def result(expression: str = "the ring") -> dict[str, Any]:
    return dict(use("segment_image", image=IMAGE_URI, expression=expression).artifact)


def in_agent(*messages: Any) -> Any:
    """Return the runtime that an agent injects, with these messages in its state."""
    return SimpleNamespace(state={"messages": list(messages)}, stream_writer=lambda _: None)


class Suite(ToolSuite):
    models = staticmethod(models)
    settings: ClassVar = {"image_store": Sam4MllmToolkit().image_store}


class Proposing(Suite):
    tool_class = ProposeBoxesTool
    example: ClassVar = {"image": IMAGE_URI, "expression": "the ring"}


class Checking(Suite):
    tool_class = CheckPointsTool
    settings: ClassVar = {"image_store": TOOLS["check_points"].image_store}
    example: ClassVar = {"dialogue": dialogue(), "points": [[20, 20], [30, 30]]}


class Prompting(Suite):
    tool_class = SegmentPromptTool
    example: ClassVar = {"box": [10, 8, 50, 48], "image": IMAGE_URI, "points": [{"x": 20, "y": 20, "label": 1}]}


class Refining(Suite):
    tool_class = RefineTool
    settings: ClassVar = {"image_store": TOOLS["refine_segmentation"].image_store}
    example: ClassVar = {"result": result(), "instruction": "no, the other one"}


class Describing(Suite):
    tool_class = DescribeRegionTool
    example: ClassVar = {"box": [10, 8, 50, 48], "image": IMAGE_URI}


class TestProposingUnit(Proposing, ToolsUnitTests):
    pass


class TestProposing(Proposing, ToolsIntegrationTests):
    pass


class TestCheckingUnit(Checking, ToolsUnitTests):
    pass


class TestChecking(Checking, ToolsIntegrationTests):
    pass


class TestPromptingUnit(Prompting, ToolsUnitTests):
    pass


class TestPrompting(Prompting, ToolsIntegrationTests):
    pass


class TestRefiningUnit(Refining, ToolsUnitTests):
    pass


class TestRefining(Refining, ToolsIntegrationTests):
    pass


class TestDescribingUnit(Describing, ToolsUnitTests):
    pass


class TestDescribing(Describing, ToolsIntegrationTests):
    pass


# Schemas ---------------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "segment_image": {"expression", "image"},
    "propose_boxes": {"expression", "image"},
    "check_points": {"dialogue", "points", "grid"},
    "segment_prompt": {"dialogue", "drop", "points", "box", "image"},
    "refine_segmentation": {"result", "instruction", "clicks", "forget_clicks"},
    "describe_image_region": {"result", "box", "image"},
}


def test_the_toolkit_gives_the_six_tools() -> None:
    assert list(TOOLS) == list(ARGUMENTS)


def test_the_description_says_what_the_methods_confidence_means() -> None:
    """`adaptive` asks whether the object is the one meant; the paper's methods only compare the mask with the points."""
    adaptive = Sam4MllmToolkit().get_tools()[0]
    assert "probability that it is the one meant" in adaptive.description
    assert SegmentTool().description == adaptive.description, "a tool by itself has the toolkit's method"
    for paper in (SegmentTool(method="pqpp"), Sam4MllmToolkit(method="pqpp").get_tools()[0]):
        assert "which is not how likely the box is right" in paper.description
    assert SegmentTool(method="pqpp", description="my own").description == "my own"
    assert copy.deepcopy(adaptive).description == pickle.loads(pickle.dumps(adaptive)).description == adaptive.description
    none = use("segment_image", image=IMAGE_URI, expression="the dog")
    assert "there is no such object" in none.content
    (segmented,) = result()["objects"]
    assert segmented["confidence"] == pytest.approx(0.9), "the answer to whether it is the one meant"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_schema_has_the_models_arguments_and_nothing_else(name: str) -> None:
    function = convert_to_openai_tool(TOOLS[name])["function"]
    fields = function["parameters"]["properties"]
    assert set(fields) == ARGUMENTS[name]
    assert all(field.get("description") or name == "refine_segmentation" for field in fields.values())
    assert set(function["parameters"].get("required", [])) <= {"expression"}
    handles = [fields[key] for key in ("dialogue", "result") if key in fields]
    assert all(field["type"] == "string" for field in handles)
    assert len(function["description"]) < 500


def test_the_six_schemas_cost_at_most_1300_tokens_and_keep_their_constraints() -> None:
    """Counted as a token per four characters of JSON, which is near what tokenizers of chat models make of it."""
    functions = {name: convert_to_openai_tool(tool) for name, tool in TOOLS.items()}
    assert len(json.dumps(list(functions.values()))) / 4 <= 1300
    fields = {name: function["function"]["parameters"]["properties"] for name, function in functions.items()}
    points, grid = fields["check_points"]["points"], fields["check_points"]["grid"]
    assert (points["maxItems"], points["items"]["minItems"], points["items"]["maxItems"]) == (100, 2, 2)
    assert (grid["items"], grid["minItems"], grid["maxItems"]) == ({"type": "integer", "minimum": 1, "maximum": 15}, 2, 2)
    for clicks in (fields["segment_prompt"]["points"], fields["refine_segmentation"]["clicks"]):
        assert clicks["maxItems"] == 100
        assert clicks["items"]["required"] == ["x", "y", "label"]
        assert clicks["items"]["properties"]["label"]["enum"] == [0, 1]
    for box in (fields["segment_prompt"]["box"], fields["describe_image_region"]["box"]):
        assert (box["items"], box["minItems"], box["maxItems"]) == ({"type": "number"}, 4, 4)
    assert "score (how good the mask is" in functions["segment_image"]["function"]["description"]


@pytest.mark.parametrize("null", [None, "null", "None"])
def test_null_is_the_default_of_every_argument(null: Any) -> None:
    runtime = in_agent(
        ToolMessage("", artifact=dialogue(), tool_call_id="1"), ToolMessage("", artifact=result(), tool_call_id="2")
    )
    for name, arguments in ARGUMENTS.items():
        given = {"expression": "the ring"} if "expression" in arguments else {}
        more = {"instruction": "bigger"} if name == "refine_segmentation" else {}
        plain = use(name, runtime, **given, **more)
        nulls = use(name, runtime, **{**dict.fromkeys(arguments, null), **given, **more})
        assert (nulls.status, nulls.content.partition("seg-")[0]) == (plain.status, plain.content.partition("seg-")[0])
        assert plain.status == "success" or name == "refine_segmentation"


FORGED = {"handle": "seg-0123456789abcdef", "kind": "dialogue", "picture": "img-0123456789ab", "state": {}}


@pytest.mark.parametrize("other", [FORGED, "seg-0123456789abcdef"], ids=["an object", "a handle"])
def test_a_dialogue_or_a_result_beside_a_box_is_refused(other: Any) -> None:
    for name, argument in (("segment_prompt", "dialogue"), ("describe_image_region", "result")):
        message = use(name, box=[10, 8, 50, 48], image=IMAGE_URI, **{argument: other})
        assert message.status == "error"
        assert f"give a {argument} or a box, not both" in message.content
        assert use(name, box=[10, 8, 50, 48], image=IMAGE_URI, **{argument: "latest"}).status == "success"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"box": [0.1, 0.2, 0.5, 0.6]}, "seems to be in fractions of the image: give pixels of its 100 x 80"),
        ({"box": [99.9, 70, 140, 78]}, "on the image of 100 x 80 pixels"),
        (
            {"box": [10, 8, 50, 48], "points": [{"x": 20, "y": 20, "label": 0}]},
            "found no pixel there: give another box or points",
        ),
    ],
    ids=["fractions", "less than a pixel on the image", "an empty mask"],
)
def test_a_box_without_a_pixel_is_refused_and_never_an_object(arguments: dict[str, Any], reason: str) -> None:
    message = use("segment_prompt", image=IMAGE_URI, **arguments)
    assert message.status == "error"
    assert reason in message.content
    if "points" not in arguments:
        assert reason in use("describe_image_region", image=IMAGE_URI, **arguments).content


def test_a_point_is_called_a_point_and_a_click_a_click() -> None:
    beside = [{"x": 900, "y": 10, "label": 1}]
    twice = [{"x": 20, "y": 20, "label": 1}, {"x": 20, "y": 20, "label": 0}]
    assert "the point (900, 10) is outside" in use("check_points", dialogue=dialogue(), points=[[900, 10]]).content
    assert "the point (900, 10) is outside" in use("segment_prompt", dialogue=dialogue(), points=beside).content
    assert "the points contradict" in use("segment_prompt", box=[1, 1, 50, 48], image=IMAGE_URI, points=twice).content
    assert "the click (900, 10) is outside" in use("refine_segmentation", result=result(), clicks=beside).content


@pytest.mark.parametrize(
    "written",
    [["the ring", "the dog"], '["the ring", "the dog"]', "the ring; the dog", "the ring\nthe dog", "the ring and the dog"],
    ids=repr,
)
def test_several_expressions_are_segmented_in_one_call(written: Any) -> None:
    message = use("segment_image", image=IMAGE_URI, expression=written)
    assert [fields["expression"] for fields in message.artifact["objects"]] == ["the ring"]
    assert message.artifact["expression"] == "the ring and the dog"
    assert '"the ring", box' in message.content
    assert "'the dog': there is no such object" in message.content


def test_propose_boxes_says_how_sure_it_is_that_there_is_none() -> None:
    def reply(_: Question) -> Reply:
        return Reply("no such object", log_probability=-0.1)

    tool = ProposeBoxesTool(sam4mllm=Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=JOINT))
    arguments = {"image": IMAGE_URI, "expression": "the dog"}
    message = tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"})
    assert "there is no such object in the image of 100 x 80 pixels, confidence 90%" in message.content
    assert message.artifact["confidence"] == pytest.approx(0.905, abs=0.001)
    assert "confidence unknown" in use("propose_boxes", **arguments).content


def test_events_say_which_call_they_belong_to() -> None:
    events: list[dict[str, Any]] = []
    runtime = SimpleNamespace(state={"messages": []}, stream_writer=events.append, tool_call_id="call-7")
    picture = use("segment_image", runtime, image=IMAGE_URI, expression="the ring").artifact["picture"]
    assert [event["event"] for event in events] == ["boxes", "points", "mask"]
    source = {"tool": "segment_image", "tool_call_id": "call-7", "image": picture, "expression": "the ring"}
    assert all(event.items() >= source.items() for event in events)


# Arguments as small models write them -----------------------------------------------------------------------------------

WRITTEN = {
    "a list as text": {"points": "[[20, 20], [30, 30]]"},
    "one point": {"points": [20, 20]},
    "points as objects": {"points": [{"x": 20, "y": 20}]},
    "a grid as text": {"grid": "3x3"},
    "a grid as one number": {"grid": 3},
    "a grid as a list": {"grid": [3, 2]},
    "a grid as a list in text": {"grid": "[3, 2]"},
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_points_are_parsed_as_small_models_write_them(written: dict[str, Any]) -> None:
    message = use("check_points", dialogue=dialogue(), **written)
    assert message.status == "success", message.content
    assert message.artifact["points"][0]


@pytest.mark.parametrize(
    "clicks",
    [
        [{"x": "20", "y": 20, "label": "on"}],
        {"x": 20, "y": 20, "label": True},
        "[[20, 20, 1]]",
        [[20, 20, 1]],
        [20, 20, 1],
        '[{"x": 20, "y": 20, "label": "positive"}]',
    ],
    ids=repr,
)
def test_clicks_are_parsed_as_small_models_write_them(clicks: Any) -> None:
    message = use("refine_segmentation", result=result(), clicks=clicks)
    assert message.status == "success", message.content
    assert message.artifact["state"]["clicks"] == [{"x": 20, "y": 20, "label": 1, "confidence": None}]


# The protocol ------------------------------------------------------------------------------------------------------------


def test_a_point_is_asked_about_in_the_box_that_holds_it() -> None:
    checked = use("check_points", dialogue=dialogue("all rings"), points=[[20, 20], [80, 20], [30, 30]]).artifact
    left, right = checked["points"]
    assert [round(point["x"]) for point in left] == [20, 30]
    assert [round(point["x"]) for point in right] == [80]
    masks = use("segment_prompt", dialogue=checked, points=[{"x": 82, "y": 35, "label": 0}])
    assert [len(segmented["points"]) for segmented in masks.artifact["objects"]] == [2, 2]


def test_numbers_stay_when_more_points_are_checked() -> None:
    once = use("check_points", dialogue=dialogue("all rings"), grid=[1, 2]).artifact
    twice = use("check_points", dialogue=once, points=[[20, 20]])
    assert "  5: (20, 20) in box 1" in twice.content
    kept = use("segment_prompt", dialogue=twice.artifact, drop=[5, 4]).artifact
    labels = [[point["label"] for point in segmented["points"]] for segmented in kept["objects"]]
    assert labels == [[1, 0], [1]], "number 4 is the second one in the second box, off the object"


def test_unsure_answers_are_reported_and_not_used() -> None:
    unsure = Sam4Mllm(
        ScriptedMLLM(lambda q: Reply("Yes", ((0.6, 0.4),)) if isinstance(q.answer, Labels) else Reply("[100,100,400,500]")),
        BoxSegmenter(),
        dialect=JOINT,
    )
    tools = {tool.name: tool for tool in Sam4MllmToolkit(sam4mllm=unsure).get_tools()}
    before = {"name": "propose_boxes", "args": {"image": IMAGE_URI, "expression": "the ring"}, "id": "1", "type": "tool_call"}
    proposed = tools["propose_boxes"].invoke(before).artifact
    arguments = {"dialogue": proposed, "points": [[20, 20]]}
    checked = tools["check_points"].invoke({"name": "check_points", "args": arguments, "id": "1", "type": "tool_call"})
    assert "1: (20, 20) on 60%, not sure enough to be used" in checked.content
    masks = tools["segment_prompt"].invoke(
        {"name": "segment_prompt", "args": {"dialogue": checked.artifact}, "id": "1", "type": "tool_call"}
    )
    assert masks.artifact["objects"][0]["points"] == []


def test_no_such_object_is_an_answer_without_boxes_to_check() -> None:
    none = use("propose_boxes", image=IMAGE_URI, expression="the dog")
    assert none.status == "success"
    assert "there is no such object" in none.content
    for name in ("check_points", "segment_prompt"):
        message = use(name, dialogue=none.artifact)
        assert message.status == "error"
        assert "call propose_boxes with other words" in message.content


def test_a_region_is_described_and_a_result_verified_by_its_expression() -> None:
    box = use("describe_image_region", box=[10, 8, 50, 48], image=IMAGE_URI)
    assert box.content.startswith("(10, 8) to (50, 48): a grey area\n")
    verified = use("describe_image_region", result=result())
    assert "a grey area; is it 'the ring'? 90%" in verified.content
    nothing = use("describe_image_region", result=result("the dog"))
    assert "no object to describe" in nothing.content


def test_all_objects_can_be_left_out_and_brought_back() -> None:
    rings = result("all rings")
    empty = use("refine_segmentation", result=rings, instruction="without all rings")
    assert '"all rings": nothing is left in the ' in empty.content
    assert "no such object" not in empty.content
    back = use("refine_segmentation", result=empty.artifact, instruction="the one before")
    assert [segmented["box"] for segmented in back.artifact["objects"]] == [segmented["box"] for segmented in rings["objects"]]


# State -------------------------------------------------------------------------------------------------------------------


RUN = SHARED.start_run(Size(100, 80))


def state() -> DialogueState:
    start = DialogueState("all rings", Size(100, 80), Reply("[100,100,400,500] [500,100,900,500]"), (0.5, None))
    return SHARED.run(Image.new("RGB", (100, 80)), start.check_points(RUN, [(Point(20, 20),), ()]))


def test_a_dialogue_is_rebuilt_from_its_json() -> None:
    again = DialogueState.from_dict(json.loads(json.dumps(state().to_dict())))
    assert again == state()
    assert again.points(RUN) == state().points(RUN)
    assert [len(group) for group in again.points(RUN)] == [1, 0]


def test_dropped_answers_about_points_stay_dropped() -> None:
    start = DialogueState("the ring", Size(100, 80), Reply("[100,100,400,500]"))
    mute = Sam4Mllm(ScriptedMLLM(lambda _: "hmm"), BoxSegmenter(), dialect=JOINT)
    run = mute.start_run(Size(100, 80))
    checked = mute.run(Image.new("RGB", (100, 80)), start.check_points(run, [(Point(20, 20),)]))
    assert checked.points(run) == ((),)


def test_handles_cannot_be_guessed_and_each_call_has_its_own() -> None:
    handles = {result()["handle"] for _ in range(20)}
    assert len(handles) == 20
    assert all(len(handle) == len("seg-") + 16 for handle in handles)


def test_latest_is_the_last_of_its_kind() -> None:
    first, second, proposed = result(), result("all rings"), dialogue()
    messages = [ToolMessage("", artifact=artifact, tool_call_id="1") for artifact in (first, second, proposed)]
    assert use("describe_image_region", in_agent(*messages)).artifact["regions"][0]["expression"] == "all rings"
    assert (
        use("describe_image_region", in_agent(*messages), result=first["handle"]).artifact["regions"][0]["expression"]
        == "the ring"
    )


def test_tools_of_a_toolkit_share_models_and_images_and_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [models()]
    monkeypatch.setattr(Sam4Mllm, "load", loaded.pop)
    toolkit = Sam4MllmToolkit()
    for tool in (*toolkit.get_tools()[:2], copy.deepcopy(toolkit.get_tools()[1])):
        message = tool.invoke(
            {"name": tool.name, "args": {"image": IMAGE_URI, "expression": "the ring"}, "id": "1", "type": "tool_call"}
        )
        assert message.status == "success"
    again = pickle.loads(pickle.dumps(toolkit.get_tools()[1]))
    assert again.name == "propose_boxes"


def test_models_are_loaded_once_and_named_in_one_way() -> None:
    loaded = [models()]
    shared = SharedModels(load=loaded.pop)
    assert copy.copy(shared).get() is shared.get()
    with pytest.raises(ValueError, match="expected either sam4mllm, loaded models, or segmenter, got both"):
        SegmentTool(sam4mllm=shared.get(), segmenter="embedded")


# What goes wrong -----------------------------------------------------------------------------------------------------------

HUMAN = HumanMessage("hi", additional_kwargs={"sam4mllm_pictures": ["img-0123456789ab"]})
NOWHERE = in_agent(HumanMessage("hi"))
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no image yet": ("propose_boxes", {"runtime": NOWHERE, "expression": "the ring"}, "no image in this conversation yet"),
    "an unknown image": (
        "propose_boxes",
        {"runtime": in_agent(HUMAN), "expression": "the ring", "image": "img-ffffffffffff"},
        "its images are 1: img-0123456789ab",
    ),
    "an image of the store that is not of the conversation": (
        "propose_boxes",
        {"runtime": in_agent(HUMAN), "expression": "the ring", "image": result()["picture"]},
        "its images are 1: img-0123456789ab",
    ),
    "an image that is gone": (
        "propose_boxes",
        {"runtime": in_agent(HUMAN), "expression": "the ring"},
        "no longer kept",
    ),
    "no conversation": ("propose_boxes", {"expression": "the ring"}, "no latest image"),
    "a check before a proposal": ("check_points", {"runtime": NOWHERE}, "call propose_boxes first"),
    "a mask before a proposal": ("segment_prompt", {"runtime": NOWHERE}, "call propose_boxes first"),
    "a refinement before a result": (
        "refine_segmentation",
        {"runtime": NOWHERE, "instruction": "the other one"},
        "call segment_image first",
    ),
    "a description before a result": ("describe_image_region", {"runtime": NOWHERE}, "call segment_image first"),
    "another thread's handle": (
        "refine_segmentation",
        {
            "runtime": in_agent(ToolMessage("", artifact=result(), tool_call_id="1")),
            "result": "seg-0123456789abcdef",
            "instruction": "bigger",
        },
        "no result 'seg-0123456789abcdef' in this conversation; there is seg-",
    ),
    "a handle of another kind": ("check_points", {"dialogue": result()}, "is a result, not a dialogue"),
    "an artifact that is none": ("check_points", {"dialogue": {"a": 1}}, "not the artifact of a dialogue"),
    "a number for a handle": ("check_points", {"dialogue": 3}, "dialogue: Value error, expected a handle"),
    "points outside": ("check_points", {"dialogue": dialogue(), "points": [[200, 20]]}, "outside the "),
    "no points": ("check_points", {"dialogue": dialogue(), "points": []}, "no points to check"),
    "points and a grid": ("check_points", {"dialogue": dialogue(), "points": [[1, 1]], "grid": [2, 2]}, "not both"),
    "a grid of nothing": ("check_points", {"dialogue": dialogue(), "grid": [0, 3]}, "grid"),
    "points that are words": ("check_points", {"dialogue": dialogue(), "points": "the middle"}, "points"),
    "a point that is no number": ("check_points", {"dialogue": dialogue(), "points": [[float("nan"), 1]]}, "finite"),
    "too many points": ("check_points", {"dialogue": dialogue(), "points": [[1, 1]] * 101}, "at most 100"),
    "a point dropped that is not there": ("segment_prompt", {"dialogue": dialogue(), "drop": [7]}, "call check_points first"),
    "a box outside": ("segment_prompt", {"box": [200, 0, 300, 10], "image": IMAGE_URI}, "on the image of 100 x 80"),
    "a box upside down": ("segment_prompt", {"box": [50, 40, 10, 10], "image": IMAGE_URI}, "x1 < x2"),
    "half a box": ("segment_prompt", {"box": [50, 40], "image": IMAGE_URI}, "box"),
    "a box and numbers to drop": (
        "segment_prompt",
        {"box": [1, 1, 9, 9], "image": IMAGE_URI, "drop": [1]},
        "no checked points",
    ),
    "given points that contradict": (
        "segment_prompt",
        {"dialogue": dialogue(), "points": [[20, 20, 1], [20, 20, 0]]},
        "contradict one another",
    ),
    "nothing to refine by": ("refine_segmentation", {"result": result()}, "give an instruction"),
    "an empty instruction": ("refine_segmentation", {"result": result(), "instruction": " "}, "empty"),
    "contradictory clicks": (
        "refine_segmentation",
        {"result": result(), "clicks": [[20, 20, 1], [20, 20, 0]]},
        "contradict one another",
    ),
    "a click outside": ("refine_segmentation", {"result": result(), "clicks": [[20, 90, 1]]}, "outside the "),
    "a label that is none": ("refine_segmentation", {"result": result(), "clicks": [[20, 20, 2]]}, "label"),
    "a description of nothing there": (
        "refine_segmentation",
        {"result": result(), "instruction": "the dog"},
        "there is no 'the dog' in the ",
    ),
    "an unreadable reply": ("propose_boxes", {"image": IMAGE_URI, "expression": "gibberish"}, "could not be read"),
    "no expression": ("propose_boxes", {"image": IMAGE_URI}, "expression: Field required"),
}


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG.values(), ids=WRONG)
async def test_an_error_message_says_how_to_go_on(name: str, arguments: dict[str, Any], message: str) -> None:
    call = {"name": name, "args": arguments, "id": "1", "type": "tool_call"}
    for answer in (TOOLS[name].invoke(copy.copy(call)), await TOOLS[name].ainvoke(copy.copy(call))):
        assert answer.status == "error"
        assert message in answer.content
        assert len(answer.content) < 600
        assert answer.artifact is None


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y", "label"]), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", ARGUMENTS)
@settings(max_examples=20)
@given(data=st.data())
def test_junk_arguments_never_crash(name: str, data: st.DataObject) -> None:
    arguments = data.draw(st.dictionaries(st.sampled_from(sorted(ARGUMENTS[name])), JUNK, max_size=4))
    message = use(name, **{key: value for key, value in arguments.items() if key != "runtime"})
    assert message.status == "error" or message.artifact is not None
