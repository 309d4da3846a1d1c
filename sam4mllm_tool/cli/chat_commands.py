"""The commands of a conversation in the terminal, and the bare words that stand for them: "undo", "save", "hilfe"."""

import difflib
import re
import shlex
from contextlib import suppress

from sam4mllm_tool.errors import quote_text

__all__ = ["HELP", "read_command", "suggest_command", "unquote_path"]

HELP = """\
segment the red mug     also: cut out, find, mask, select, show me ..., where is ...; several: the mug and the spoon
cut out the red mug     writes cutout.png as well: the objects on a transparent ground
no, the other one        refines the result; also: the left one, without the handle, bigger, remove 2, only the second
click 120 80             the object is at this point; click 120 80 off: it is not; in pixels from the top left
how many mugs?          questions: how big is it? is there a spoon? what is this?
/image PATH              opens another image; requests are about the image opened last
/images                  lists the images, the current one last
/undo                    takes back the last change: a request or an opened image
/save [NAME]             keeps the result's files in a folder of their own, beside the newest
/export FORMAT...        writes the result in other formats, such as coco or yolo; /export alone lists them
/help, /quit             Ctrl-C stops a request, Ctrl-D leaves; help, undo, save and quit work without a slash
"""
_COMMANDS = ("/help", "/undo", "/image", "/images", "/save", "/export", "/quit")
_BARE: tuple[tuple[str, str], ...] = (
    (r"help|\?|commands|hilfe", "/help"),
    (r"quit|exit|q|bye|goodbye|ende|beenden|tschüss?", "/quit"),
    (r"undo(?: (?:that|it|this|the last one))?|take (?:that|it) back", "/undo"),
    (r"rückgängig(?: machen)?|mache? (?:das|es) rückgängig", "/undo"),
    (r"save(?: (?:it|this|that|the (?:result|mask|overlay)))?", "/save"),
    (r"speicher[en]?(?: (?:es|das|ab))?|sichern?", "/save"),
    (r"save (?:(?:it|this|that|the result) )?(?:to|as|in|into|under) (?P<rest>\S.*)", "/save"),
    (r"(?:list |show )?(?:the )?images", "/images"),
    (r"(?:open|load|image|öffne) (?P<rest>\S+\.(?:png|jpe?g|webp|bmp|tiff?|gif))", "/image"),
)
_COMPILED = [(re.compile(pattern, re.IGNORECASE), command) for pattern, command in _BARE]


def read_command(line: str) -> str:
    """Return a line with a slash command in the place of bare words that stand for it; any other line as it is."""
    words = line.strip().rstrip(".! ")
    for pattern, command in _COMPILED:
        if match := pattern.fullmatch(words):
            rest = match.groupdict().get("rest") or ""
            return f"{command} {rest}".strip()
    return line


def suggest_command(name: str) -> str:
    """Return the refusal of a command that there isn't, with the command that may be meant."""
    near = difflib.get_close_matches(name.lower(), _COMMANDS, 1, 0.7)
    return f"no such command: {quote_text(name)}; {f'did you mean {near[0]}? ' if near else ''}/help lists them"


def unquote_path(text: str) -> str:
    """Read a path in quotation marks as a shell does; without them, keep it as it is, blanks included."""
    if text[:1] in ("'", '"') and text[-1:] == text[:1]:
        with suppress(ValueError):
            return " ".join(shlex.split(text))
    return text
