"""`sam4mllm chat` as a person or a program uses it: through a pipe, in a terminal, in one process after another."""

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
from sam4mllm_tool.cli.conversation import Conversation
from sam4mllm_tool.cli.main import main
from sam4mllm_tool.embedded.scenes import draw_scene
from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.tools import Sam4MllmToolkit
from tests.agents.scripted_model import ScriptedChatModel, call
from tests.cli import chat_transcript
from tests.cli.slow_chat import knows

ROOT = Path(__file__).parents[2]
Talk = Callable[..., str]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    shutil.copy(ROOT / "examples" / "scene.png", path)
    return path


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Talk:
    """Says lines to `sam4mllm chat ...` through a pipe; gives what was printed. The exit code is 0, nothing is on stderr."""
    monkeypatch.delenv("SAM4MLLM_CHAT_MODEL", raising=False)

    def say(lines: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        code = main(["chat", *map(str, arguments)])
        told = capsys.readouterr()
        assert (code, told.err) == (0, "")
        return told.out

    return say


RING = "segment the ring below the orange circle"


def test_a_request_is_answered_step_by_step_and_its_files_lie_beside_the_picture(talk: Talk, scene: Path) -> None:
    out = talk(f"{RING}\n", scene)
    lines = out.splitlines()
    assert lines[0] == "scene.png, 512 x 512 pixels"
    assert [line.split()[0] for line in lines[1:4]] == ["box", "points", "mask"]
    assert '"the ring below the orange circle": 1 object' in out
    assert ">" not in out, "no prompt in a pipe"
    assert "\x1b" not in out
    folder = scene.parent / "scene-chat"
    assert sorted(path.name for path in folder.iterdir()) == ["mask.png", "overlay.png", "result.json"]
    result = json.loads((folder / "result.json").read_text())
    mask = np.asarray(Image.open(folder / "mask.png")) > 0
    assert np.array_equal(mask, rle.decode(result["objects"][0]["mask"]))
    drawn, picture = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (folder / "overlay.png", scene))
    assert (np.abs(drawn - picture).sum(-1)[mask] > 0).mean() > 0.9, "the mask is seen"


def test_undo_takes_back_turn_by_turn_and_the_files_follow(talk: Talk, scene: Path) -> None:
    out = scene.parent / "out"
    first, after = out / "saved-1" / "result.json", out / "saved-3" / "result.json"
    told = talk(
        f"{RING}\n/save\nno, the other one\n/save\n/undo\n/save\n/undo\n/save\n/undo\nno, the other one\n", scene, "--out", out
    )
    assert json.loads(first.read_text())["objects"] == json.loads(after.read_text())["objects"]
    assert json.loads((out / "saved-2" / "result.json").read_text())["objects"] != json.loads(first.read_text())["objects"]
    assert "took back 'no, the other one'" in told
    assert "there is no result to save yet" in told
    assert "there is nothing to undo" in told
    assert "There is no result of this picture" in told.splitlines()[-1]
    assert not (out / "mask.png").exists(), "there is no result any more"


def test_after_an_undo_the_conversation_goes_on_from_there(talk: Talk, scene: Path) -> None:
    once = talk(f"{RING}\nno, the other one\n", scene)
    again = talk(f"{RING}\nno, the other one\n/undo\nthanks\n/undo\nno, the other one\n", scene)
    assert again.splitlines()[-8:] == once.splitlines()[-8:]


def test_several_pictures_are_told_apart(talk: Talk, scene: Path) -> None:
    other = scene.with_name("a picture.png")
    drawn = draw_scene(200_777)
    Image.fromarray(drawn.image).save(other)
    thing = f"the {drawn.objects[0].colour} {drawn.objects[0].shape}"
    told = talk(f'{RING}\n/image "{other}"\n/images\nsegment {thing}\n/undo\n/images\n/image {scene}\n/images\n', scene)
    one, two, three = _listings(told)
    assert "a picture.png, 256 x 256" in one[-1]
    assert [line[0] for line in one] == [" ", "*"]
    assert two == one, "an undone request leaves its picture open"
    assert [line[0] for line in three] == [" ", "*"]
    assert "scene.png" in three[-1]
    assert f'"{thing}": 1 object in the picture of 256 x 256 pixels' in told


def _listings(told: str) -> list[list[str]]:
    """The blocks of lines that list pictures."""
    blocks: list[list[str]] = [[]]
    for line in told.splitlines():
        if line[2:6] == "img-":
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


UNDERSTOOD = {
    "no such command": ("/frobnicate", "no such command: '/frobnicate'; /help lists them"),
    "a command with a tail": ("/undo 3", "/undo takes nothing after it"),
    "a picture without a path": ("/image", "/image takes the path of a picture"),
    "no such picture": ("/image nowhere.png", "the image 'nowhere.png' does not exist"),
    "a picture that is none": ("/image result.txt", "in none of the formats"),
    "a folder that can't be": ("find the star\n/save result.txt/x", "can't be written|cannot be written"),
    "nothing to save": ("/save", "there is no result to save yet"),
    "a terminal's escapes in a command": ("/\x1b[2J", "no such command: '/\\\\x1b"),
    "a terminal's escapes in a request": ("segment the \x1b[2Jring\x07", '"the'),
    "a request that is too long": ("segment the " + "very " * 5000 + "long ring", "I find what you name"),
    "help": ("/help", "/image PATH"),
    "blank lines": ("\n  \n\n", "scene.png"),
    "half a character": ("find the \ud800 ring", "object"),
}


