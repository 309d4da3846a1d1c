"""What each patch of a training scene shows: the dense targets of the vision stage, and where answers are visible.

A patch is about one object, the one that covers most of it, and about one part of that object. Of several parts in a patch it
is the one of which the patch shows the greatest share: large parts have other patches, and small ones would have none.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recipes.embedded.architecture import CELLS, GRID, NOUNS, PARTS, RANKS, RELATION_FLAGS
from recipes.embedded.processes import first_process_first
from recipes.embedded.scene_cache import SIDE, SceneCache, SceneRecord
from sam4mllm_tool.atomic_io import atomic_path
from sam4mllm_tool.drawn_things.recipe import COLOURS
from sam4mllm_tool.drawn_things.rendering import PATTERNS
from sam4mllm_tool.embedded.everyday import EverydayObject

MAX_OBJECTS, MAX_PARTS = 10, 48
_CONVERSES = {"on": "under", "in": "around", "behind": "in front of"}
_NOUN_INDEX = {noun: i for i, noun in enumerate(NOUNS)}
_PART_INDEX = {part: i for i, part in enumerate(PARTS)}
_COLOUR_INDEX = {colour: i for i, colour in enumerate(COLOURS)}


@dataclass(frozen=True)
class PatchTargets:
    """The dense targets of n scenes, for p patches of c cells each.

    Attributes:
        owner: (n, p) int8, the object that the patch is about, -1 for none.
        part: (n, p) int8, the part of that object, an index into the scene's object_parts; -1 for none.
        cells: (n, p, c) uint8, the share of each cell that the object covers, from 0 to 255.
        part_cells: (n, p, c) uint8, the same for the part.
        looks: (n, 10, 3) int8, noun, colour and pattern of each object.
        ranks: (n, 10, 4) int8, rank from the left, right, top and bottom among the objects of the same noun.
        flags: (n, 10, 8) bool, see `RELATION_FLAGS`.
        boxes: (n, 10, 4) float16, of the objects, in units of the image's side.
        names: (n, 48) int8, name of each part.
        part_boxes: (n, 48, 4) float16, like `boxes`.
    """

    owner: Tensor
    part: Tensor
    cells: Tensor
    part_cells: Tensor
    looks: Tensor
    ranks: Tensor
    flags: Tensor
    boxes: Tensor
    names: Tensor
    part_boxes: Tensor

    def select(self, index: Tensor) -> "PatchTargets":
        """Return the targets of some of the scenes."""
        return PatchTargets(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device) -> "PatchTargets":
        """Return the targets on a device."""
        return PatchTargets(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def encode_region(index: int, objects: int) -> int:
    """Encode regions[index] of a scene with so many objects as an image target: parts start at MAX_OBJECTS."""
    return index if index < objects else MAX_OBJECTS + index - objects


def compute_targets(cache: SceneCache, folder: Path) -> PatchTargets:
    """Compute the dense targets of all scenes, or load them from the working folder."""
    file = folder / f"targets-{cache.first}-{len(cache)}.pt"
    with first_process_first():
        if not file.exists():
            scenes = [_compute_scene(cache, i) for i in tqdm(range(len(cache)), desc="targets", mininterval=10)]
            arrays = {name: torch.from_numpy(np.stack([scene[name] for scene in scenes])) for name in scenes[0]}
            with atomic_path(file) as part_file:
                torch.save(arrays, part_file)
    return PatchTargets(**torch.load(file, weights_only=True))


def _compute_scene(cache: SceneCache, index: int) -> dict[str, np.ndarray]:
    record = cache.records[index]
    objects, parts, row = record.objects, record.object_parts, np.array([index])
    by_object = _count_cells(cache.load("instances", row)[0])[1:]
    by_number = _count_cells(cache.load("parts", row)[0])
    by_part = by_number[[part.number for part in parts]]
    owner, part = _choose_regions(record, by_object.sum(2), by_part.sum(2))
    patches = np.arange(GRID**2)
    numbers = {
        "looks": [(_NOUN_INDEX[o.noun], _COLOUR_INDEX[o.colour], PATTERNS.index(o.pattern)) for o in objects],
        "ranks": _rank_objects(objects),
        "flags": _flag_relations(record),
        "boxes": np.array([o.box for o in objects]) / SIDE,
        "names": [_PART_INDEX[p.name] for p in parts],
        "part_boxes": np.array([p.box for p in parts]) / SIDE,
    }
    types = {"flags": np.bool_, "boxes": np.float16, "part_boxes": np.float16}
    padded = {
        name: _pad(
            np.array(values).astype(types.get(name, np.int8)), MAX_PARTS if "part" in name or name == "names" else MAX_OBJECTS
        )
        for name, values in numbers.items()
    }
    return padded | {
        "owner": owner.astype(np.int8),
        "part": part.astype(np.int8),
        "cells": _to_shares(by_object[owner, patches] * (owner >= 0)[:, None]),
        "part_cells": _to_shares(by_part[part, patches] * (part >= 0)[:, None]),
    }


def _pad(values: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([values, np.zeros((length - len(values), *values.shape[1:]), values.dtype)])


def _index_cells() -> np.ndarray:
    """Return (256, 256): the cell of every pixel, those of a patch one after another, the patches row by row."""
    fine = (np.arange(SIDE) + 0.5) * GRID * CELLS / SIDE
    patch, cell = fine.astype(int) // CELLS, fine.astype(int) % CELLS
    return ((patch[:, None] * GRID + patch) * CELLS + cell[:, None]) * CELLS + cell


_CELL = _index_cells()
_CELL_AREAS = np.bincount(_CELL.ravel()).reshape(-1, CELLS**2)
_PATCH_AREA = (SIDE / GRID) ** 2


def _count_cells(labels: np.ndarray) -> np.ndarray:
    """Return (labels, patches, cells): the pixels of each label in each cell."""
    count = max(MAX_OBJECTS, int(labels.max())) + 1
    counts = np.bincount((_CELL * count + labels).ravel(), minlength=_CELL_AREAS.size * count)
    return counts.reshape(GRID**2, CELLS**2, count).transpose(2, 0, 1)


def _to_shares(counts: np.ndarray) -> np.ndarray:
    return (counts * 255 // _CELL_AREAS).astype(np.uint8)


def _choose_regions(record: SceneRecord, by_object: np.ndarray, by_part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return per patch the object and the part that it is about, -1 for none; arguments are (regions, patches) in pixels."""
    owners = np.array([part.owner for part in record.object_parts])
    holes = np.array([part.is_hole for part in record.object_parts])[:, None]
    through_holes = np.zeros_like(by_object)  # a hole counts where nothing else is to be seen
    np.add.at(through_holes, owners, by_part * holes)
    covered = np.where((by_object > 0.02 * _PATCH_AREA).any(0), by_object, through_holes)
    owner = np.where(covered.max(0) > 0.02 * _PATCH_AREA, covered.argmax(0), -1)
    totals = by_part.sum(1, keepdims=True)
    counts = (by_part >= np.minimum(0.04 * _PATCH_AREA, 0.5 * totals)) & (by_part > 0) & (owners[:, None] == owner)
    shares = np.where(counts, by_part / np.maximum(totals, 1), 0)
    return owner, np.where(shares.max(0) > 0, shares.argmax(0), -1)


def _rank_objects(objects: tuple[EverydayObject, ...]) -> np.ndarray:
    """Return (n, 4): each object's rank from left, right, top and bottom among those of its noun."""
    extents = np.array([(x, -x, y, -y) for x, y in (o.centre for o in objects)])
    nouns = np.array([o.noun for o in objects])
    same = nouns[:, None] == nouns[None]
    ranks = (same[:, :, None] & (extents[None] < extents[:, None])).sum(1)
    return np.minimum(ranks, RANKS - 1)


def _flag_relations(record: SceneRecord) -> np.ndarray:
    """Return (n, 8) bool: which of `RELATION_FLAGS` each object is to any other."""
    flags = np.zeros((len(record.objects), len(RELATION_FLAGS)), np.bool_)
    for (i, relation, j), holds in record.relations.items():
        if holds:
            flags[i, RELATION_FLAGS.index(relation)] = True
            if relation in _CONVERSES:
                flags[j, RELATION_FLAGS.index(_CONVERSES[relation])] = True
    return flags
