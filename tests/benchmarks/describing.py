"""What share of objects `describe_image_region` names by their shape and colour, with the embedded pair.

    python -m tests.benchmarks.describing          # scenes that it was never trained or tuned on
    python -m tests.benchmarks.describing --first 200000

Once for the boxes that are drawn around the objects, once for the results of `segment_image`.
"""

import argparse
import base64
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from typing import Any

from langchain_core.tools import BaseTool
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, SceneObject, draw_scene
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.types import Box

OBJECTS = 300


def as_data_uri(scene: Scene) -> str:
    file = BytesIO()
    PILImage.fromarray(scene.image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def objects(first: int) -> Iterator[tuple[str, Scene, SceneObject]]:
    for seed in count(first):
        scene = draw_scene(seed)
        picture = as_data_uri(scene)
        yield from ((picture, scene, thing) for thing in scene.objects)


def artifact_of(tool: BaseTool, **arguments: Any) -> Any:
    return tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"}).artifact


def named(text: str, thing: SceneObject) -> tuple[bool, bool]:
    """Whether its shape and its colour are said."""
    words = text.lower().replace(",", " ").split()
    return thing.shape in words, thing.colour in words


def share(told: list[tuple[bool, bool]]) -> str:
    shapes, colours = (sum(one[index] for one in told) / len(told) for index in range(2))
    both = sum(shape and colour for shape, colour in told) / len(told)
    return f"shape {shapes:.1%}, colour {colours:.1%}, both {both:.1%} of {len(told)} objects"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="seed of the first scene")
    parser.add_argument("--objects", type=int, default=OBJECTS)
    options = parser.parse_args()
    tools = {tool.name: tool for tool in Sam4MllmToolkit(sam4mllm=Sam4Mllm.load()).get_tools()}
    describe, segment = tools["describe_image_region"], tools["segment_image"]
    boxes: list[tuple[bool, bool]] = []
    results: list[tuple[bool, bool]] = []
    for picture, scene, thing in objects(options.first):
        (region,) = artifact_of(describe, image=picture, box=list(thing.box))["regions"]
        boxes.append(named(region["text"], thing))
        result = artifact_of(segment, image=picture, expression=f"the {thing.colour} {thing.shape}")
        for region in artifact_of(describe, result=result)["regions"]:
            found = max(scene.objects, key=lambda one: one.box.iou(Box(*region["box"])))
            results.append(named(region["text"], found))
        if len(boxes) >= options.objects:
            break
    print(f"boxes:   {share(boxes)}")
    print(f"results: {share(results)}")


if __name__ == "__main__":
    main()
