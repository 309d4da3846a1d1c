"""Words that messages share: suggestions for misspelt names, and errors on one line."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["first_line", "remove_errno", "suggest_name"]


def suggest_name(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for a misspelt name, "" where none of the names is like it.

    A name that the word begins, and no other name does, is meant; otherwise the most similar one.
    """
    by_lower = {name.lower(): name for name in names}
    begun = [name for name in by_lower if word and name.startswith(word.lower())]
    close = begun if len(begun) == 1 else get_close_matches(word.lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def remove_errno(text: str) -> str:
    """Remove the numbers of system errors, as in "[Errno 17] File exists"."""
    return re.sub(r"\[Errno -?\d+\] ", "", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without a system error's number; the error's type if it has none."""
    return remove_errno(str(error)).strip().partition("\n")[0] or type(error).__name__
