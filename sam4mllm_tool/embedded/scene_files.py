"""Drawn scenes as files: PNG images and a line of JSON per expression, the format of a dataset of one's own."""

import json
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.atomic_io import atomic_path, require_new_file
from sam4mllm_tool.embedded.everyday import EverydayExpression, EverydayScene, draw_scene, sample_expressions
from sam4mllm_tool.geometry import rle

SCENES_FILE = "scenes.jsonl"


def write_scenes(
    folder: Path,
    count: int,
    seed: int,
    *,
    side: int = 256,
    per_scene: int = 7,
    overwrite: bool = False,
) -> Path:
    """Draw scenes into a folder, with scenes.jsonl describing them.

    Each line has image (a file name beside it), expression, kind and objects: [{box: [x1, y1, x2, y2] in pixels, mask: COCO
    RLE}] from left to right, empty if the expression fits no object.

    Args:
        folder: Created if it is not there.
        count: Number of scenes.
        seed: Seed of the first scene; the others follow.
        side: Width and height of the images in pixels.
        per_scene: Most expressions per scene, kinds drawn evenly.
        overwrite: Replace files that exist.

    Returns:
        The path of scenes.jsonl, which appears once it is complete.

    Raises:
        DataError: A file exists already.
        OSError: The folder can't be written.
    """
    names = {number: f"scene-{number:07d}.png" for number in range(seed, seed + count)}
    for name in (SCENES_FILE, *names.values()):
        require_new_file(folder / name, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / SCENES_FILE) as part, part.open("w", encoding="utf-8") as lines:
        for number, name in tqdm(names.items(), desc="scenes", unit="scene", disable=None):
            scene = draw_scene(number, side)
            Image.fromarray(scene.image).save(folder / name)
            for expression in sample_expressions(scene, per_scene, Random(f"files-{number}")):
                lines.write(json.dumps(_describe_sample(name, scene, expression)) + "\n")
    return folder / SCENES_FILE


def _describe_sample(name: str, scene: EverydayScene, expression: EverydayExpression) -> dict[str, Any]:
    return {
        "image": name,
        "expression": expression.text,
        "kind": expression.kind,
        "objects": [{"box": list(scene.regions[i].box), "mask": rle.encode(scene.mask(i))} for i in expression.targets],
    }
