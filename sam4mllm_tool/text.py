"""Words that messages share: suggestions for misspelt names, and errors on one line; and JSON from strangers."""

import json
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

__all__ = ["first_line", "parse_json", "remove_errno", "suggest_name"]


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


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of unknown origin. Raises ValueError for what isn't JSON, and also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
