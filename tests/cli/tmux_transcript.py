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
SECOND_IMAGE, SECOND_SEED = "shapes.png", 200_021
"""A second image, drawn from a seed for tuning."""

RINGS = "orange ring, blue ring, green ring, purple ring"


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
        TypedLine("segment the orange circle", "orange circle", "wrote scene-chat/overlay.png"),
        TypedLine("where is the purple ring?", "purple ring", "updated scene-chat/overlay.png"),
        TypedLine("the blue ring", "blue ring"),
        TypedLine("Could you please find the ring below the orange circle for me?", "green ring"),
        TypedLine("cut out the orange circle", "orange circle", "wrote scene-chat/cutout.png"),
        TypedLine("segment the purple ring", "purple ring"),
        TypedLine("cut it out", None, "updated scene-chat/cutout.png"),
    ),
    "Questions": (
        TypedLine("how big is it?", None, r'"the purple ring" covers [\d,]+ pixels, 2\.\d% of the image'),
        TypedLine("what is this?", None, "purple ring"),
        TypedLine("how many rings are there?", RINGS, '"all rings": 4'),
        TypedLine("how many?", None, '"all rings": 4'),
        TypedLine("is there a purple ring?", "purple ring", "Yes"),
        TypedLine("how big is the green ring?", "green ring", r'"the green ring" covers [\d,]+ pixels'),
        TypedLine("is there a red star?", None, "No.*the result stays: 'the green ring'"),
    ),
    "Several objects": (
        TypedLine("all rings", RINGS),
        TypedLine("everything orange", "orange ring, orange circle"),
        TypedLine("segment the purple ring and the orange circle", "purple ring, orange circle"),
        TypedLine("all rings but not the green one", "orange ring, blue ring, purple ring"),
    ),
    "Corrections in words": (
        TypedLine("segment the ring below the orange circle", "green ring"),
        TypedLine("also the orange circle", "green ring, orange circle"),
        TypedLine("without the green ring", "orange circle"),
        TypedLine("no, the purple ring", "purple ring"),
        TypedLine("undo", None, "took back 'no, the purple ring'"),
        TypedLine("bigger", None, "bigger"),
    ),
    "Which one is meant?": (
        TypedLine("the ring", "orange ring", '"the ring" fits 4 objects: which one is meant[?]\n  it could also be 2 at'),
        TypedLine("2", "blue ring", "understood: number 2 alone"),
        TypedLine("also 2", "blue ring, purple ring"),
        TypedLine("the ring", "orange ring"),
        TypedLine("no, the other one", "blue ring"),
        TypedLine("the one before", "orange ring"),
    ),
    "Corrections by number": (
        TypedLine("all rings", RINGS),
        TypedLine("remove the third", "orange ring, blue ring, purple ring"),
        TypedLine("keep 1 and 2", "orange ring, blue ring"),
        TypedLine("only the second", "blue ring"),
        TypedLine("keep 9", None, "9"),
    ),
    "Clicks": (
        TypedLine("segment the blue ring", "blue ring"),
        TypedLine("click 448 108", "purple ring"),
        TypedLine("click 448 142 off", "purple ring"),
        TypedLine("click 9999 1", None, "outside the image"),
    ),
    "Taking back": (
        TypedLine("segment the orange circle", "orange circle"),
        TypedLine("the green ring", "green ring"),
        TypedLine("thanks", None, "You are welcome"),
        TypedLine("/undo", None, "took back 'the green ring'\nscene-chat/overlay.png shows 'the orange circle' again"),
    ),
    "Mistakes": (
        TypedLine("segmnet the prple rign", "purple ring", 'Did you mean "segment the purple ring"'),
        TypedLine("fnid the orange cirlce", "orange circle", 'Did you mean "find the orange circle"'),
        TypedLine("the bleu ring", "blue ring", 'Did you mean "the blue ring"'),
        TypedLine("find the red star", None, "no such object.*\nthe result stays: 'the blue ring'"),
        TypedLine("no, the other one", None, 'no "the red star" that it could be other than'),
        TypedLine("segment it", None, "Name what is meant"),
        TypedLine("make it red", None, "don't edit images"),
        TypedLine("segment the ring and tell me its area", None, "One request at a time"),
        TypedLine("why is the sky blue?", None, "Without a chat model I answer"),
        TypedLine("/udno", None, "did you mean /undo"),
        TypedLine("/image nowhere.png", None, "does not exist"),
        TypedLine("/save ring.png", None, "takes the name of a folder"),
    ),
    "German": (
        TypedLine("markiere den blauen Ring", "blue ring", "Understood as"),
        TypedLine("zeige mir alle Ringe", RINGS),
        TypedLine("wie viele sind es?", None, '"all rings": 4'),
        TypedLine("entferne den zweiten", "orange ring, green ring, purple ring"),
        TypedLine("wo ist der lila Ring?", "purple ring"),
        TypedLine("auch den orangen Kreis", "purple ring, orange circle"),
        TypedLine("ohne den lila Ring", "orange circle"),
        TypedLine("wie groß ist er?", None, "pixels"),
        TypedLine("was ist das?", None, "orange circle"),
        TypedLine("schneide den Ring unter dem orangen Kreis aus", "green ring", "scene-chat/cutout.png"),
        TypedLine("finde den roten Stern", None, "no such object"),
        TypedLine("rückgängig", None, "took back 'schneide den Ring"),
        TypedLine("speichern", None, "saved to scene-chat/saved-1"),
    ),
    "Several images": (
        TypedLine(f"/image {SECOND_IMAGE}", None, f"{SECOND_IMAGE}, 512 x 512 pixels"),
        TypedLine("no, the other one", None, "nothing yet that it could be other than"),
        TypedLine("how many circles are there?", None, "wrote shapes-chat/overlay.png"),
        TypedLine("/images", None, r"\* img-[0-9a-f]+  shapes.png"),
        TypedLine("/undo", None, "took back 'how many circles are there[?]'\nremoved from shapes-chat"),
        TypedLine("/undo", None, "closed shapes.png\nrequests are about scene.png"),
        TypedLine("also the green ring", "orange circle, green ring"),
        TypedLine("save as both", None, "saved to scene-chat/both"),
        TypedLine("help", None, "/image PATH"),
        TypedLine("quit"),
    ),
}

_PAGE_HEAD = """# A long conversation

Typed into `sam4mllm chat scene.png` in a terminal, with the embedded pair and without a chat model. The image,
examples/scene.png, has four rings and an orange circle. `python -m tests.cli.tmux_transcript` types the conversation again and
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
