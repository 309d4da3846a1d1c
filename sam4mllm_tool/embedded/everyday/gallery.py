"""Contact sheets of the everyday world: every object with its parts, or scenes with expressions and their masks."""

from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sam4mllm_tool.data.contact_sheet import draw_contact_sheet
from sam4mllm_tool.data.jsonl import JsonLines
from sam4mllm_tool.drawn_things.recipe import COLOURS, ObjectRecipe, build_individual, load_recipes, name_part
from sam4mllm_tool.drawn_things.rendering import PATTERNS, Pose, Style, draw_individual
from sam4mllm_tool.embedded.scene_files import write_scenes

_SIDE, _GAP, _COLUMNS, _LETTERS = 128, 14, 6, 13
_PAPER, _DARK, _INK = (250, 250, 248), (38, 38, 42), (24, 24, 28)
_PART_COLOURS = (
    (255, 196, 61),
    (94, 178, 255),
    (255, 122, 122),
    (126, 214, 134),
    (206, 148, 255),
    (255, 168, 92),
    (120, 222, 222),
    (242, 146, 208),
    (212, 216, 120),
)


def draw_objects_sheet(seed: int = 0) -> Image.Image:
    """Draw an individual of every object, beside it its parts in colours, below it their names in the same colours."""
    cells = [_draw_object(recipe, Random(f"gallery-{seed}-{recipe.name}")) for recipe in load_recipes().values()]
    width, height = cells[0].size
    rows = -(-len(cells) // _COLUMNS)
    sheet = Image.new("RGB", (_GAP + _COLUMNS * (width + _GAP), _GAP + rows * (height + _GAP)), _PAPER)
    for number, cell in enumerate(cells):
        row, column = divmod(number, _COLUMNS)
        sheet.paste(cell, (_GAP + column * (width + _GAP), _GAP + row * (height + _GAP)))
    return sheet


def draw_scenes_sheet(count: int, seed: int) -> Image.Image:
    """Draw scenes, each with an expression and the masks that it refers to.

    Args:
        count: How many.
        seed: Of the first scene; the others follow.
    """
    with TemporaryDirectory() as folder:
        path = write_scenes(Path(folder), count, seed, per_scene=1)
        return draw_contact_sheet(list(JsonLines(path, "all")), f"everyday things, scenes {seed} to {seed + count - 1}").image


def _draw_object(recipe: ObjectRecipe, rng: Random) -> Image.Image:
    colour = rng.choice(recipe.colours)
    second = rng.choice([other for other in COLOURS if other not in (colour, "black", "white")])
    pattern = rng.choice(PATTERNS) if recipe.takes_pattern else "plain"
    individual = build_individual(recipe, rng)
    style = Style(colour, second, pattern, outline=1.0, shade=(8, -12), pattern_turn=rng.choice((0, 45, 90)))
    drawing = draw_individual(individual, Pose((0.5, 0.5), 0.9), style, _SIDE)
    pixels = np.full((_SIDE, _SIDE, 3), (226, 228, 224), np.float32)
    pixels[drawing.window] = pixels[drawing.window] * (1 - drawing.coverage[..., None]) + drawing.colour
    names = list(dict.fromkeys(name_part(label) for label in individual.labels))
    colours = np.array([_PART_COLOURS[names.index(name_part(label)) % len(_PART_COLOURS)] for label in individual.labels])
    parts = np.full((_SIDE, _SIDE, 3), _DARK, np.uint8)
    numbers: npt.NDArray[np.uint8] = np.maximum(drawing.parts, drawing.holes)
    parts[drawing.window][numbers > 0] = colours[numbers[numbers > 0] - 1]
    cell = Image.new("RGB", (2 * _SIDE, _SIDE + 4 * _LETTERS), _PAPER)
    cell.paste(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), (0, 0))
    cell.paste(Image.fromarray(parts), (_SIDE, 0))
    _write_names(cell, recipe.name, names)
    return cell


def _write_names(cell: Image.Image, noun: str, parts: list[str]) -> None:
    """Write the noun and its parts, each part on a patch of its colour."""
    draw, font = ImageDraw.Draw(cell), ImageFont.load_default(_LETTERS)
    draw.text((0, _SIDE + 2), noun, _INK, font)
    x, y = 0.0, _SIDE + round(1.4 * _LETTERS) + 2
    for number, part in enumerate(parts):
        width = font.getlength(part) + 8
        if x + width > cell.width:
            x, y = 0.0, y + round(1.4 * _LETTERS)
        draw.rectangle((x, y, x + width - 3, y + round(1.25 * _LETTERS)), fill=_PART_COLOURS[number % len(_PART_COLOURS)])
        draw.text((x + 2, y), part, _INK, font)
        x += width
