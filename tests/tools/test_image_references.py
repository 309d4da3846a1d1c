"""Which image a tool opens: what models write for one, in real agents, with a middleware and without."""

import base64
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from PIL import Image as PILImage

from sam4mllm_tool import ImagePolicy, Sam4Mllm, SegmentTool
from sam4mllm_tool.agents.image_middleware import ImageMiddleware
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.tools.image_references import ConversationImage, UnknownImageError, find_image
from sam4mllm_tool.tools.image_store import ImageStore, compute_image_id
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.tools.test_toolkit import reply_about_rings

EXAMPLES = Path(__file__).parents[2] / "examples"
THREAD: Any = {"configurable": {"thread_id": "1"}}
RINGS, CUPS, LAST = "img-7480ae210c7b", "img-74f0ae210c7b", "img-0123456789ab"
IMAGES = (
    ConversationImage(RINGS, 256, 200, "rings.png"),
    ConversationImage(CUPS, 640, 480, "Cups on a table.jpeg"),
    ConversationImage(LAST, 100, 80),
)

REFERENCES = {
    "an id": (RINGS, RINGS),
    "an id in capitals": (RINGS.upper(), RINGS),
    "an id in brackets": (f"[{RINGS}]", RINGS),
    "a pasted line": (f'[picture {RINGS}, 256 x 200, "rings.png"]', RINGS),
    "a pasted line of today": (f"[image {LAST}, 100 x 80]", LAST),
    "an id with a word": (f"image {CUPS}", CUPS),
    "a beginning": ("img-748", RINGS),
    "a beginning without img": ("74F0A", CUPS),
    "a beginning with dots": ("img-7480ae...", RINGS),
    "a name": ("rings.png", RINGS),
    "a name in capitals": ("RINGS.PNG", RINGS),
    "a name in quotes": ("'rings.png'", RINGS),
    "a name with a folder": ("/mnt/data/rings.png", RINGS),
    "a name without its ending": ("cups on a table", CUPS),
    "a number": ("2", CUPS),
    "image 1": ("image 1", RINGS),
    "Image #2": ("Image #2", CUPS),
    "image_3": ("image_3", LAST),
    "image one": ("image one", RINGS),
    "the first image": ("the first image", RINGS),
    "the 2nd picture": ("the 2nd picture", CUPS),
    "first": ("first", RINGS),
    "latest": ("latest", LAST),
    "the latest image": ("The latest image.", LAST),
    "the last one": ("the last one", LAST),
    "this image": ("this image", LAST),
    "image": ("image", LAST),
    "nothing": ("", LAST),
}


@pytest.mark.parametrize(("text", "image_id"), REFERENCES.values(), ids=REFERENCES)
def test_what_can_mean_one_image_alone_is_that_image(text: str, image_id: str) -> None:
    assert find_image(text, IMAGES, LAST) == image_id


@pytest.mark.parametrize(
    "text", ["img-ffffffffffff", "cat.png", "image 4", "the fourth image", "image 0", "https://x.org/a.png", "74"]
)
def test_anything_else_lists_the_images_with_id_name_and_size(text: str) -> None:
    with pytest.raises(UnknownImageError) as caught:
        find_image(text, IMAGES, LAST)
    assert f'1: {RINGS}, 256 x 200, "rings.png"; 2: {CUPS}, 640 x 480' in str(caught.value)
    assert f"3: {LAST}, 100 x 80 (latest)" in str(caught.value)


def test_a_text_that_means_two_images_is_refused() -> None:
    twice = (*IMAGES, ConversationImage("img-aaaaaaaaaaaa", 9, 9, "rings.png"))
    for text in ("rings.png", "rings", "img-74"):
        with pytest.raises(UnknownImageError, match="can mean several images: give the id of one"):
            find_image(text, twice, LAST)


# Agents ------------------------------------------------------------------------------------------------------------------

GREY, BLUE = PILImage.new("RGB", (100, 80), "grey"), PILImage.new("RGB", (60, 50), "blue")
GREY_ID, BLUE_ID = compute_image_id(GREY), compute_image_id(BLUE)


def block(image: PILImage.Image, name: str = "") -> dict[str, Any]:
    file = BytesIO()
    image.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {"type": "image", "base64": data, "mime_type": "image/png", **({"extras": {"name": name}} if name else {})}


def sent(*blocks: dict[str, Any], **more: Any) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": "the ring, please"}, *blocks], **more)


def models() -> Sam4Mllm:
    return Sam4Mllm(ScriptedMLLM(reply_about_rings), BoxSegmenter(), dialect=JOINT)


def run_agent(
    messages: list[Any], *arguments: dict[str, Any], middleware: ImageStore | None = None, **settings: Any
) -> list[ToolMessage]:
    """Run a real agent whose chat model calls segment_image with these arguments, one call after another."""
    tools = Sam4MllmToolkit(sam4mllm=models(), **settings).get_tools()
    answers = [*(call("segment_image", **{"expression": "the ring", **each}) for each in arguments), "Done."]
    images = [ImageMiddleware(middleware)] if middleware is not None else []
    graph = create_agent(ScriptedChatModel(answers=answers), tools, middleware=images)
    return [message for message in graph.invoke({"messages": messages})["messages"] if isinstance(message, ToolMessage)]


def test_an_agent_opens_an_image_by_its_name_and_its_number() -> None:
    store = ImageStore()
    messages = [sent(block(GREY, "rings.png"), block(BLUE))]
    arguments = [{"image": "rings.png"}, {"image": "image 2"}, {"image": None}, {"image": "null"}, {}]
    answers = run_agent(messages, *arguments, middleware=store, image_store=store)
    assert [message.artifact["picture"] for message in answers] == [GREY_ID, BLUE_ID, BLUE_ID, BLUE_ID, BLUE_ID]


