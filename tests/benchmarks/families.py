"""Write the table of model families into the documentation: `PYTHONPATH=.venv/video python -m tests.benchmarks.families`.

For each family: its dialect; the mean IoU between 50 boxes and what the dialect reads out of them as the family itself writes
them, at five image sizes; whether labels of a tiny random checkpoint in the family's real format are those of full passes, all
of a question in a sequence (joint) and one a question (each); and how often its language model reads the image for 25 points
asked so. Most families need torchvision, which `make video` installs in that folder. Two minutes.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage

import tests.torchvision_operators  # noqa: F401  # before anything imports torchvision
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.types import Box, FreeText, Image, Labels, Question, Reply, Size, Turn
from tests.checkpoints import save_florence2, save_paligemma
from tests.models.mllm.questions import (
    BUILDERS,
    YES_NO,
    count_prefills,
    make_point_questions,
    make_question,
    score_by_full_passes,
)
from tests.native_answers import NATIVE_ANSWERS, QWEN_RESIZING, SIZES
from tests.video_checkpoints import build_model, build_processor

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
START, END = "<!-- families: python -m tests.benchmarks.families -->\n", "<!-- end of families -->"
QUESTION = Question((Turn("user", "Where is it?"),), FreeText(64))
EQUAL = 1e-4
"""Largest difference between probabilities that count as equal."""


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        title: As the docs name it.
        dialect: Its name.
        checkpoint: Name of the tiny checkpoint; None where replies alone are tested.
        video: Whether its processor needs torchvision.
        pads_images: Whether it sees an image in the middle of a square.
        labels: Whether it can answer yes or no.
        remark: Why nothing more is tested.
    """

    title: str
    dialect: str
    checkpoint: str | None = None
    video: bool = False
    pads_images: bool = False
    labels: bool = True
    remark: str = "replies alone: behind a server"


FAMILIES = (
    Family("Qwen2-VL", "qwen2_vl", "qwen2_vl", video=True),
    Family("Qwen2.5-VL", "qwen2_5_vl", "qwen2_5_vl", video=True),
    Family("Qwen3-VL", "qwen3_vl", "qwen3_vl", video=True),
    Family("Qwen3.5", "qwen3_vl", "qwen3_5", video=True),
    Family("InternVL", "internvl", "internvl", video=True),
    Family("GLM-4.xV", "glm4v", "glm4v", video=True),
    Family("Gemma 3", "gemma", "gemma3"),
    Family("Gemma 4", "gemma", "gemma4", video=True),
    Family("Gemini", "gemma"),
    Family("PaliGemma", "paligemma", "paligemma"),
    Family("Florence-2", "florence2", "florence2", labels=False),
    Family("Molmo", "molmo", remark="replies alone: no class in transformers"),
    Family("Molmo2", "molmo2", "molmo2", video=True),
    Family("Kimi-VL", "kimi_vl", remark="replies alone: no class in transformers"),
    Family("Kimi K2.5", "kimi_vl", "kimi_k25", video=True),
    Family("LLaVA 1.5", "llava", "llava", pads_images=True),
    Family("LLaVA-NeXT", "llava", "llava_next"),
    Family("LLaVA-OneVision", "llava", "llava_onevision", video=True),
    Family("Idefics3", "idefics", "idefics3"),
    Family("SmolVLM", "idefics", "smolvlm", video=True),
    Family("Mistral Small 3.1", "mistral", "mistral3", video=True),
    Family("Pixtral", "mistral", "pixtral", video=True),
    Family("Llama 3.2 Vision", "plain", "mllama"),
    Family("the released adapter", "released", "llava_next"),
    Family("Claude", "claude"),
    Family("GPT", "gpt"),
)


