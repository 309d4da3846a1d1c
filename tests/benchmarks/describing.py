"""Measure how often `describe_image_region` names an object and its colour, with the embedded pair.

    python -m tests.benchmarks.describing          # scenes that the pair was neither trained nor tuned on
    python -m tests.benchmarks.describing --first 200000

Once for the true boxes of the objects, and once for the results of `segment_image`.
"""

import argparse
import base64
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from typing import Any

from langchain_core.tools import BaseTool
from PIL import Image as PILImage

from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import EverydayObject, EverydayScene, draw_scene
from sam4mllm_tool.tools import Sam4MllmToolkit
from sam4mllm_tool.types import Box
from tests.benchmarks.pair_options import add_pair_options, read_pair_options

OBJECTS = 300


def encode_data_uri(scene: EverydayScene) -> str:
    """Return the scene's image as a PNG data URI."""
    file = BytesIO()
    PILImage.fromarray(scene.image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def iter_objects(first: int) -> Iterator[tuple[str, EverydayScene, EverydayObject]]:
    """Yield the objects of one scene after another, each with the image as a data URI and its scene."""
    for seed in count(first):
        scene = draw_scene(seed)
        image = encode_data_uri(scene)
        yield from ((image, scene, target) for target in scene.objects)


def call_tool(tool: BaseTool, **arguments: Any) -> Any:
    """Call the tool as an agent does; return its artifact."""
    return tool.invoke({"name": tool.name, "args": arguments, "id": "1", "type": "tool_call"}).artifact


def find_words(text: str, target: EverydayObject) -> tuple[bool, bool]:
    """Return whether the text has the object's noun, and the word for its colour."""
    words = f" {' '.join(text.lower().replace(',', ' ').split())} "
    return f" {target.noun} " in words, f" {target.colour} " in words


def format_shares(outcomes: list[tuple[bool, bool]]) -> str:
    """Return the shares of objects whose noun, whose colour and whose both are named."""
    nouns, colours = (sum(outcome[index] for outcome in outcomes) / len(outcomes) for index in range(2))
    both = sum(noun and colour for noun, colour in outcomes) / len(outcomes)
    return f"noun {nouns:.1%}, colour {colours:.1%}, both {both:.1%} of {len(outcomes)} objects"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="seed of the first scene")
    parser.add_argument("--objects", type=int, default=OBJECTS, help="number of objects (default: %(default)s)")
    add_pair_options(parser)
    options = parser.parse_args()
    models = read_pair_options(options)
    tools = {tool.name: tool for tool in Sam4MllmToolkit(sam4mllm=models).get_tools()}
    describe, segment = tools["describe_image_region"], tools["segment_image"]
    boxes: list[tuple[bool, bool]] = []
    results: list[tuple[bool, bool]] = []
    for image, scene, target in iter_objects(options.first):
        (region,) = call_tool(describe, image=image, box=list(target.box))["regions"]
        boxes.append(find_words(region["text"], target))
        result = call_tool(segment, image=image, expression=f"the {target.colour} {target.noun}")
        for region in call_tool(describe, result=result)["regions"]:
            box = Box(*region["box"])
            nearest = max(scene.objects, key=lambda candidate: candidate.box.iou(box))
            results.append(find_words(region["text"], nearest))
        if len(boxes) >= options.objects:
            break
    print(f"boxes:   {format_shares(boxes)}")
    print(f"results: {format_shares(results)}")


if __name__ == "__main__":
    main()
