"""Evaluations that the tests make: scripted models, small data, and what a run leaves behind."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam4mllm_tool.geometry import rle
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import Labels, ObjectPrompt, Question, Reply, SegmentedObject
from tests.data.layouts import HEIGHT, WIDTH, rectangle


class BoxSegmenter:
    """A mask is its box, in whole pixels; the confidence is that of its points, if any."""

    name = "boxes"

    def segment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        found = []
        for prompt in prompts:
            mask = np.zeros((image.height, image.width), np.bool_)
            x1, y1, x2, y2 = (round(value) for value in prompt.box)
            mask[y1:y2, x1:x2] = True
            confidences = [point.confidence for point in prompt.points if point.confidence is not None]
            confidence = sum(confidences) / len(confidences) if confidences else None
            found.append(SegmentedObject(mask, prompt, 0.9, confidence))
        return found

    async def asegment(self, image: Image.Image, prompts: Sequence[ObjectPrompt]) -> list[SegmentedObject]:
        return self.segment(image, prompts)


def scripted(boxes: Callable[[str], str], yes: float = 0.8) -> Sam4Mllm:
    """Models that name the boxes that a function gives for an expression, and say of every point that it is on."""

    def answer(question: Question) -> Reply:
        if isinstance(question.answer, Labels):
            return Reply("Yes" * question.answer.count, ((yes, 1 - yes),) * question.answer.count)
        return Reply(boxes(question.turns[0].text.rpartition(": ")[2]))

    return Sam4Mllm(ScriptedMLLM(answer, greedy=True), BoxSegmenter(), dialect=JOINT)


def told(x1: float, y1: float, x2: float, y2: float) -> str:
    """A box in pixels of the small picture, in the words of the joint dialect."""
    across, down = 1000 / WIDTH, 1000 / HEIGHT
    return f"[{round(x1 * across):03d},{round(y1 * down):03d},{round(x2 * across):03d},{round(y2 * down):03d}]"


def line(expression: str, *boxes: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    """A sample of own data whose objects are rectangles of the small picture."""
    objects = [{"box": list(box), "mask": rle.encode(rectangle(*box))} for box in boxes]
    return {"image": "one.png", "expression": expression, "objects": objects, "id": expression, **more}


def write_lines(root: Path, *lines: dict[str, Any], picture: str = "one.png") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(root / picture)
    (root / "val.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return root


def samples_of(out: Path, *, timed: bool = False) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, without their seconds unless wanted."""
    lines = [json.loads(one) for one in (out / "samples.jsonl").read_text().splitlines()]
    return lines if timed else [{key: value for key, value in one.items() if key != "seconds"} for one in lines]


def reports_of(out: Path) -> dict[str, bytes]:
    """All that must not differ between two runs of an order, by file."""
    names = ["metrics.json", "report.md", "report.html", *sorted(str(p.relative_to(out)) for p in (out / "pictures").iterdir())]
    return {name: (out / name).read_bytes() for name in names}
