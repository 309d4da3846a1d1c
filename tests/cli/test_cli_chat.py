"""`sam4mllm chat` as a user or a program uses it: through a pipe, in a terminal, in one process after another."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from PIL import Image

from sam4mllm_tool.agents.chat import build_chat_graph
from sam4mllm_tool.cli.chat import run_conversation
from sam4mllm_tool.cli.conversation import ChatThread
from sam4mllm_tool.cli.main import main
from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.tools import Sam4MllmToolkit
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.cli import chat_transcript
from tests.cli.slow_chat import reply_with_one_box
from tests.embedded_world import draw_image, draw_scene, name_object
from tests.example_scene import ABSENT_NAME, EXAMPLE_IMAGE, EXPRESSION, MEMBER, OTHER
from tests.sampled_cases import sample_items

ROOT = Path(__file__).parents[2]
REQUEST = f"segment {EXPRESSION}"
OTHER_IMAGE, OTHER_TARGET = draw_image(200_777), name_object(draw_scene(200_777).objects[2])
Chat = Callable[..., str]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    shutil.copy(EXAMPLE_IMAGE, path)
    return path


@pytest.fixture(scope="module")
def embedded() -> Sam4Mllm:
    return Sam4Mllm.load("embedded", "embedded")


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], embedded: Sam4Mllm) -> Chat:
    """Send lines to `sam4mllm chat ...` through a pipe; return its output. Exit code 0, nothing on stderr."""
    monkeypatch.delenv("SAM4MLLM_CHAT_MODEL", raising=False)
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_, **__: embedded)  # loaded once for all tests here

    def send(lines: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        code = main(["chat", *map(str, arguments)])
        captured = capsys.readouterr()
        assert (code, captured.err) == (0, "")
        return captured.out

    return send


def test_a_request_prints_its_steps_and_writes_files_beside_the_image(chat: Chat, scene: Path) -> None:
    out = chat(f"{REQUEST}\n", scene)
    lines = out.splitlines()
    assert lines[0] == "scene.png, 512 x 512 pixels"
    assert [line.split()[0] for line in lines[1:4]] == ["box", "points", "mask"]
    assert f'"{EXPRESSION}": 1 object' in out
    assert ">" not in out, "no prompt in a pipe"
    assert "\x1b" not in out
    folder = scene.parent / "scene-chat"
    assert sorted(path.name for path in folder.iterdir()) == ["mask.png", "overlay.png", "result.json"]
    result = json.loads((folder / "result.json").read_text())
    mask = np.asarray(Image.open(folder / "mask.png")) > 0
    assert np.array_equal(mask, rle.decode(result["objects"][0]["mask"]))
    overlay, image = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (folder / "overlay.png", scene))
    assert (np.abs(overlay - image).sum(-1)[mask] > 0).mean() > 0.9, "the mask is visible"


@pytest.mark.slow
def test_undo_removes_turn_by_turn_and_updates_the_files(chat: Chat, scene: Path) -> None:
    out = scene.parent / "out"
    lines = f"{REQUEST}\n/save\nno, the other one\n/save\n/undo\n/save\n/undo\n/save\n/undo\nno, the other one\n"
    printed = chat(lines, scene, "--out", out)
    folder = out / "scene"
    first, second, third = (json.loads((folder / f"saved-{n}" / "result.json").read_text())["objects"] for n in (1, 2, 3))
    assert first == third != second
    assert "took back 'no, the other one'\n" in printed
    assert f"{folder / 'overlay.png'} shows '{EXPRESSION}' again" in printed
    assert f"removed from {folder}: mask.png, overlay.png, result.json" in printed
    assert "there is no result to save yet" in printed
    assert "there is nothing to undo" in printed
    assert "nothing yet that it could be other than" in printed.splitlines()[-1]
    assert not (folder / "mask.png").exists(), "the files of a result that was taken back are removed"


@pytest.mark.slow
def test_after_an_undo_the_conversation_continues_from_there(chat: Chat, scene: Path) -> None:
    once = chat(f"{REQUEST}\nno, the other one\n", scene)
    twice = chat(f"{REQUEST}\nno, the other one\n/undo\nthanks\nno, the other one\n", scene)
    assert twice.splitlines()[-8:] == once.splitlines()[-8:]


UNCHANGING = {
    "thanks": "thanks",
    "a question": "how big is it?",
    "a description": "what is this?",
    "a request without object": f"find {ABSENT_NAME}",
    "an error": "click 9999 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("line", UNCHANGING.values(), ids=UNCHANGING)
def test_undo_skips_turns_that_changed_nothing_and_they_leave_the_files(chat: Chat, scene: Path, line: str) -> None:
    overlay = scene.parent / "scene-chat" / "overlay.png"
    chat(f"{REQUEST}\n", scene)
    before = overlay.read_bytes()
    printed = chat(f"{REQUEST}\n{line}\n/save\n/undo\n/undo\n", scene)
    assert (scene.parent / "scene-chat" / "saved-1" / "overlay.png").read_bytes() == before
    assert f"took back '{REQUEST}'" in printed
    assert printed.splitlines()[-1] == "there is nothing to undo"
    assert not overlay.exists()


@pytest.mark.slow
def test_undo_closes_an_opened_image_and_each_image_keeps_its_files(chat: Chat, scene: Path) -> None:
    other = scene.with_name("other.png")
    OTHER_IMAGE.save(other)
    lines = [
        REQUEST,
        f"/image {other}",
        OTHER_TARGET,
        "thanks",
        "/undo",
        "/undo",
        f"also {OTHER}",
        "/undo",
        "/undo",
        "/undo",
    ]
    printed = chat("\n".join(lines), scene)
    taken_back = [
        line for line in printed.splitlines() if line.startswith(("took back", "closed", "requests", "there is nothing"))
    ]
    assert taken_back == [
        f"took back '{OTHER_TARGET}'",
        "closed other.png",
        "requests are about scene.png, 512 x 512 pixels again",
        f"took back 'also {OTHER}'",
        f"took back '{REQUEST}'",
        "there is nothing to undo",
    ]
    assert f"removed from {scene.parent / 'other-chat'}: mask.png, overlay.png, result.json" in printed
    assert f"{scene.parent / 'scene-chat' / 'overlay.png'} shows '{EXPRESSION}' again" in printed


@pytest.mark.slow
def test_a_bare_image_of_the_same_name_gets_a_folder_of_its_own(chat: Chat, scene: Path) -> None:
    other = scene.parent / "elsewhere" / "scene.png"
    other.parent.mkdir()
    OTHER_IMAGE.save(other)
    printed = chat(f"{REQUEST}\n/image {other}\n{OTHER_TARGET}\n", scene, "--out", scene.parent / "out")
    for name in ("scene", "scene-2"):
        assert f"wrote {scene.parent / 'out' / name / 'overlay.png'}" in printed


@pytest.mark.slow
def test_the_text_says_whether_an_overlay_is_new_or_rewritten(chat: Chat, scene: Path) -> None:
    printed = chat(f"{REQUEST}\nno, the other one\nfind {ABSENT_NAME}\n", scene)
    path = scene.parent / "scene-chat" / "overlay.png"
    assert [line for line in printed.splitlines() if str(path) in line] == [f"wrote {path}", f"updated {path}"]
    assert printed.splitlines()[-1] == f"the result stays: '{EXPRESSION}'"


@pytest.mark.slow
def test_cutting_out_writes_the_objects_on_a_transparent_ground(chat: Chat, scene: Path) -> None:
    folder = scene.parent / "scene-chat"
    printed = chat(f"cut out {OTHER}\n/save kept\nsegment {MEMBER}\n/save plain\ncut it out\n", scene)
    assert f"wrote {folder / 'cutout.png'}" in printed
    assert printed.splitlines()[-1] == f"updated {folder / 'cutout.png'}"
    assert not (folder / "plain" / "cutout.png").exists()
    for path in (folder / "kept", folder):
        mask = np.asarray(Image.open(path / "mask.png")) > 0
        cutout = np.asarray(Image.open(path / "cutout.png"))
        assert np.array_equal(cutout[..., 3] == 255, mask)
        assert np.array_equal(cutout[mask][:, :3], np.asarray(Image.open(scene).convert("RGB"))[mask])
    assert "no result to cut out yet" in chat("cut it out\n", scene)


def test_the_newest_result_is_exported_in_other_formats(chat: Chat, scene: Path) -> None:
    folder = scene.parent / "scene-chat"
    printed = chat(f"/export coco\n/export\nsegment {MEMBER}\n/export coco, labelme\n/export gif\n", scene)
    assert "there is no result to export yet" in printed
    assert "labelme         LabelMe annotation" in printed
    assert f"wrote {folder / 'coco.json'}\nwrote {folder / 'scene.json'}" in printed
    assert json.loads((folder / "coco.json").read_text())["categories"][0]["name"] == MEMBER
    assert "there is no output format 'gif': expected mask" in printed


@pytest.mark.slow
def test_undoing_a_cutout_removes_its_file(chat: Chat, scene: Path) -> None:
    chat(f"segment {MEMBER}\ncut out {OTHER}\n/undo\n", scene)
    assert sorted(path.name for path in (scene.parent / "scene-chat").iterdir()) == ["mask.png", "overlay.png", "result.json"]


@pytest.mark.slow
def test_points_can_be_left_out_of_overlays(chat: Chat, scene: Path) -> None:
    overlays = []
    for flag in ("--points", "--no-points"):
        chat(f"{REQUEST}\n", scene, flag)
        overlays.append((scene.parent / "scene-chat" / "overlay.png").read_bytes())
    assert overlays[0] != overlays[1]


BARE_COMMANDS = {
    "help": "/image PATH",
    "hilfe": "/image PATH",
    "undo": f"took back '{REQUEST}'",
    "rückgängig": f"took back '{REQUEST}'",
    "save": "saved-1",
    "speichern": "saved-1",
    "save as my ring": "scene-chat/my ring",
    "images": "* img-",
    "/udno": "did you mean /undo?",
    "/save ring.png": "/save takes the name of a folder, as in /save ring",
}


@pytest.mark.parametrize(("line", "answer"), sample_items(BARE_COMMANDS, every=3))
def test_commands_work_as_bare_words(chat: Chat, scene: Path, line: str, answer: str) -> None:
    assert answer in chat(f"{REQUEST}\n{line}\n", scene).split("overlay.png\n", 1)[1]


@pytest.mark.parametrize("word", ["quit", "exit", "ende"])
def test_quit_works_as_a_bare_word(chat: Chat, scene: Path, word: str) -> None:
    assert "1 object" not in chat(f"{word}\n{REQUEST}\n", scene)


def test_a_warning_of_a_result_is_printed_once_per_image(scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    class CautiousMLLM(ScriptedMLLM):
        def check_image(self, image: Image.Image) -> str | None:
            return f"this image of {image.width} pixels is unlike the training images"

    other = scene.with_name("other.png")
    OTHER_IMAGE.save(other)
    models = Sam4Mllm(CautiousMLLM(reply_with_one_box), BoxSegmenter(), dialect=RELEASED)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"the ring\nthe star\n/image {other}\nthe ring\nthe star\n"))
    run_conversation(models, str(scene))
    printed = capsys.readouterr().out
    assert printed.count("this image of 512 pixels") == printed.count("this image of 256 pixels") == 1


@pytest.mark.slow
def test_no_text_of_the_chat_is_written_for_developers(chat: Chat, scene: Path) -> None:
    lines = [
        f"segment {OTHER}",
        f"without {ABSENT_NAME}",
        "the one before",
        "no, the other one",
        "no, the other one",
    ]
    printed = chat("\n".join([*lines, f"also {ABSENT_NAME}", "click 500 9", "bigger"]) + "\n", scene)
    for words in ("label 0", "label 1", "handle", "went on without", "seg-", "img-", "refine_segmentation", "segment_image"):
        assert words not in printed, words


@pytest.mark.slow
def test_requests_are_about_the_image_opened_last(chat: Chat, scene: Path) -> None:
    other = scene.with_name("an image.png")
    OTHER_IMAGE.save(other)
    printed = chat(
        f'{REQUEST}\n/image "{other}"\n/images\nsegment {OTHER_TARGET}\n/undo\n/images\n/image {scene}\n/images\n', scene
    )
    first, second, third = _image_lists(printed)
    assert "an image.png, 256 x 256" in first[-1]
    assert [line[0] for line in first] == [" ", "*"]
    assert second == first, "an undone request leaves its image open"
    assert [line[0] for line in third] == [" ", "*"]
    assert "scene.png" in third[-1]
    assert re.search(f'"{OTHER_TARGET}": 1 object in the (image|picture) of 256 x 256 pixels', printed)


def _image_lists(printed: str) -> list[list[str]]:
    """Return the blocks of lines that list images."""
    blocks: list[list[str]] = [[]]
    for line in printed.splitlines():
        if line[2:6] == "img-":
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


ODD_LINES = {
    "no such command": ("/frobnicate", "no such command: '/frobnicate'; /help lists them"),
    "a command with an argument too many": ("/undo 3", "/undo takes no argument"),
    "an image without a path": ("/image", "/image takes the path of an image"),
    "no such image": ("/image nowhere.png", "the image 'nowhere.png' does not exist"),
    "a file that is not an image": ("/image result.txt", "in none of the formats"),
    "a folder that can't be made": (f"find {OTHER}\n/save result.txt/x", "can't be written|cannot be written"),
    "nothing to save": ("/save", "there is no result to save yet"),
    "terminal escapes in a command": ("/\x1b[2J", "no such command: '/\\\\x1b"),
    "terminal escapes in a request": ("segment the \x1b[2Jring\x07", '"the'),
    "a request that is too long": ("segment the " + "very " * 5000 + "long ring", "I find what you name"),
    "help": ("/help", "/image PATH"),
    "blank lines": ("\n  \n\n", "scene.png"),
    "half a character": ("find the \ud800 ring", "object"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("line", "answer"), ODD_LINES.values(), ids=ODD_LINES)
def test_an_odd_line_is_answered_in_words_and_the_conversation_continues(
    chat: Chat, scene: Path, monkeypatch: pytest.MonkeyPatch, line: str, answer: str
) -> None:
    monkeypatch.chdir(scene.parent)
    Path("result.txt").write_text("not an image")
    out = chat(f"{line}\n{REQUEST}\n", scene)
    assert re.search(answer, out)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert f'"{EXPRESSION}": 1 object' in out
    assert "Traceback" not in out


def test_without_an_image_one_can_be_opened_later(chat: Chat, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.parent)
    out = chat(f"/images\n{REQUEST}\n/image scene.png\n{REQUEST}\n")
    assert out.startswith("no image yet; /image PATH opens one\n" * 2)
    assert re.search("there is no (image|picture) in this conversation yet", out)
    assert "1 object" in out
    assert (scene.parent / "scene-chat" / "mask.png").exists()


REFUSED = {
    "no such image": (["nowhere.png"], "does not exist"),
    "a chat model without its package": (["--chat-model", "mistralai:x"], "pip install langchain-mistralai"),
    "a chat model without a provider": (["--chat-model", "x"], "PROVIDER:MODEL"),
    "a history that is not a database": (["--history", "scene.png"], "can't be used"),
    "a history in no folder": (["--history", "nowhere/history"], "can't be used: there is no folder 'nowhere'"),
    "a history that is a folder": (["--history", "."], "can't be used: it is a folder"),
    "a thread of no history": (["--thread", "mine"], "--thread has no effect without --history"),
    "a folder that is a file": (["--out", "scene.png"], "'scene.png' is a file"),
    "no such model": (["--mllm", "nowhere"], "nowhere"),
    "no such dialect": (["--dialect", "latin"], "no such dialect"),
}


@pytest.mark.parametrize(("arguments", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_chat_that_cannot_begin_is_refused_in_one_line(
    run: Run, scene: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(scene.parent)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, out, err = run("chat", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert reason in err
    assert "Traceback" not in err


def test_a_missing_extra_names_its_cure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.agents", None)  # makes its import fail
    monkeypatch.delitem(sys.modules, "sam4mllm_tool.agents.chat")
    assert run("chat") == (2, "", 'sam4mllm: langchain is not installed: pip install "sam4mllm-tool[agents]"\n')


# A chat model ---------------------------------------------------------------------------------------------------------


def conversation_with(*answers: Any) -> ChatThread:
    """Return a conversation with a scripted chat model and an MLLM that finds every object in one box."""
    models = Sam4Mllm(ScriptedMLLM(reply_with_one_box), BoxSegmenter(), dialect=RELEASED)
    toolkit = Sam4MllmToolkit(sam4mllm=models)
    graph = build_chat_graph(ScriptedChatModel(answers=list(answers)), toolkit, InMemorySaver())
    return ChatThread(graph, toolkit.image_store, "thread")


async def events_of(conversation: ChatThread, text: str) -> list[tuple[str, Any]]:
    return [(event.kind, event.content) async for event in conversation.send(text)]


async def test_texts_and_steps_of_tools_are_yielded_as_they_happen(scene: Path) -> None:
    conversation = conversation_with("A scene.", call("segment_image", expression="the ring"), "Done.")
    await conversation.open(str(scene))
    assert await events_of(conversation, "what is this?") == [("text", "A scene.")]
    events = await events_of(conversation, "cut it out and tell me when you are done")
    assert [kind for kind, _ in events] == ["step", "step", "step", "result", "text"]
    assert events[-1] == ("text", "Done.")
    change = await conversation.undo()
    assert change
    assert change.text == "cut it out and tell me when you are done"
    assert await conversation.undo() is None, "the question changed nothing"
    assert [image.name for image in await conversation.images()] == ["scene.png"], "it stays open"


def fail(_: Any) -> str:
    raise ConnectionError("the server\nis gone")


FAILURES = {
    "its server fails": ([fail, "Hello."], "the server"),
    "its server fails after a tool call": ([call("segment_image", expression="the ring"), fail, "Hello."], "the server"),
    "it never ends": ([call("segment_image", expression="the ring") for _ in range(25)] + ["Hello."], "40 steps"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("answers", "reason"), FAILURES.values(), ids=FAILURES)
async def test_a_turn_in_which_the_chat_model_fails_is_removed_as_a_whole(scene: Path, answers: list[Any], reason: str) -> None:
    conversation = conversation_with(*answers)
    await conversation.open(str(scene))
    await events_of(conversation, "segment the ring")
    before = await conversation.messages()
    with pytest.raises(BackendError, match=reason):
        await events_of(conversation, "what is this?")
    assert await conversation.messages() == before
    assert not await conversation.recover()


# Histories and processes ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_history_is_continued_by_the_next_command(chat: Chat, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = scene.with_name("history.sqlite")
    monkeypatch.chdir(scene.parent)
    once = chat(f"{REQUEST}\nno, the other one\n", scene.name)
    chat(f"{REQUEST}\n", scene.name, "--history", history)
    out = chat("no, the other one\n/undo\n/undo\n/undo\n", "--history", history)
    assert out.startswith("continuing after 1 request\nscene.png, 512 x 512 pixels\n")
    assert once.splitlines()[-8:-1] == out.splitlines()[2:9]
    assert out.splitlines()[9] == "wrote scene-chat/overlay.png"
    assert out.splitlines()[-1] == "there is nothing to undo"
    other_thread = chat("no, the other one\n", "--history", history, "--thread", "other")
    assert other_thread.startswith("no image yet")


@pytest.fixture
def start_slow_chat(scene: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start tests.cli.slow_chat in a process that ends with the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "tests.cli.slow_chat", str(scene), *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()


def send_line(process: "subprocess.Popen[str]", text: str, until: str) -> str:
    """Send a line, and return the output up to the line that contains `until`."""
    assert process.stdin
    process.stdin.write(f"{text}\n" if text else "")
    process.stdin.flush()
    return read_until(process, until)


def read_until(process: "subprocess.Popen[str]", until: str) -> str:
    assert process.stdout
    output = ""
    for line in process.stdout:
        output += line
        if until in line:
            return output
    raise AssertionError(f"it ended with {output!r}")


@pytest.mark.slow
def test_ctrl_c_stops_a_request_and_keeps_the_conversation(start_slow_chat: Callable[..., Any]) -> None:
    process = start_slow_chat()
    send_line(process, "find the ring", "overlay.png")
    send_line(process, "find the slow ring", "(thinking)")
    process.send_signal(signal.SIGINT)
    assert read_until(process, "stopped") == "stopped; earlier requests stand\n"
    printed = send_line(process, "/undo", "took back")
    assert "took back 'find the ring'" in printed, "the stopped request is not there to be taken back"
    send_line(process, "find the star", "overlay.png")
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_request_that_died_with_its_process_is_left_out_by_the_next(start_slow_chat: Callable[..., Any], scene: Path) -> None:
    history = scene.with_name("history.sqlite")
    process = start_slow_chat(history)
    send_line(process, "find the ring", "overlay.png")
    send_line(process, "find the slow ring", "(thinking)")
    process.kill()
    process.wait()
    printed, _ = start_slow_chat(history).communicate("/undo\n/undo\n", timeout=60)
    assert printed.startswith("continuing after 1 request, leaving out one that was interrupted\n")
    assert "took back 'find the ring'\nthere is nothing to undo\n" in printed


@pytest.mark.slow
def test_the_docs_show_the_conversation_as_it_is_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAM4MLLM_CHAT_MODEL", raising=False)
    (documented,) = chat_transcript.documented_transcripts()
    today = chat_transcript.replay(*documented, tmp_path)
    assert chat_transcript.are_similar(today, documented[1]), f"python -m tests.cli.chat_transcript rewrites it:\n{today}"


# A terminal -----------------------------------------------------------------------------------------------------------


class Tmux:
    """A terminal of 110 x 40."""

    def __init__(self, name: str, folder: Path) -> None:
        self._tmux = ["tmux", "-L", name, "-f", "/dev/null"]
        self.run("new-session", "-d", "-x", "110", "-y", "40", "-c", str(folder), "sh")

    def run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout

    def type(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def wait_for(self, text: str, *, seconds: float = 90) -> str:
        """Return the screen as soon as the text is on it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            screen = self.run("capture-pane", "-p").rstrip()
            if text in screen:
                return screen
            time.sleep(0.1)
        raise AssertionError(f"no {text!r} on the screen:\n{screen}")

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=30)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    tmux = Tmux(f"chat-{os.getpid()}-{time.monotonic_ns()}", tmp_path)
    yield tmux
    tmux.close()


