"""A long conversation with the chat, typed into a terminal.

`python -m tests.cli.tmux_transcript` writes docs/chat_transcript.md.

The requests get harder from section to section. Each has what its answer must come to; a test asserts that without a terminal,
in one conversation through a pipe.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.embedded_world import draw_image
from tests.example_scene import EXAMPLE_IMAGE, OBJECTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "chat_transcript.md"
SECOND_IMAGE, SECOND_SEED = "balloons.png", 247_417
"""A second image, drawn from a seed for tuning."""

MUGS = "orange mug, black mug, yellow mug, white mug"


@dataclass(frozen=True)
class TypedLine:
    """A line that is typed, and what its answer must come to.

    Attributes:
        text: The line.
        objects: The objects that the result has, by their names in `OBJECTS`; None for an answer that has no result.
        words: A regular expression that the answer contains.
    """

    text: str
    objects: str | None = None
    words: str = ""


SECTIONS: dict[str, tuple[TypedLine, ...]] = {
    "First requests": (
        TypedLine("segment the black spoon", "black spoon", "wrote scene-chat/overlay.png"),
        TypedLine("where is the yellow mug?", "yellow mug", "updated scene-chat/overlay.png"),
        TypedLine("the black mug", "black mug"),
        TypedLine("Could you please find the mug with the spoon in it for me?", "white mug"),
        TypedLine("cut out the black spoon", "black spoon", "wrote scene-chat/cutout.png"),
        TypedLine("segment the yellow mug", "yellow mug"),
        TypedLine("cut it out", None, "updated scene-chat/cutout.png"),
    ),
    "Questions": (
        TypedLine("how big is it?", None, r'"the yellow mug" covers [\d,]+ pixels, \d+\.\d% of the image'),
        TypedLine("what is this?", None, "yellow mug"),
        TypedLine("how many mugs are there?", MUGS, '"all mugs": 4'),
        TypedLine("how many?", None, '"all mugs": 4'),
        TypedLine("is there a yellow mug?", "yellow mug", "Yes"),
        TypedLine("how big is the white mug?", "white mug", r'"the white mug" covers [\d,]+ pixels'),
        TypedLine("is there a red teapot?", None, "No.*the result stays: 'the white mug'"),
    ),
    "Several objects": (
        TypedLine("all mugs", MUGS),
        TypedLine("everything black", "black mug, black spoon"),
        TypedLine("segment the yellow mug and the black spoon", "yellow mug, black spoon"),
        TypedLine("all mugs but not the white one", "orange mug, black mug, yellow mug"),
    ),
    "Corrections in words": (
        TypedLine("segment the mug with the spoon in it", "white mug"),
        TypedLine("also the black spoon", "white mug, black spoon"),
        TypedLine("without the white mug", "black spoon"),
        TypedLine("no, the yellow mug", "yellow mug"),
        TypedLine("undo", None, "took back 'no, the yellow mug'"),
        TypedLine("bigger", None, "bigger"),
    ),
    "Which one is meant?": (
        TypedLine("the mug", "orange mug", '"the mug" fits 4 objects: which one is meant[?]\n  it could also be 2 at'),
        TypedLine("2", "black mug", "understood: number 2 alone"),
        TypedLine("also 2", "black mug, yellow mug"),
        TypedLine("the mug", "orange mug"),
        TypedLine("no, the other one", "black mug"),
        TypedLine("the one before", "orange mug"),
    ),
    "Corrections by number": (
        TypedLine("all mugs", MUGS),
        TypedLine("remove the third", "orange mug, black mug, white mug"),
        TypedLine("keep 1 and 2", "orange mug, black mug"),
        TypedLine("only the second", "black mug"),
        TypedLine("keep 9", None, "9"),
    ),
    "Clicks": (
        TypedLine("segment the black mug", "black mug"),
        TypedLine("click 220 270", "yellow mug"),
        TypedLine("click 140 237 off", "yellow mug"),
        TypedLine("click 9999 1", None, "outside the image"),
    ),
    "Taking back": (
        TypedLine("segment the black spoon", "black spoon"),
        TypedLine("the white mug", "white mug"),
        TypedLine("thanks", None, "You are welcome"),
        TypedLine("/undo", None, "took back 'the white mug'\nscene-chat/overlay.png shows 'the black spoon' again"),
    ),
    "Mistakes": (
        TypedLine("segmnet the yelow mug", "yellow mug", 'Did you mean "segment the yellow mug"'),
        TypedLine("fnid the blakc spoon", "black spoon", 'Did you mean "find the black spoon"'),
        TypedLine("the blakc mug", "black mug", 'Did you mean "the black mug"'),
        TypedLine("find the red teapot", None, "no such object.*\nthe result stays: 'the black mug'"),
        TypedLine("no, the other one", None, 'no "the red teapot" that it could be other than'),
        TypedLine("segment it", None, "Name what is meant"),
        TypedLine("make it red", None, "don't edit images"),
        TypedLine("segment the mug and tell me its area", None, "One request at a time"),
        TypedLine("why is the sky blue?", None, "Without a chat model I answer"),
        TypedLine("/udno", None, "did you mean /undo"),
        TypedLine("/image nowhere.png", None, "does not exist"),
        TypedLine("/save mug.png", None, "takes the name of a folder"),
    ),
    "German": (
        TypedLine("markiere die schwarze Tasse", "black mug", "Understood as"),
        TypedLine("zeige mir alle Tassen", MUGS),
        TypedLine("wie viele sind es?", None, '"all mugs": 4'),
        TypedLine("entferne die zweite", "orange mug, yellow mug, white mug"),
        TypedLine("wo ist die gelbe Tasse?", "yellow mug"),
        TypedLine("auch den schwarzen Löffel", "yellow mug, black spoon"),
        TypedLine("ohne die gelbe Tasse", "black spoon"),
        TypedLine("wie groß ist er?", None, "pixels"),
        TypedLine("was ist das?", None, "black spoon"),
        TypedLine("schneide die Tasse mit dem Löffel darin aus", "white mug", "scene-chat/cutout.png"),
        TypedLine("finde die rote Teekanne", None, "no such object"),
        TypedLine("rückgängig", None, "took back 'schneide die Tasse"),
        TypedLine("speichern", None, "saved to scene-chat/saved-1"),
    ),
    "Several images": (
        TypedLine(f"/image {SECOND_IMAGE}", None, f"{SECOND_IMAGE}, 512 x 512 pixels"),
        TypedLine("no, the other one", None, "nothing yet that it could be other than"),
        TypedLine("how many balloons are there?", None, "wrote balloons-chat/overlay.png"),
        TypedLine("/images", None, r"\* img-[0-9a-f]+  balloons.png"),
        TypedLine("/undo", None, "took back 'how many balloons are there[?]'\nremoved from balloons-chat"),
        TypedLine("/undo", None, "closed balloons.png\nrequests are about scene.png"),
        TypedLine("also the white mug", "black spoon, white mug"),
        TypedLine("save as both", None, "saved to scene-chat/both"),
        TypedLine("help", None, "/image PATH"),
        TypedLine("quit"),
    ),
}

_PAGE_HEAD = """# A long conversation

