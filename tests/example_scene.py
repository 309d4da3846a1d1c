"""The image of the examples, examples/scene.png, and what the tests call its objects: they change together.

It shows a group of objects of one noun, each of another colour, and an object of another noun.
"""

from pathlib import Path

__all__ = [
    "ABSENT_NAME",
    "ALL",
    "ANY_MEMBER",
    "EXAMPLE_IMAGE",
    "EXPRESSION",
    "GERMAN_NAMES",
    "GROUP",
    "IMPLICIT",
    "MEMBER",
    "MISSPELT",
    "NOUN",
    "OBJECTS",
    "OTHER",
    "PLURAL",
]

EXAMPLE_IMAGE = Path(__file__).parents[1] / "examples" / "scene.png"
OBJECTS = {
    "orange mug": (19, 188, 175, 343),
    "black mug": (107, 35, 259, 190),
    "yellow mug": (95, 127, 312, 315),
    "white mug": (251, 256, 490, 456),
    "black spoon": (374, 135, 438, 353),
}
"""Boxes in pixels, the group from left to right, then the other object."""
NOUN, PLURAL = "mug", "mugs"
*GROUP, OTHER = (f"the {name}" for name in OBJECTS)
EXPRESSION = "the mug with the spoon in it"
"""GROUP[3], as the documentation calls it."""
IMPLICIT = "what you drink your tea from"
MEMBER = GROUP[2]
MISSPELT = "the yelow mug"
"""MEMBER."""
ANY_MEMBER, ALL = f"the {NOUN}", f"all {PLURAL}"
ABSENT_NAME = "the red teapot"
GERMAN_NAMES = {
    EXPRESSION: "die Tasse mit dem Löffel darin",
    OTHER: "den schwarzen Löffel",
    f"{ALL} but not {GROUP[3]}": "alle Tassen, aber nicht die weiße",
}
