"""Scenes of the embedded pair's world in which several objects have one noun, so that their colours tell them apart."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import count, pairwise

from PIL import Image as PILImage

from sam4mllm_tool.drawn_things.recipe import COLOURS, load_recipes
from tests.embedded_world import ABSENT, EverydayScene, draw_scene, list_expressions, name_object

__all__ = ["FOUR", "PAIR", "SECOND_PAIR", "THREE", "GroupedScene", "find_grouped_scene"]


@dataclass(frozen=True, eq=False)
class GroupedScene:
    """A scene with a group of objects of one noun, each of another colour.

    Attributes:
        scene: The scene.
        group: Indices of these objects from left to right, clearly apart.
        others: Indices of all other objects.
    """

    scene: EverydayScene
    group: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def single(self) -> int:
        """Index of an object whose noun no other has."""
        nouns = [drawn.noun for drawn in self.scene.objects]
        return next(index for index in self.others if nouns.count(nouns[index]) == 1)

    @property
    def image(self) -> PILImage.Image:
        """The image."""
        return PILImage.fromarray(self.scene.image)

    @property
    def singular(self) -> str:
        """An expression that fits each object of the group, as in "the mug"."""
        return f"the {self.scene.objects[self.group[0]].noun}"

    @property
    def plural(self) -> str:
        """An expression that fits the group, as in "all mugs"."""
        return f"all {self.scene.objects[self.group[0]].plural}"

    @property
    def unused_colour(self) -> str:
        """A colour that no object of the group has."""
        used = {self.scene.objects[index].colour for index in self.group}
        return next(colour for colour in COLOURS if colour not in used)

    @property
    def unused_name(self) -> str:
        """An expression for an object of the group in that colour, which fits nothing."""
        return self.singular.replace("the ", f"the {self.unused_colour} ", 1)

    @property
    def absent(self) -> str:
        """An expression that fits nothing in the scene: of a colour and a noun that no object has."""
        nouns = {drawn.noun for drawn in self.scene.objects}
        candidates = {f"the {colour} {noun}" for colour in COLOURS for noun in load_recipes() if noun not in nouns}
        texts = (expression.text for expression in list_expressions(self.scene) if expression.kind == ABSENT)
        return next(text for text in texts if text in candidates)

    def name(self, index: int) -> str:
        """Return an expression that fits objects[index], as in "the red mug"."""
        return name_object(self.scene.objects[index])

    def colour_name(self, index: int) -> str:
        """Return what tells an object of the group from the others, as in "the red one"."""
        return f"the {self.scene.objects[index].colour} one"


def find_grouped_scene(first: int, size: int, others: int | None = None) -> GroupedScene:
    """Return the first scene of a seed from `first` on that has a group of so many objects.

    Args:
        first: Where the search begins: best where it ends, as each scene takes a while to draw.
        size: Number of objects in the group.
        others: Number of other objects; by default any.
    """
    for seed in count(first):
        scene = draw_scene(seed)
        members: dict[str, list[int]] = defaultdict(list)
        for index, drawn in enumerate(scene.objects):
            members[drawn.noun].append(index)
        for group in members.values():
            rest = tuple(index for index in range(len(scene.objects)) if index not in group)
            if len(group) == size == len({scene.objects[index].colour for index in group}) and others in (None, len(rest)):
                middles = {index: scene.objects[index].box.center.x for index in group}
                ordered = tuple(sorted(group, key=middles.__getitem__))
                if all(middles[right] - middles[left] >= _APART for left, right in pairwise(ordered)):
                    return GroupedScene(scene, ordered, rest)
    raise AssertionError("there are always more seeds")


_APART = 10  # pixels

PAIR = find_grouped_scene(240_095, size=2, others=1)
SECOND_PAIR = find_grouped_scene(240_035, size=2, others=1)
THREE = find_grouped_scene(240_192, size=3)
FOUR = find_grouped_scene(300_040, size=4)
