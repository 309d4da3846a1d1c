"""Evaluations for the tests: scripted models, small datasets, and readers of what a run writes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import Labels, Question, Reply
from tests.data.layouts import HEIGHT, WIDTH, rectangle


def scripted_models(boxes: Callable[[str], str], yes: float = 0.8) -> Sam4Mllm:
    """Return models that reply `boxes(expression)` and answer Yes about every point, with that probability."""

    def answer(question: Question) -> Reply:
        if isinstance(question.answer, Labels):
            return Reply("Yes" * question.answer.count, ((yes, 1 - yes),) * question.answer.count)
        return Reply(boxes(question.turns[0].text.rpartition(": ")[2]))

    return Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=JOINT)


def box_reply(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a box in pixels of the small image, in the wording of the joint dialect."""
    across, down = 1000 / WIDTH, 1000 / HEIGHT
    return f"[{round(x1 * across):03d},{round(y1 * down):03d},{round(x2 * across):03d},{round(y2 * down):03d}]"


def sample_line(expression: str, *boxes: tuple[int, int, int, int], **fields: Any) -> dict[str, Any]:
    """Return a line of a JSON Lines dataset whose objects are rectangles of the small image."""
    objects = [{"box": list(box), "mask": rle.encode(rectangle(*box))} for box in boxes]
    return {"image": "one.png", "expression": expression, "objects": objects, "id": expression, **fields}


def write_samples(root: Path, *lines: dict[str, Any]) -> Path:
    """Write a dataset of these lines and the small image; return its folder."""
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(root / "one.png")
    (root / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def read_samples(out: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """Return the lines of samples.jsonl, without their seconds unless `timed`."""
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    return lines if timed else [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def read_reports(out: Path) -> dict[str, bytes]:
    """Return the files that must be the same in two runs of the same order, by name."""
    images = sorted(str(path.relative_to(out)) for path in (out / "pictures").iterdir())
    return {name: (out / name).read_bytes() for name in ("metrics.json", "report.md", "report.html", *images)}
