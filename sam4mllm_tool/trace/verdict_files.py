"""A verdict as a file of its own: what the buttons of a trace's page download, and `sam4mllm trace accept --verdict` takes.

The page can't write into the trace, and needs no script: each button is a link whose address is the file's content. The file
names the trace by its seal, so that it can't be given to another run.
"""

import base64
import json
import os
from pathlib import Path

from sam4mllm_tool.errors import quote_text
from sam4mllm_tool.text import parse_json
from sam4mllm_tool.trace.codec import TraceError
from sam4mllm_tool.trace.files import seal
from sam4mllm_tool.trace.schema import Trace, Verdict

__all__ = ["VERDICT_FORMAT", "VerdictLink", "build_verdict_links", "read_verdict"]

VERDICT_FORMAT = "sam4mllm verdict"
_MAX_BYTES = 2**16


class VerdictLink:
    """A link of the page that downloads a verdict.

    Args:
        trace: What it is about.
        text: On the button.
        word: In the file's name.
        verdict: `objects` is () for "no such object", or None.
    """

    def __init__(self, trace: Trace, text: str, word: str, verdict: Verdict) -> None:
        content = {"format": VERDICT_FORMAT, "seal": seal(trace), "accepted": verdict.accepted, "none": verdict.objects == ()}
        self.text = text
        self.file = f"{seal(trace)[:12]}.{word}.json"
        self.uri = f"data:application/json;base64,{base64.b64encode(json.dumps(content).encode()).decode()}"


def build_verdict_links(trace: Trace) -> list[VerdictLink]:
    """Return a link per verdict that can be given without drawing masks."""
    links = [] if trace.result is None else [VerdictLink(trace, "The answer is right", "accepted", Verdict(True))]
    links.append(VerdictLink(trace, "The answer is wrong", "rejected", Verdict(False)))
    return [*links, VerdictLink(trace, "There is no such object", "none", Verdict(True, objects=()))]


def read_verdict(path: str | os.PathLike[str], trace: Trace) -> Verdict:
    """Read a downloaded verdict about a trace.

    Raises:
        TraceError: The file can't be read, is no verdict, or is about another run.
    """
    place = quote_text(str(path))
    try:
        with Path(path).open("rb") as file:
            content = parse_json(file.read(_MAX_BYTES))
    except OSError as error:
        raise TraceError(f"the verdict can't be read from {place}: {error.strerror or error}") from error
    except ValueError as error:
        raise TraceError(f"{place} is no verdict: it is not JSON") from error
    if not isinstance(content, dict) or content.get("format") != VERDICT_FORMAT:
        raise TraceError(f"{place} is no verdict: 'format' is not {VERDICT_FORMAT!r}")
    accepted, none = content.get("accepted"), content.get("none")
    if not isinstance(accepted, bool) or not isinstance(none, bool) or (none and not accepted):
        raise TraceError(f"{place} is no verdict: 'accepted' is {accepted!r} and 'none' is {none!r}")
    if content.get("seal") != seal(trace):
        raise TraceError(f"{place} is a verdict about another run than this trace: use the page of this trace")
    return Verdict(accepted, objects=() if none else None)