@pytest.mark.parametrize(("line", "told"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_what_cannot_be_done_is_a_line_and_the_conversation_goes_on(
    talk: Talk, scene: Path, monkeypatch: pytest.MonkeyPatch, line: str, told: str
) -> None:
    monkeypatch.chdir(scene.parent)
    Path("result.txt").write_text("no picture")
    out = talk(f"{line}\n{RING}\n", scene)
    assert re.search(told, out)
    assert "\x1b" not in out
    assert "\x07" not in out
    assert '"the ring below the orange circle": 1 object' in out
    assert "Traceback" not in out


def test_without_a_picture_one_can_be_opened_later(talk: Talk, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scene.parent)
    out = talk(f"/images\n{RING}\n/image scene.png\n{RING}\n")
    assert out.startswith("no picture yet; /image PATH opens one\n" * 2)
    assert "there is no picture in this conversation yet" in out
    assert "1 object" in out
    assert (scene.parent / "chat" / "mask.png").exists()


REFUSED = {
    "no such picture": (["nowhere.png"], "does not exist"),
    "a chat model without its package": (["--chat-model", "mistralai:x"], "pip install langchain-mistralai"),
    "a chat model without a provider": (["--chat-model", "x"], "PROVIDER:MODEL"),
    "a history that is none": (["--history", "scene.png"], "can't be used"),
    "a history in no folder": (["--history", "nowhere/history"], "can't be used"),
    "no such model": (["--mllm", "nowhere"], "nowhere"),
    "no such dialect": (["--dialect", "latin"], "no such dialect"),
}


@pytest.mark.parametrize(("arguments", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_begin_is_refused_in_one_line(
    scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    monkeypatch.chdir(scene.parent)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code = main(["chat", *arguments])
    told = capsys.readouterr()
    assert (code, told.out, told.err.count("\n")) == (2, "", 1)
    assert named in told.err
    assert "Traceback" not in told.err


def test_a_missing_extra_names_its_cure() -> None:
    blocked = "import sys; sys.modules['langchain'] = None; from sam4mllm_tool.cli.main import main; sys.exit(main(['chat']))"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stderr == 'sam4mllm: langchain is not installed: pip install "sam4mllm-tool[agents]"\n'


# A chat model ---------------------------------------------------------------------------------------------------------


def conversation(*answers: Any) -> Conversation:
    """With a scripted chat model, about a grey picture in which everything is found in one box."""
    models = Sam4Mllm(ScriptedMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    toolkit = Sam4MllmToolkit(sam4mllm=models)
    graph = build_chat_graph(ScriptedChatModel(answers=list(answers)), toolkit, InMemorySaver())
    return Conversation(graph, toolkit.pictures, "one")


async def said(conversation: Conversation, text: str) -> list[tuple[str, Any]]:
    return [(event.kind, event.told) async for event in conversation.say(text)]


async def test_what_a_chat_model_says_and_its_tools_do_is_told_as_it_happens(scene: Path) -> None:
    talk = conversation("A scene.", call("segment_image", expression="the ring"), "Found.")
    await talk.open(str(scene))
    assert await said(talk, "what is this?") == [("text", "A scene.")]
    told = await said(talk, "cut it out and tell me when you are done")
    assert [kind for kind, _ in told] == ["step", "step", "step", "result", "text"]
    assert told[-1] == ("text", "Found.")
    assert await talk.undo() == "cut it out and tell me when you are done"
    assert await talk.undo() == "what is this?"
    assert [picture.name for picture in await talk.pictures()] == ["scene.png"], "it stays open"


def fails(_: Any) -> str:
    raise ConnectionError("the server\nis gone")


FAILING = {
    "its server fails": ([fails, "Hello."], "the server"),
    "its server fails after a tool call": ([call("segment_image", expression="the ring"), fails, "Hello."], "the server"),
    "it never ends": ([call("segment_image", expression="the ring") for _ in range(25)] + ["Hello."], "40 steps"),
}


@pytest.mark.parametrize(("answers", "named"), FAILING.values(), ids=FAILING)
async def test_a_turn_in_which_the_chat_model_fails_is_taken_back_whole(scene: Path, answers: list[Any], named: str) -> None:
    talk = conversation(*answers)
    await talk.open(str(scene))
    await said(talk, "segment the ring")
    before = await talk.messages()
    with pytest.raises(BackendError, match=named):
        await said(talk, "what is this?")
    assert await talk.messages() == before
    assert not await talk.recover()


# Processes ------------------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sam4mllm_tool", "chat", *map(str, arguments)]


@pytest.mark.slow
def test_a_history_goes_on_in_another_process(talk: Talk, scene: Path) -> None:
    history = scene.with_name("history.sqlite")
    done = subprocess.run(
        command(scene, "--history", history), input=f"{RING}\n", capture_output=True, text=True, check=True, timeout=120
    )
    once = talk(f"{RING}\nno, the other one\n", scene)
    out = talk("no, the other one\n/undo\n/undo\n/undo\n", "--history", history, "--out", scene.parent / "scene-chat")
    assert out.startswith("going on after 1 request\nscene.png, 512 x 512 pixels\n")
    assert once.splitlines()[-8:-1] == out.splitlines()[2:-5][-7:]
    assert out.splitlines()[-1] == "there is nothing to undo"
    assert done.stderr == ""
    fresh = talk("no, the other one\n", "--history", history, "--thread", "another")
    assert fresh.startswith("no picture yet"), "a thread of its own"


@pytest.fixture
def slow(scene: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts tests.cli.slow_chat, and ends it."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: Path) -> "subprocess.Popen[str]":
        line = [sys.executable, "-m", "tests.cli.slow_chat", str(scene), *map(str, arguments)]
        process = subprocess.Popen(
            line, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout)):
            pipe.close()


def say(process: "subprocess.Popen[str]", text: str, until: str) -> str:
    """Says a line, and reads up to the line that has `until` in it."""
    assert process.stdin
    assert process.stdout
    if text:
        process.stdin.write(f"{text}\n")
        process.stdin.flush()
    told = ""
    for line in process.stdout:
        told += line
        if until in line:
            return told
    raise AssertionError(f"it ended with {told!r}")


@pytest.mark.slow
def test_ctrl_c_stops_a_request_at_once_and_keeps_the_conversation(slow: Callable[..., Any]) -> None:
    process = slow()
    say(process, "find the ring", "see ")
    say(process, "find the slow ring", "(thinking)")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = say(process, "", "stopped")
    assert time.monotonic() - began < 20, "not the minute that the model takes"
    assert told == "stopped; what came before stands\n"
    told = say(process, "/undo", "took back")
    assert "took back 'find the ring'" in told, "the stopped one is not there to be taken back"
    say(process, "find the star", "see ")
    process.stdin.close()
    assert process.wait(60) == 0


@pytest.mark.slow
def test_a_request_that_died_with_its_process_is_left_out_of_the_next(slow: Callable[..., Any], scene: Path) -> None:
    history = scene.with_name("history.sqlite")
    process = slow(history)
    say(process, "find the ring", "see ")
    say(process, "find the slow ring", "(thinking)")
    process.kill()
    process.wait()
    told, _ = slow(history).communicate("/undo\n/undo\n", timeout=60)
    assert told.startswith("going on after 1 request, one that was cut off left out\n")
    assert "took back 'find the ring'\nthere is nothing to undo\n" in told


@pytest.mark.slow
def test_the_docs_show_the_conversation_as_it_goes(tmp_path: Path) -> None:
    (shown,) = chat_transcript.shown()
    held = chat_transcript.hold(*shown, tmp_path)
    assert chat_transcript.alike(held, shown[1]), f"python -m tests.cli.chat_transcript writes it anew:\n{held}"


# A terminal -----------------------------------------------------------------------------------------------------------


class Tmux:
    """A terminal of 110 x 40."""

    def __init__(self, name: str, folder: Path) -> None:
        self._tmux = ["tmux", "-L", name, "-f", "/dev/null"]
        self.run("new-session", "-d", "-x", "110", "-y", "40", "-c", str(folder), "sh")

    def run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout

    def keys(self, *keys: str) -> None:
        self.run("send-keys", *keys)

    def until(self, text: str, *, seconds: float = 90) -> str:
        """The screen as soon as its last lines have the text in them."""
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
def test_in_a_terminal_there_is_a_prompt_colour_and_a_history_of_lines(terminal: Tmux, scene: Path) -> None:
    terminal.keys(f"PYTHONPATH={ROOT} {' '.join(command(scene.name))}; echo left with $?", "Enter")
    screen = terminal.until("\n>")
    assert "/help lists the commands" in screen
    terminal.keys("segment the ring below the orange circle", "Enter")
    screen = terminal.until("see scene-chat/overlay.png\n>")
    assert "> segment the ring below the orange circle\n  box (" in screen
    assert "\x1b[2m" in terminal.run("capture-pane", "-p", "-e"), "steps are dim"
    terminal.keys("C-l", "no, the other one", "Enter")
    terminal.until("left out:")
    terminal.until("see scene-chat/overlay.png\n>")
    terminal.keys("half a line", "C-c")
    terminal.keys("C-l", "/undo", "Enter")
    terminal.until("took back 'no, the other one'\nsee scene-chat/overlay.png\n>")
    terminal.keys("C-l", "Up", "Up", "Enter")
    assert "> no, the other one\n" in terminal.until("left out:"), "the line before /undo; the half one was thrown away"
    terminal.until("see scene-chat/overlay.png\n>")
    terminal.keys("C-d")
    assert "left with 0" in terminal.until("left with")
    assert (scene.parent / "scene-chat" / "overlay.png").exists()
