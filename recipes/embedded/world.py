"""The training scenes, drawn once and cached as memory-mapped arrays.

Stages read a scene thousands of times a minute, drawing takes 5 ms: so every scene is drawn once, by all cores, and kept at
the two resolutions that the models see. Written in chunks, beside and then renamed, so that a cut loses a chunk at most.
"""

import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, SceneObject, draw_scene

MLLM_SIDE = 192
SAM_SIDE = 160
SIDE = 256
"""Side of the drawn picture, from which both models' inputs are resized as their processors do."""

_CHUNK = 1000
_ARRAYS = {"mllm": (MLLM_SIDE, MLLM_SIDE, 3), "sam": (SAM_SIDE, SAM_SIDE, 3), "instances": (SIDE, SIDE)}


def _draw_chunk(folder: Path, first: int) -> None:
    done = folder / f"objects-{first:06d}.pkl"
    if done.exists():
        return
    scenes = [draw_scene(seed, SIDE) for seed in range(first, first + _CHUNK)]
    for name, shape in _ARRAYS.items():
        array = np.empty((_CHUNK, *shape), np.uint8)
        for row, scene in enumerate(scenes):
            array[row] = scene.instances if name == "instances" else resized(scene.image, shape[0])
        np.save(folder / f"{name}-{first:06d}.npy", array)
    beside = done.with_suffix(".tmp")
    beside.write_bytes(pickle.dumps([scene.objects for scene in scenes]))
    beside.replace(done)


def resized(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """As the image processors resize: bicubic for the MLLM's, bilinear for SAM's."""
    how = Image.Resampling.BICUBIC if side == MLLM_SIDE else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((side, side), how))


class World:
    """`count` training scenes from seed `first` on, drawn into `folder` if they are not there yet."""

    def __init__(self, folder: Path, count: int, first: int = 0) -> None:
        if first + count > TEST_SEEDS:
            raise ValueError(f"seeds from {TEST_SEEDS} on are the test split; asked for {first} to {first + count - 1}")
        if count % _CHUNK or first % _CHUNK:
            raise ValueError(f"scenes are cached {_CHUNK} at a time; got first={first}, count={count}")
        folder.mkdir(parents=True, exist_ok=True)
        self.first, self.count = first, count
        starts = range(first, first + count, _CHUNK)
        with ProcessPoolExecutor() as pool:
            list(
                tqdm(pool.map(_draw_chunk, [folder] * len(starts), starts), total=len(starts), desc="drawing", unit="k scenes")
            )
        self._folder, self._starts = folder, starts
        self._chunks = {name: [np.load(folder / f"{name}-{s:06d}.npy", mmap_mode="r") for s in starts] for name in _ARRAYS}

    def __len__(self) -> int:
        return self.count

    @cached_property
    def objects(self) -> list[tuple[SceneObject, ...]]:
        return [objects for s in self._starts for objects in pickle.loads((self._folder / f"objects-{s:06d}.pkl").read_bytes())]

    def rows(self, name: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Rows of the array `mllm`, `sam` (n, side, side, 3) or `instances` (n, 256, 256), uint8."""
        return np.stack([self._chunks[name][i // _CHUNK][i % _CHUNK] for i in indices])

    def scene(self, index: int) -> Scene:
        """The scene without its picture, enough for its expressions and masks."""
        blank = np.zeros((0, 0, 3), np.uint8)
        return Scene(self.first + index, blank, self.rows("instances", np.array([index]))[0], self.objects[index])