@pytest.mark.slow
def test_a_terminal_has_a_prompt_dim_steps_and_a_line_history(terminal: Tmux, scene: Path) -> None:
    command = f"{sys.executable} -m sam4mllm_tool chat {scene.name}"
    terminal.type(f"PYTHONPATH={ROOT} {command}; echo left with $?", "Enter")
    terminal.wait_for("loading the models", seconds=30)
    screen = terminal.wait_for("\n>")
    assert "/help lists the commands" in screen
    assert "loading the models" not in screen
    terminal.type(f"segment {EXPRESSION}", "Enter")
    screen = terminal.wait_for("wrote scene-chat/overlay.png\n>")
    assert f"> segment {EXPRESSION}\n  box (" in screen
    assert "\x1b[2m" in terminal.run("capture-pane", "-p", "-e"), "steps are dim"
    terminal.type("C-l", "no, the other one", "Enter")
    terminal.wait_for("left out:")
    terminal.wait_for("updated scene-chat/overlay.png\n>")
    terminal.type("C-l", "half a line")
    terminal.wait_for("half a line")
    terminal.type("C-c")
    terminal.wait_for("\n>")
    terminal.type("C-l", "/undo", "Enter")
    terminal.wait_for(f"took back 'no, the other one'\nscene-chat/overlay.png shows '{EXPRESSION}' again\n>")
    terminal.type("C-l", "Up", "Up", "Enter")
    assert "> no, the other one\n" in terminal.wait_for("left out:"), "Ctrl-C removed the half line from the history"
    terminal.wait_for("updated scene-chat/overlay.png\n>")
    terminal.type("C-d")
    assert "left with 0" in terminal.wait_for("left with")
    assert (scene.parent / "scene-chat" / "overlay.png").exists()