def measure_frame(family: Family, size: Size) -> float:
    """Return the mean IoU between boxes and what the dialect reads out of the family's own way to write them."""
    dialect = DIALECTS[family.dialect].for_model(QWEN_RESIZING, pads_images=family.pads_images)
    side = max(size)
    margins = (side - size.width) / 2, (side - size.height) / 2
    random, overlaps = Random(0), []
    for _ in range(50):
        width, height = (random.uniform(0.2, 0.6) * side for side in size)
        x, y = random.uniform(0, size.width - width), random.uniform(0, size.height - height)
        box = Box(x, y, x + width, y + height)
        left, top = margins if family.pads_images else (0, 0)
        shown = Box(box.x1 + left, box.y1 + top, box.x2 + left, box.y2 + top), Size(side, side) if family.pads_images else size
        (parsed,) = dialect.parse_boxes(QUESTION, Reply(NATIVE_ANSWERS[family.dialect](*shown)), size)
        overlaps.append(parsed.iou(box))
    return float(np.mean(overlaps))


def load_family(family: Family, folder: Path) -> TransformersMLLM:
    """Load the family's tiny checkpoint, built in the folder where it doesn't need torchvision."""
    return load_tiny_checkpoint(str(family.checkpoint), folder)


def load_tiny_checkpoint(name: str, folder: Path) -> TransformersMLLM:
    """Load a tiny random checkpoint by its name."""
    builders: dict[str, Callable[..., Path]] = {**BUILDERS, "florence2": save_florence2}
    builders["paligemma"] = lambda path: save_paligemma(path, template=None)
    if name in builders:
        return TransformersMLLM.load(str(builders[name](folder / name)))
    processor = build_processor(name)
    model = build_model(name, processor).eval().requires_grad_(False)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    return TransformersMLLM(model, processor, name=name)


def compare_labels(mllm: TransformersMLLM, image: Image, question: Question) -> str:
    """Say whether the labels of a question are those of full passes."""
    (reply,) = mllm.reply(image, [question])
    expected = torch.tensor(score_by_full_passes(mllm, image, question))
    return "equal" if torch.allclose(torch.tensor(reply.label_probabilities), expected, atol=EQUAL, rtol=0) else "DIFFERENT"


def measure_labels(family: Family, folder: Path) -> list[str]:
    """Return the cells about labels, image passes and how the family is tested."""
    if family.checkpoint is None:
        return ["", "", "", "", family.remark]
    mllm = load_family(family, folder)
    image = PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    if not family.labels:
        mllm.reply(image, [make_question("Locate the ring in the image.", FreeText(4))])
        return ["none", "none", "", "", "tiny checkpoint: boxes"]
    sequence, points = make_question("is it inside ?", Labels(5, YES_NO)), make_point_questions(YES_NO)
    joint = "as one text" if family.checkpoint == "paligemma" else compare_labels(mllm, image, sequence)
    each = {compare_labels(mllm, image, question) for question in points[:5]}
    together = [make_question("is it inside ?", Labels(25, YES_NO))]
    prefills = [str(count_prefills(mllm, image, questions)) for questions in (together, points)]
    return [joint, "equal" if each == {"equal"} else "DIFFERENT", *prefills, "tiny checkpoint"]


def format_frame_cells(family: Family) -> list[str]:
    """Return the name of the family, its dialect and the mean IoU at each size."""
    return [family.title, f"`{family.dialect}`", *(f"{measure_frame(family, size):.3f}" for size in SIZES)]


def format_table() -> str:
    """Measure all families and return the Markdown table."""
    sizes = [f"{size.width} x {size.height}" for size in SIZES]
    header = ["family", "dialect", *sizes, "joint labels", "each", "image passes, joint", "each", "tested on"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [[*format_frame_cells(family), *measure_labels(family, Path(folder))] for family in FAMILIES]
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def read_table(page: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the table in the page, without its header."""
    table = page[page.index(START) + len(START) : page.index(END)]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def main(argv: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", dest="prints", help="print the table, and write nothing")
    arguments, table = parser.parse_args(argv), format_table()
    if arguments.prints:
        print(table)
        return
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(f"(?s){re.escape(START)}.*{re.escape(END)}", lambda _: START + table + END, page), encoding="utf-8")


if __name__ == "__main__":
    main()
