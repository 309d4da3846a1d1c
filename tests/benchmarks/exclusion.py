"""Count how often the right object is left out of "all rings but not the green one", with the embedded pair.

    python -m tests.benchmarks.exclusion             # scenes that the pair was neither trained nor tuned on
    python -m tests.benchmarks.exclusion --first 240000 --scenes 60

Each expression is about objects of one noun and different colours. "Named" excludes one that is there, "absent" a colour that
none of them has.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

from PIL import Image as PILImage

from sam4mllm_tool.drawn_things.recipe import COLOURS
from sam4mllm_tool.embedded import TEST_SEEDS
from sam4mllm_tool.embedded.everyday import EverydayScene, draw_scene
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.interactive import segment_compound
from sam4mllm_tool.types import Size
from tests.benchmarks.pair_options import add_pair_options, read_pair_options


def iter_expressions(scene: EverydayScene, known_colours: Sequence[str]) -> Iterator[tuple[str, str, list[int]]]:
    """Yield kind, expression and the indices of the objects that remain."""
    for noun, plural in sorted({(target.noun, target.plural) for target in scene.objects}):
        members = [index for index, target in enumerate(scene.objects) if target.noun == noun]
        colours = [scene.objects[index].colour for index in members]
        if len(members) > 1 and len(set(colours)) == len(colours):
            absent = next(colour for colour in known_colours if colour not in colours)
            yield "named", f"all {plural} but not the {colours[0]} one", members[1:]
            yield "absent", f"all {plural} but not the {absent} one", members


def main() -> None:
    """Print the share of expressions whose objects are exactly the right ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=TEST_SEEDS, help="seed of the first scene")
    parser.add_argument("--scenes", type=int, default=100, help="number of scenes")
    add_pair_options(parser)
    arguments = parser.parse_args()
    models = read_pair_options(arguments)
    right, total = Counter[str](), Counter[str]()
    for seed in range(arguments.first, arguments.first + arguments.scenes):
        scene = draw_scene(seed)
        image = PILImage.fromarray(scene.image)
        for kind, expression, indices in iter_expressions(scene, tuple(COLOURS)):
            run = models.start_run(Size(*image.size))
            result = models.run(image, segment_compound(run, [expression], "adaptive"), run)
            masks = [segmented.mask for segmented in result.objects]
            is_right = len(masks) == len(indices) and all(
                any(mask_iou(mask, scene.mask(index)) > 0.5 for mask in masks) for index in indices
            )
            right[kind] += is_right
            total[kind] += 1
    for kind, count in total.items():
        print(f"{kind}: {right[kind]} of {count} ({right[kind] / count:.1%})")


if __name__ == "__main__":
    main()
