"""Backgrounds of the everyday world, from plain to cluttered."""

import math
from collections.abc import Callable
from random import Random

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

FloatImage = npt.NDArray[np.float32]
_Grid = tuple[FloatImage, FloatImage]
"""x, (1, side), and y, (side, 1), in units of the side: what depends on one of them alone is computed once."""

_TINTS = ((222, 214, 198), (198, 208, 214), (206, 214, 196), (214, 200, 206), (176, 186, 192), (160, 150, 138), (120, 132, 142))
_WOODS = ((196, 158, 112), (168, 126, 84), (214, 186, 146), (142, 108, 78))
_GRASS = (126, 172, 88)
_SKY = (176, 212, 240)


def draw_background(rng: Random, noise: np.random.Generator, side: int) -> FloatImage:
    """Draw one of the backgrounds with grain, (side, side, 3) in about [0, 255]."""
    axis: FloatImage = ((np.arange(side) + 0.5) / side).astype(np.float32)
    image = np.zeros((side, side, 3), np.float32)
    image += rng.choice(_KINDS)(rng, noise, (axis[None, :], axis[:, None]))
    image += noise.standard_normal((side, side, 1), np.float32) * np.float32(rng.uniform(1, 4))
    return image


def _plain(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:  # noqa: ARG001 - one signature for all
    x, y = grid
    angle, depth = rng.uniform(0, 2 * math.pi), rng.uniform(4, 22)
    slope: FloatImage = math.cos(angle) * (x - 0.5) + math.sin(angle) * (y - 0.5)
    image: FloatImage = _tint(rng) + (depth * slope)[..., None]
    return image


def _clouded(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    return _tint(rng) + (_blotches(noise, grid[0].size, rng.randint(3, 12)) * rng.uniform(6, 18))[..., None]


def _boards(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    x, y = grid
    count = rng.randint(4, 8)
    row = np.floor(y * count).astype(int)
    tone = noise.normal(0, 9, count).astype(np.float32)[row]
    offset = noise.uniform(0, 1, count).astype(np.float32)[row]
    bend = np.sin(np.float32(2 * math.pi) * (x * np.float32(1.3) + offset)) * np.float32(0.6 * math.pi)
    wave = np.sin(y * np.float32(6 * math.pi * count) + bend) * np.float32(3.5)
    gap = (np.abs(y * count - np.round(y * count)) < 0.03) | (np.abs((x + offset) % np.float32(0.7) - 0.35) < 0.003)
    shade = tone + wave - np.float32(34) * gap
    image: FloatImage = np.array(rng.choice(_WOODS), np.float32) + (shade if rng.random() < 0.7 else shade.T)[..., None]
    return image


def _tiles(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    x, y = grid
    count = rng.randint(3, 8)
    tone = noise.normal(0, 7, (count, count)).astype(np.float32)
    if rng.random() < 0.5:
        tone += 14 * (np.indices((count, count)).sum(0) % 2 * 2 - 1)
    columns, rows = np.floor(x * count).astype(int), np.floor(y * count).astype(int)
    joint = (np.abs(x * count - np.round(x * count)) < 0.03) | (np.abs(y * count - np.round(y * count)) < 0.03)
    image: FloatImage = _tint(rng) + (tone[rows, columns] - np.float32(26) * joint)[..., None]
    return image


def _meadow(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    """Sky over grass, with a horizon of hills."""
    x, y = grid
    side = x.size
    horizon = rng.uniform(0.25, 0.6) + 0.05 * np.sin(2 * math.pi * (x * rng.uniform(0.6, 1.6) + rng.random()))
    grass = (y > horizon)[..., None]
    blades = _blotches(noise, side, 40) * 9 + _blotches(noise, side, 6) * 8
    sky = np.array(_SKY, np.float32) + (y * 40 + _blotches(noise, side, 5) * 8)[..., None]
    return np.where(grass, np.array(_GRASS, np.float32) + (blades - 30 * (y - 0.5))[..., None], sky)


def _lawn(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    side = grid[0].size
    shade = _blotches(noise, side, 60) * 12 + _blotches(noise, side, rng.randint(4, 9)) * 9
    return np.array(_GRASS, np.float32) + shade[..., None] * np.array((0.8, 1.0, 0.6), np.float32)


def _room(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    """A wall with or without stripes over a floor."""
    x, y = grid
    wall = _tint(rng) + np.zeros((x.size, x.size, 1), np.float32)
    if rng.random() < 0.5:
        wall = wall + (8 * np.sign(np.sin(2 * math.pi * x * rng.randint(5, 14))))[..., None]
    edge = rng.uniform(0.6, 0.8)
    skirting = ((y > edge - 0.02) & (y <= edge))[..., None]
    return np.where((y > edge)[..., None], _boards(rng, noise, grid), np.where(skirting, wall + 24, wall))


def _cluttered(rng: Random, noise: np.random.Generator, grid: _Grid) -> FloatImage:
    """Dull, faint shapes that are nothing in particular."""
    side = grid[0].size
    tint = _tint(rng)
    canvas = Image.new("RGB", (side, side), tuple(int(value) for value in tint))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(12, 40)):
        fill = tuple(int(value + rng.gauss(0, 16)) for value in tint)
        x, y, r = rng.uniform(-0.1, 1.1), rng.uniform(-0.1, 1.1), rng.uniform(0.02, 0.14)
        if rng.random() < 0.4:
            draw.ellipse(
                [side * v for v in (x - r, y - r * rng.uniform(0.4, 1), x + r, y + r * rng.uniform(0.4, 1))], fill=fill
            )
            continue
        angles = sorted(rng.uniform(0, 2 * math.pi) for _ in range(rng.randint(3, 6)))
        draw.polygon([((x + r * math.cos(a)) * side, (y + r * math.sin(a)) * side) for a in angles], fill=fill)
    return np.asarray(canvas, np.float32) + (_blotches(noise, side, 5) * 6)[..., None]


_KINDS: tuple[Callable[[Random, np.random.Generator, _Grid], FloatImage], ...] = (
    _plain,
    _clouded,
    _boards,
    _tiles,
    _meadow,
    _lawn,
    _room,
    _cluttered,
)


def _tint(rng: Random) -> FloatImage:
    return np.array(rng.choice(_TINTS), np.float32) + np.array([rng.uniform(-14, 14) for _ in range(3)], np.float32)


def _blotches(noise: np.random.Generator, side: int, count: int) -> FloatImage:
    """Return smooth noise with `count` blotches a side, deviation about 1."""
    coarse = Image.fromarray(noise.normal(0, 1, (count, count)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR))
