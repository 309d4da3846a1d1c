"""Recognise a model's thought before its answer, by the marks that chat templates and models put around it.

A thought names boxes and says yes and no, so it must end before anything of an answer is read or scored.
"""

import re

__all__ = ["close_thought", "is_thought_mark", "strip_thought"]

_NAME = r"(?:seed:)?(?:think|thinking|thought|reasoning)"
_STARTS = re.compile(rf"<{_NAME}>|\[THINK\]|◁think▷|<\|channel>thought\b|<\|begin_of_thought\|>", re.IGNORECASE)
_ENDS = re.compile(rf"</{_NAME}>|\[/THINK\]|◁/think▷|<channel\|>|<\|end_of_thought\|>", re.IGNORECASE)
_OPENED = re.compile(rf"(?P<start><(?={_NAME}>)|\[(?=THINK\])|◁(?=think▷))(?P<name>[\w:]+[>\]▷])\s*\Z", re.IGNORECASE)


def strip_thought(text: str) -> str | None:
    """Return what a reply says after its thought; None where the thought doesn't end."""
    *_, after = _ENDS.split(text)  # the template may have opened the thought
    return None if _STARTS.search(after) else after.strip()


def close_thought(prompt: str) -> str:
    """End a thought that a chat template opens for the model at the end of a prompt."""
    opened = _OPENED.search(prompt)
    return f"{prompt.rstrip()}\n\n{opened['start']}/{opened['name']}\n\n" if opened else prompt


def is_thought_mark(token: str) -> bool:
    """Whether a token starts or ends a thought."""
    return bool(_STARTS.fullmatch(token) or _ENDS.fullmatch(token))