def test_an_image_in_a_message_is_read_without_the_middleware() -> None:
    messages = [sent(block(GREY, "rings.png")), AIMessage("Yes?"), sent(block(BLUE))]
    answers = run_agent(messages, {"image": "rings.png"}, {"image": "latest"}, {"image": "img-ffffffffffff"})
    assert [message.artifact["picture"] for message in answers[:2]] == [GREY_ID, BLUE_ID]
    assert f'1: {GREY_ID}, 100 x 80, "rings.png"' in answers[2].text


def test_an_image_that_the_tool_cannot_read_names_the_middleware_for_the_developer() -> None:
    url = {"type": "image", "url": "https://example.com/a.png"}
    for messages in ([sent(url)], [sent(block(GREY)), AIMessage("Yes?"), sent(url)]):
        (answer,) = run_agent(messages, {})
        assert answer.status == "error", "an older image is not the latest one"
        assert "ImageMiddleware" in answer.text
        assert "turned off" in answer.text


def test_a_store_of_the_tools_own_beside_the_middlewares_is_named() -> None:
    (answer,) = run_agent([sent(block(GREY))], {}, middleware=ImageStore())
    assert answer.status == "error"
    assert "another ImageStore than this tool's" in answer.text
    assert "ask for it" not in answer.text, "sending it again changes nothing"


def test_no_error_and_no_schema_asks_a_model_for_a_data_uri() -> None:
    store = ImageStore()
    answers = run_agent(
        [sent(block(GREY))], {"image": "cat.png"}, {"image": "https://x.org/a"}, middleware=store, image_store=store
    )
    answers += run_agent([HumanMessage("hi")], {"image": "cat.png"}, {})
    assert [answer.status for answer in answers] == ["error"] * 4
    schemas = str([tool.tool_call_schema.model_json_schema() for tool in Sam4MllmToolkit().get_tools()])
    assert "data URI" not in "".join(answer.text for answer in answers) + schemas


def test_a_removed_messages_image_is_gone() -> None:
    store = ImageStore()
    answers = [
        call("segment_image", expression="the ring"),
        "Done.",
        call("segment_image", expression="the ring", image=GREY_ID),
        call("refine_segmentation", clicks=[{"x": 20, "y": 20, "label": 1}]),
        call("describe_image_region"),
        "Gone.",
    ]
    tools = Sam4MllmToolkit(sam4mllm=models(), image_store=store).get_tools()
    saver, images = InMemorySaver(), [ImageMiddleware(store)]
    graph: Any = create_agent(ScriptedChatModel(answers=answers), tools, middleware=images, checkpointer=saver)
    first = graph.invoke({"messages": [sent(block(GREY), id="m1")]}, THREAD)["messages"]
    assert first[2].status == "success"
    graph.update_state(THREAD, {"messages": [RemoveMessage("m1")]})
    later = graph.invoke({"messages": ["again"]}, THREAD)["messages"]
    errors = [message for message in later if isinstance(message, ToolMessage)][1:]
    assert [message.status for message in errors] == ["error"] * 3
    assert "no image in this conversation yet" in errors[0].text
    assert all("no longer in this conversation" in message.text for message in errors[1:])


def test_an_image_that_a_tool_opened_stays_known_by_its_name() -> None:
    policy = ImagePolicy(allow_paths=(str(EXAMPLES),))
    arguments = [{"image": "scene.png"}, {"image": "scene.png"}, {"image": "latest"}]
    answers = run_agent([HumanMessage("segment scene.png")], *arguments, policy=policy)
    assert [answer.status for answer in answers] == ["success"] * 3
    assert {answer.artifact["picture"] for answer in answers} == {compute_image_id(load_image(EXAMPLES / "scene.png"))}


@pytest.mark.parametrize("path", ["scene.png", "examples/scene.png", "./examples/scene.png", str(EXAMPLES / "scene.png")])
def test_a_path_may_begin_with_the_allowed_folders_name(path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder, root in ((EXAMPLES.parent, "examples"), (tmp_path, str(EXAMPLES))):
        monkeypatch.chdir(folder)
        assert load_image(path, policy=ImagePolicy(allow_paths=(root,))).size == (512, 512)


@pytest.mark.parametrize("path", ["../README.md", "examples/../README.md", "/etc/hostname", "pyproject.toml"])
def test_no_path_leaves_the_allowed_folder(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES.parent)
    with pytest.raises(ValueError, match=r"not in a folder that images may be opened from|does not exist"):
        load_image(path, policy=ImagePolicy(allow_paths=("examples",)))


class ChatState(TypedDict):
    chat: Annotated[list[AnyMessage], add_messages]
    other: list[str]


@pytest.mark.parametrize("key", [None, "chat"])
def test_messages_under_another_key_of_the_state_are_read(key: str | None) -> None:
    """A graph of one's own, whose messages are not called "messages"."""
    store = ImageStore()
    tool = SegmentTool(sam4mllm=models(), image_store=store, messages_key=key)
    graph = StateGraph(ChatState)
    graph.add_node("tools", ToolNode([tool], messages_key="chat"))
    graph.add_edge(START, "tools")
    (person,) = ImageMiddleware(store).extract_images([sent(block(GREY))])
    state = {"chat": [person, call("segment_image", expression="the ring")], "other": ["x"]}
    answer = graph.compile().invoke(state)["chat"][-1]
    assert answer.status == "success"
    assert answer.artifact["picture"] == GREY_ID
