"""The traces of a folder at a glance: what was asked, by which method, how sure the answer is, and what a person said of it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sam4mllm_tool.trace.codec import TraceError
from sam4mllm_tool.trace.files import load
from sam4mllm_tool.trace.schema import Trace, read_result

__all__ = ["TraceSummary", "describe_verdict", "list_traces"]

_SUFFIXES = (".trace.json", ".trace.json.gz")


@dataclass(frozen=True)
class TraceSummary:
    """One trace.

    Attributes:
        path: The file.
        expression: None in a flow without one.
        verdict: As `describe_verdict` says it.
        method: None in a tool's flow.
        image: Size in pixels and the first digits of the hash, by which traces about the same image are known.
        objects: Number of objects; None where the run failed or gave no segmentation.
        confidence: Mean of the objects' confidences, or that of "no such object"; None where one is unknown.
    """

    path: Path
    expression: str | None
    verdict: str
    method: str | None
    image: str
    objects: int | None
    confidence: float | None


def list_traces(paths: Iterable[Path]) -> Iterator[TraceSummary | TraceError]:
    """Yield a summary of each trace, or the reason why it can't be read; of a folder, of its trace files."""
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES)) if path.is_dir() else [path]
        for file in files:
            try:
                yield _summarize(file, load(file))
            except TraceError as error:
                yield error


def describe_verdict(trace: Trace) -> str:
    """Say in a word or two what a person said of the result."""
    if trace.verdict.objects is not None:
        return "corrected"
    return {None: "not judged", True: "accepted", False: "rejected"}[trace.verdict.accepted]


def _summarize(path: Path, trace: Trace) -> TraceSummary:
    result = None if trace.result is None else read_result(trace.result)
    confidences = [segmented.confidence for segmented in result.objects] if result else []
    known = [confidence for confidence in confidences if confidence is not None]
    confidence = sum(known) / len(known) if known and len(known) == len(confidences) else None
    if result and not result.objects:
        confidence = result.confidence
    width, height = trace.image.size
    image = f"{width}x{height} {trace.image.sha256[:8]}"
    count = None if result is None else len(result.objects)
    return TraceSummary(path, trace.expression, describe_verdict(trace), trace.method, image, count, confidence)
