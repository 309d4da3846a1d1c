"""The training scenes, drawn once and cached as memory-mapped arrays.

Stages read thousands of scenes a minute and drawing one takes 5 ms, so every scene is drawn once, on all cores, and kept at the
two resolutions of the models. Scenes are written in chunks, each atomically, so that an interruption loses one chunk at most.
"""

import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, SceneObject, draw_scene

MLLM_SIDE = 192
SAM_SIDE = 160
SIDE = 256
"""Side of the drawn image, from which both models' inputs are resized as their processors do."""

_CHUNK = 1000
_SHAPES = {"mllm": (MLLM_SIDE, MLLM_SIDE, 3), "sam": (SAM_SIDE, SAM_SIDE, 3), "instances": (SIDE, SIDE)}


def _draw_chunk(folder: Path, first: int) -> None:
    objects_file = folder / f"objects-{first:06d}.pkl"  # written last, so a chunk that has it is complete
    if objects_file.exists():
        return
    scenes = [draw_scene(seed, SIDE) for seed in range(first, first + _CHUNK)]
    for name, shape in _SHAPES.items():
        array = np.empty((_CHUNK, *shape), np.uint8)
        for row, scene in enumerate(scenes):
            array[row] = scene.instances if name == "instances" else _resize(scene.image, shape[0])
        np.save(folder / f"{name}-{first:06d}.npy", array)
    write_bytes(objects_file, pickle.dumps([scene.objects for scene in scenes]))


def _resize(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Resize as the image processors do: bicubic for the MLLM's, bilinear for SAM's."""
    method = Image.Resampling.BICUBIC if side == MLLM_SIDE else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize((side, side), method))


class SceneCache:
    """`count` training scenes from seed `first` on, drawn into `folder` if they are not there yet.

    Raises:
        ValueError: Some of the seeds are of the test split, or `first` or `count` is not a multiple of 1000.
    """

    def __init__(self, folder: Path, count: int, first: int = 0) -> None:
        if first + count > TEST_SEEDS:
            raise ValueError(f"seeds from {TEST_SEEDS} on are the test split; got {first} to {first + count - 1}")
        if count % _CHUNK or first % _CHUNK:
            raise ValueError(f"scenes are cached {_CHUNK} at a time; got first={first}, count={count}")
        folder.mkdir(parents=True, exist_ok=True)
        self.first, self.count = first, count
        self._folder, self._starts = folder, range(first, first + count, _CHUNK)
        with ProcessPoolExecutor() as pool:
            chunks = pool.map(_draw_chunk, [folder] * len(self._starts), self._starts)
            list(tqdm(chunks, total=len(self._starts), desc="drawing", unit="k scenes"))
        self._chunks = {
            name: [np.load(folder / f"{name}-{s:06d}.npy", mmap_mode="r") for s in self._starts] for name in _SHAPES
        }

    def __len__(self) -> int:
        return self.count

    @cached_property
    def objects(self) -> list[tuple[SceneObject, ...]]:
        """The objects of every scene."""
        files = (self._folder / f"objects-{start:06d}.pkl" for start in self._starts)
        return [objects for file in files for objects in pickle.loads(file.read_bytes())]

    def load(self, name: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Load scenes from the array `mllm` or `sam`, (n, side, side, 3) uint8, or `instances`, (n, 256, 256) uint8."""
        return np.stack([self._chunks[name][i // _CHUNK][i % _CHUNK] for i in indices])

    def scene(self, index: int) -> Scene:
        """Return the scene without its image, which is enough for its expressions and masks."""
        blank = np.zeros((0, 0, 3), np.uint8)
        return Scene(self.first + index, blank, self.load("instances", np.array([index]))[0], self.objects[index])
