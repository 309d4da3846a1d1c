"""200 images unlike the embedded pair's drawn scenes: photographs and their quarters, noise, textures.

The photographs are those in scikit-image's wheel, so nothing is downloaded; three of its images are of textures (brick, grass,
gravel). scipy's wheel has no image to add: `scipy.datasets` downloads each, and `scipy.misc`, which had two, is gone.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image

from sam4mllm_tool.types import Image

PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png"),
    *("color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "logo.png"),
    *("microaneurysms.png", "moon.png", "motorcycle_left.png", "page.png", "phantom.png", "retina.jpg", "rocket.jpg"),
    *("text.png", "chessboard_GRAY.png"),
)
COUNT = 200
_SIDE = 256
_VARIANTS = 8
"""Of each kind of noise and texture."""


def load_photograph(name: str) -> Image:
    """Load an image of scikit-image's wheel."""
    import skimage

    return PIL.Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def unlike_images() -> Iterator[tuple[str, Image]]:
    """Yield (name, image): 24 photographs, each with its 4 quarters, 40 images of noise and 40 of textures."""
    for name in PHOTOGRAPHS:
        image = load_photograph(name)
        width, height = image.size
        yield name, image
        for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
            box = (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2)
            yield f"{name} {x}{y}", image.crop(box)
    rng = np.random.default_rng(0)
    for variant in range(_VARIANTS):
        yield from ((f"{kind} {variant}", image) for kind, image in _noise(rng, variant))
        yield from ((f"{kind} {variant}", image) for kind, image in _textures(rng, variant))


def _noise(rng: np.random.Generator, variant: int) -> Iterator[tuple[str, Image]]:
    shape = (_SIDE, _SIDE, 3)
    yield "uniform noise", _to_image(rng.integers(0, 256, shape))
    yield "grey noise", _to_image(np.broadcast_to(rng.integers(0, 256, (_SIDE, _SIDE, 1)), shape))
    yield "normal noise", _to_image(rng.normal(128, 10 + 10 * variant, shape))
    cells = 2 ** (variant % 7 + 1)
    small = _to_image(rng.integers(0, 256, (cells, cells, 3)))
    yield "smooth noise", small.resize((_SIDE, _SIDE), PIL.Image.Resampling.BICUBIC)
    yield "salt noise", _to_image(255 * np.broadcast_to(rng.random((_SIDE, _SIDE, 1)) < 0.05 * (variant + 1), shape))


def _textures(rng: np.random.Generator, variant: int) -> Iterator[tuple[str, Image]]:
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    dark, bright = rng.random((2, 3)) * 255
    patterns = {
        "waves": (np.sin(30 * np.hypot(x - rng.random(), y - rng.random())) + 1) / 2,
        "saddle": (np.sin(20 * x * y + variant) + 1) / 2,
        "saw": x * (variant + 4) % 1,
        "bent stripes": np.abs(np.sin(9 * x + 3 * np.sin(7 * y + variant))),
        "vignette": np.hypot(x - 0.5, y - 0.5) * 1.4,
    }
    for kind, pattern in patterns.items():
        yield kind, _to_image(dark + (bright - dark) * pattern[..., None])


def _to_image(pixels: npt.NDArray[np.floating | np.integer]) -> Image:
    return PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