Typed into `sam4mllm chat scene.png` in a terminal, with the embedded pair and without a chat model. The image,
examples/scene.png, has four mugs and a spoon. `python -m tests.cli.tmux_transcript` types the conversation again and
rewrites this page; a test checks what each answer comes to.
"""


def write_images(folder: Path) -> None:
    """Write the images of the conversation into a folder."""
    shutil.copy(EXAMPLE_IMAGE, folder / "scene.png")
    draw_image(SECOND_SEED, 512).save(folder / SECOND_IMAGE)


def name_objects(answer: str) -> list[str]:
    """Return the names of the objects that an answer lists, in its order."""
    boxes = re.findall(r"^  \d+: (?:\".*?\", )?box \((\d+), (\d+)\) to \((\d+), (\d+)\), .* pixels", answer, re.MULTILINE)
    return [_name_box(tuple(map(int, box))) for box in boxes]


def _name_box(box: tuple[int, ...]) -> str:
    distances = {name: max(abs(a - b) for a, b in zip(box, known, strict=True)) for name, known in OBJECTS.items()}
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] < 25 else f"something at {box}"


class TmuxTerminal:
    """A terminal of 128 columns whose screen is read as text."""

    def __init__(self, name: str, folder: Path) -> None:
        self._tmux = ["tmux", "-L", name, "-f", "/dev/null"]
        self.run("new-session", "-d", "-x", "128", "-y", "60", "-c", str(folder), "sh")

    def run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True, timeout=30).stdout

    def send(self, text: str) -> None:
        """Type a line."""
        self.run("send-keys", "-l", text)
        self.run("send-keys", "Enter")

    def wait_for_prompt(self, after: str, seconds: float = 300) -> str:
        """Return what is on the screen after a text, once the prompt is there again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            screen = self.run("capture-pane", "-p", "-J").rstrip()
            _, found, answer = screen.rpartition(after)
            if found and re.search(r"\n>$", answer):
                return answer[:-1].strip("\n")
            if found and "left with" in answer:
                return ""
            time.sleep(0.2)
        raise AssertionError(f"no prompt after {after!r}:\n{screen}")

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False, timeout=30)


def type_conversation(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Type all lines into the chat in a terminal; return each line with its answer, by section."""
    write_images(folder)
    terminal = TmuxTerminal(f"transcript-{time.monotonic_ns()}", folder)
    try:
        command = f"{sys.executable} -m sam4mllm_tool chat scene.png"
        terminal.send(f"PS1=; PYTHONPATH={ROOT} NO_COLOR=1 {command}; echo left with $?")
        terminal.wait_for_prompt("scene.png, 512 x 512")
        answers: dict[str, list[tuple[str, str]]] = {}
        for section, lines in SECTIONS.items():
            for line in lines:
                terminal.run("send-keys", "C-l")
                terminal.send(line.text)
                answers.setdefault(section, []).append((line.text, terminal.wait_for_prompt(f"> {line.text}")))
        return answers
    finally:
        terminal.close()


def read_page() -> list[tuple[str, str]]:
    """Return each line of the conversation with the answer that the page shows."""
    blocks = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    parts = [part for block in blocks for part in re.split(r"^> ", block, flags=re.MULTILINE)[1:]]
    return [(line, answer) for line, _, answer in (part.partition("\n") for part in parts)]


def write_page() -> None:
    """Write the page from today's conversation."""
    with tempfile.TemporaryDirectory() as folder:
        answers = type_conversation(Path(folder))
    blocks = [_PAGE_HEAD]
    for section, lines in answers.items():
        text = "\n".join(f"> {line}\n{answer}".rstrip() for line, answer in lines)
        blocks.append(f"## {section}\n\n```text\n{text}\n```\n")
    PAGE.write_text("\n".join(blocks), encoding="utf-8")


if __name__ == "__main__":
    write_page()
