"""The training scenes, drawn once and cached as memory-mapped arrays.

Stages read each scene many times and drawing one takes 30 ms, so every scene is drawn once, and its image is kept at the size
that both models see. Scenes are written in chunks, each atomically, so that an interruption loses one chunk at most; a later
run continues after the last chunk. A scene takes 280 KB.
"""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from recipes.embedded.architecture import INPUT_SIDE
from sam4mllm_tool.atomic_io import write_bytes
from sam4mllm_tool.embedded.everyday import TEST_SEEDS, EverydayObject, EverydayScene, ObjectPart, draw_scene
from sam4mllm_tool.embedded.everyday.relations import Relations

SIDE = 256
"""Side of the drawn image and of its masks; the models' input is resized from it as their processors do."""

HELD_OUT = 500
"""Scenes at the end of the cache that are not trained on; of a small cache, a quarter."""
_NAMES = ("image", "instances", "parts")


@dataclass(frozen=True)
class SceneRecord:
    """What is known about a scene besides its pixels; see `EverydayScene`."""

    objects: tuple[EverydayObject, ...]
    object_parts: tuple[ObjectPart, ...]
    clipped: frozenset[tuple[int, str]]
    relations: Relations


def _draw_chunk(folder: Path, first: int, size: int) -> None:
    records_file = folder / f"records-{first:06d}.pkl"  # written last, so a chunk that has it is complete
    if records_file.exists():
        return
    scenes = [draw_scene(seed, SIDE) for seed in range(first, first + size)]
    for name in _NAMES:
        arrays = [_resize(scene.image) if name == "image" else getattr(scene, name) for scene in scenes]
        np.save(folder / f"{name}-{first:06d}.npy", np.stack(arrays))
    records = [SceneRecord(scene.objects, scene.object_parts, scene.clipped, scene.relations) for scene in scenes]
    write_bytes(records_file, pickle.dumps(records))


def _resize(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((INPUT_SIDE, INPUT_SIDE), Image.Resampling.BICUBIC))


class SceneCache:
    """`count` training scenes from seed `first` on, drawn into `folder` if they are not there yet.

    Args:
        folder: Where the files of the scenes are.
        count: Number of scenes.
        first: The first seed.
        chunk: Scenes per file.

    Raises:
        ValueError: Some of the seeds are of the test split, or `first` or `count` is not a multiple of `chunk`.
    """

    def __init__(self, folder: Path, count: int, first: int = 0, chunk: int = 500) -> None:
        if first + count > TEST_SEEDS:
            raise ValueError(f"seeds from {TEST_SEEDS} on are the test split; got {first} to {first + count - 1}")
        if count % chunk or first % chunk:
            raise ValueError(f"scenes are cached {chunk} at a time; got first={first}, count={count}")
        folder.mkdir(parents=True, exist_ok=True)
        self.first, self.count = first, count
        self._folder, self._chunk, self._starts = folder, chunk, range(first, first + count, chunk)
        self._draw_missing()
        self._chunks = {name: [np.load(folder / f"{name}-{s:06d}.npy", mmap_mode="r") for s in self._starts] for name in _NAMES}

    def _draw_missing(self) -> None:
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            chunks = pool.map(_draw_chunk, [self._folder] * len(self._starts), self._starts, [self._chunk] * len(self._starts))
            list(tqdm(chunks, total=len(self._starts), desc="drawing", unit="chunk", mininterval=10))

    def __len__(self) -> int:
        return self.count

    @property
    def trained_on(self) -> int:
        """How many scenes, from the first one on, may be trained on."""
        return max(self.count - HELD_OUT, self.count * 3 // 4)

    def held_out(self, count: int) -> Tensor:
        """Return the indices of up to `count` of the other scenes."""
        return torch.arange(max(self.trained_on, self.count - count), self.count)

    @cached_property
    def records(self) -> list[SceneRecord]:
        """What is known about every scene besides its pixels."""
        files = (self._folder / f"records-{start:06d}.pkl" for start in self._starts)
        return [record for file in files for record in pickle.loads(file.read_bytes())]

    def load(self, name: str, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Load from the array `image`, (n, 224, 224, 3) uint8, `instances` or `parts`, (n, 256, 256) uint8."""
        return np.stack([self._chunks[name][i // self._chunk][i % self._chunk] for i in indices])

    def load_pixels(self, indices: Tensor) -> Tensor:
        """Load images as the models' image processors prepare them, (n, 3, 224, 224) in [-1, 1]."""
        return torch.from_numpy(self.load("image", indices.numpy())).permute(0, 3, 1, 2).float() / 127.5 - 1

    def scene(self, index: int) -> EverydayScene:
        """Return the scene without its image, which is enough for its expressions and masks."""
        row = np.array([index])
        record, blank = self.records[index], np.zeros((0, 0, 3), np.uint8)
        return EverydayScene(
            self.first + index,
            blank,
            self.load("instances", row)[0],
            self.load("parts", row)[0],
            record.objects,
            record.object_parts,
            record.clipped,
            record.relations,
        )
