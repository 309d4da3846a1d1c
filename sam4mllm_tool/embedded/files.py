"""Drawn scenes as files: pictures and a line of JSON per expression, the format in which own data is written too."""

import json
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.embedded.expressions import Expression, sample_expressions
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.geometry import rle

SCENES_FILE = "scenes.jsonl"


def write_scenes(folder: Path, count: int, seed: int, *, side: int = 256, per_scene: int = 7) -> Path:
    """Draws scenes of `count` seeds from `seed` on; returns the path of scenes.jsonl, which appears once it is whole.

    Each line: image (a file name beside it), expression, kind, objects: [{box: [x1, y1, x2, y2] in pixels, mask: COCO RLE}],
    from left to right, none where nothing in the picture fits. Up to per_scene expressions a scene, kinds drawn evenly.
    Raises OSError where the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / SCENES_FILE
    beside = folder / f"{SCENES_FILE}.part"
    with beside.open("w", encoding="utf-8") as lines:
        for number in tqdm(range(seed, seed + count), desc="scenes", unit="scene"):
            scene = draw_scene(number, side)
            name = f"scene-{number:07d}.png"
            Image.fromarray(scene.image).save(folder / name)
            for expression in sample_expressions(scene, per_scene, Random(f"files-{number}")):
                lines.write(json.dumps(_line(name, scene, expression)) + "\n")
    beside.replace(whole)
    return whole


def _line(name: str, scene: Scene, expression: Expression) -> dict[str, Any]:
    return {
        "image": name,
        "expression": expression.text,
        "kind": expression.kind,
        "objects": [{"box": list(scene.objects[i].box), "mask": rle.encode(scene.mask(i))} for i in expression.targets],
    }
