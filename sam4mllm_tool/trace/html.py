"""HTML in which nothing is markup but what `tag` made: expressions and replies are other people's texts.

What can't be seen (controls, marks of direction, half characters) is written as its escape, so that no text looks like
another. NumPy-free, no template engine.
"""

from html import escape

__all__ = ["Html", "seen", "tag"]

_KEPT = "\n\u200c\u200d"  # line breaks; joiners, which scripts and emoji need
_VOID = ("br", "hr", "image", "img", "input", "line", "link", "meta", "path", "rect", "circle", "use")


class Html(str):
    """Markup; any other text is escaped where it is put into some."""

    __slots__ = ()


def tag(name: str, /, *inside: str, **attributes: object) -> Html:
    """An element. inside: `Html` as it is, texts escaped. attributes: class_ is class, a_b is a-b; one of None is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(seen(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    body = "".join(one if isinstance(one, Html) else escape(seen(one)) for one in inside)
    return Html(f"<{name}{told}/>" if name in _VOID and not inside else f"<{name}{told}>{body}</{name}>")


def seen(text: str) -> str:
    """The text with what can't be seen as escapes."""
    return "".join(one if one.isprintable() or one in _KEPT else one.encode("unicode_escape").decode("ascii") for one in text)
