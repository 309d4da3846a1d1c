"""Measure whether memory grows with the number of images: `python -m tests.benchmarks.memory`.

The embedded pair segments a different image each time, in one process. Its peak after 50 images, when all caches are full, is
compared with its peak after all: the limit is 5 % more.
"""

import argparse
import resource

from sam4mllm_tool import Sam4Mllm
from tests.embedded_world import TEST_SEEDS, draw_scene, name_object

IMAGES, WARM_IMAGES = 1000, 50
SIDES = (512, 384, 640, 512)
"""Of the images in pixels, in turn: images of one size would hide that memory is left in pieces."""
LIMIT = 1.05


def peak_megabytes() -> float:
    """Return the most memory that this process has held, as the operating system counts it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_peaks(images: int) -> tuple[float, float]:
    """Return the peaks in megabytes after the first 50 images and after all."""
    models = Sam4Mllm.load()
    warm = 0.0
    for number in range(images):
        scene = draw_scene(TEST_SEEDS + number, SIDES[number % len(SIDES)])
        models.segment(scene.image, name_object(scene.objects[0]))
        if number + 1 == WARM_IMAGES:
            warm = peak_megabytes()
        if (number + 1) % 50 == 0:
            print(f"{number + 1:6,} images: {peak_megabytes():,.0f} MB", flush=True)
    return warm, peak_megabytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, help="number of images, at least 50")
    arguments = parser.parse_args()
    warm, peak = measure_peaks(max(arguments.images, WARM_IMAGES))
    print(f"peak after {WARM_IMAGES} images {warm:,.0f} MB, after all {peak:,.0f} MB: {peak / warm - 1:+.1%} (limit +5 %)")
    if peak > LIMIT * warm:
        raise SystemExit("memory grows with the number of images")


if __name__ == "__main__":
    main()
