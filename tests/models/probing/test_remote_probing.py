"""Models behind servers: the frame is measured for each server and version, however the model is called."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage

pytest.importorskip("openai")

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.mllm.image_payload import MAX_PIXELS
from sam4mllm_tool.models.probing.first_use import load_with_dialect, wrap_with_dialect
from sam4mllm_tool.models.probing.probe_scenes import draw_probe_scenes
from sam4mllm_tool.protocol.dialects import PLAIN, QWEN2_5_VL
from sam4mllm_tool.types import FreeText, Question, Size, Turn
from tests.models.mllm.test_chat_model import FunctionChatModel
from tests.models.probing.grounding_model import GroundingModel
from tests.openai_servers import Exchange, LoopbackServer, build_completion, serve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SAM4MLLM_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAM4MLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class GroundingServer:
    """Answers as a `GroundingModel` does, and says which build it is."""

    def __init__(self, model: GroundingModel, build: str) -> None:
        self.model, self.build = model, build

    def answer(self, exchange: Exchange) -> dict[str, Any]:
        question = Question((Turn("user", exchange.last_text),), FreeText(64))
        is_box = "points" not in exchange.last_text and "red square in this image" not in exchange.last_text
        text = self.model.reply(question).text if is_box else "Yes"
        return build_completion(text) | {"system_fingerprint": self.build}


@pytest.fixture
def server() -> Iterator[tuple[GroundingServer, LoopbackServer]]:
    grounding = GroundingServer(GroundingModel("0..1000"), "b1")
    with serve(grounding.answer, models=["Qwen2.5-VL-7B-GGUF"]) as running:
        yield grounding, running


@pytest.mark.slow
def test_a_server_s_frame_is_measured_against_what_the_name_promises(server: tuple[GroundingServer, LoopbackServer]) -> None:
    grounding, running = server
    spec = f"openai:Qwen2.5-VL-7B-GGUF@{running.url}"
    assert load_with_dialect(spec, LoadOptions())[1] == QWEN2_5_VL, "the family counts pixels"
    mllm, dialect = load_with_dialect(spec, LoadOptions(), probe=True)
    assert dialect.name in ("qwen2_5_vl (0..1000, x first)", "plain")
    scene = draw_probe_scenes()[0]
    question = dialect.ask_boxes(scene.objects[0].expression)
    (box,) = dialect.parse_boxes(question, mllm.reply(scene.image, [question])[0], scene.size)
    assert box.iou(scene.objects[0].box) > 0.98
    count = len(running.exchanges)
    assert load_with_dialect(spec, LoadOptions())[1] == dialect, "what was measured is used"
    later = running.exchanges[count:]
    assert sum(exchange.path == "/v1/models" for exchange in later) == 1, "one connection"

    grounding.model, grounding.build = GroundingModel("0..1"), "b2"
    assert load_with_dialect(spec, LoadOptions())[1] == QWEN2_5_VL, "another build may answer otherwise"
    assert "0..1, x first" in load_with_dialect(spec, LoadOptions(), probe=True)[1].name


@pytest.mark.slow
def test_doctor_asks_in_the_dialect_that_was_measured_for_the_server_s_build(
    server: tuple[GroundingServer, LoopbackServer], capsys: pytest.CaptureFixture[str]
) -> None:
    grounding, running = server
    spec = f"openai:Qwen2.5-VL-7B-GGUF@{running.url}"
    _, dialect = load_with_dialect(spec, LoadOptions(), probe=True)
    main(["doctor", "--mllm", spec])
    assert f"dialect     {dialect.name}, as sam4mllm probe measured\n" in capsys.readouterr().out
    grounding.build = "b2"
    main(["doctor", "--mllm", spec])
    assert "dialect     qwen2_5_vl, that of the model's family\n" in capsys.readouterr().out


def test_pixels_on_a_server_are_those_of_the_image_as_it_is_sent() -> None:
    grounding = GroundingServer(GroundingModel("pixels of the image"), "b1")
    with serve(grounding.answer, models=["some-model"]) as running:
        mllm, dialect = load_with_dialect(f"openai:some-model@{running.url}", LoadOptions(), probe=True)
    assert dialect.name == "plain (pixels of the image, x first)"
    bound = dialect.for_model(mllm.resizing)  # type: ignore[attr-defined]
    assert bound.encode_box(draw_probe_scenes()[0].objects[0].box, Size(10_000, 6_000)), "large images are sent smaller"
    assert bound.resizing is not None
    assert bound.resizing[2] < 2_000_000


def test_pixels_of_a_chat_model_are_those_of_the_image_as_it_is_sent() -> None:
    grounding = GroundingModel("pixels of the image")

    def answer(messages: list[BaseMessage], **_: Any) -> str:
        question = Question((Turn("user", str(messages[-1].text)),), FreeText(64))
        return "Yes" if "Answer Yes or No" in question.turns[0].text else grounding.reply(question).text

    model = FunctionChatModel(function=answer, model="some-model")
    mllm, dialect = wrap_with_dialect(model, None, LoadOptions(), probe=True)
    assert dialect.name == "plain (pixels of the image, x first)"
    assert dialect.for_model(mllm.resizing).resizing == (28, 56 * 56, MAX_PIXELS)  # type: ignore[attr-defined]
    assert wrap_with_dialect(model, None, LoadOptions())[1] == PLAIN
