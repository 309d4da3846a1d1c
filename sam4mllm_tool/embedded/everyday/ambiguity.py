"""Which targets a box alone leaves open; `python -m sam4mllm_tool.embedded.everyday.ambiguity` counts them."""

from collections import Counter
from collections.abc import Iterable
from random import Random

import numpy as np

from sam4mllm_tool.embedded.everyday.expression_list import sample_expressions
from sam4mllm_tool.embedded.everyday.world import EverydayScene, draw_scene
from sam4mllm_tool.geometry.boxes import mask_iou

_SPARSE = 0.5  # share of its box that a region fills
_CROWDED = 0.15  # share of its box that other objects fill
_SAME_BOX, _SAME_MASK = 0.7, 0.85  # IoU


def find_ambiguity(scene: EverydayScene, index: int) -> str | None:
    """Say why the box of regions[index] leaves open what is meant.

    Args:
        scene: The scene.
        index: Of an object or a part, as in an expression's targets.

    Returns:
        "part and whole" if a part, the whole or another object has about the same box and another mask, "crowded" if other
        objects fill at least 0.15 of its box, "sparse" if it fills less than half of its box, None if its box is clear.
    """
    region, mask = scene.regions[index], scene.mask(index)
    x1, y1, x2, y2 = map(int, region.box)
    for other, rival in enumerate(scene.regions):
        has_same_box = other != index and region.box.iou(rival.box) >= _SAME_BOX
        if has_same_box and mask_iou(mask, scene.mask(other)) < _SAME_MASK:
            return "part and whole"
    inside = mask[y1:y2, x1:x2]
    owner = index if index < len(scene.objects) else scene.object_parts[index - len(scene.objects)].owner
    instances = scene.instances[y1:y2, x1:x2]
    if np.mean((instances > 0) & (instances != owner + 1)) >= _CROWDED:
        return "crowded"
    return "sparse" if inside.mean() < _SPARSE else None


def count_ambiguity(seeds: Iterable[int], per_scene: int = 8) -> Counter[str]:
    """Count what `find_ambiguity` says, "clear" for None, of the targets of some expressions per scene."""
    reasons: Counter[str] = Counter()
    for seed in seeds:
        scene = draw_scene(seed)
        for expression in sample_expressions(scene, per_scene, Random(seed)):
            reasons.update(find_ambiguity(scene, target) or "clear" for target in expression.targets)
    return reasons


if __name__ == "__main__":
    counts = count_ambiguity(range(1000, 1200))
    print("\n".join(f"{reason}: {count / counts.total():.2f} of the targets" for reason, count in counts.most_common()))
