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
    "orange ring": (33, 209, 137, 311),
    "blue ring": (87, 129, 185, 228),
    "green ring": (225, 316, 329, 417),
    "purple ring": (399, 89, 497, 193),
    "orange circle": (388, 241, 492, 348),
}
"""Boxes in pixels, the group from left to right, then the other object."""
NOUN, PLURAL = "ring", "rings"
*GROUP, OTHER = (f"the {name}" for name in OBJECTS)
EXPRESSION = "the ring below the orange circle"
"""GROUP[2], as the documentation calls it."""
IMPLICIT = "what you could wear on a finger"
MEMBER = GROUP[3]
MISSPELT = "the prple rign"
"""MEMBER."""
ANY_MEMBER, ALL = f"the {NOUN}", f"all {PLURAL}"
ABSENT_NAME = "the red star"
GERMAN_NAMES = {
    EXPRESSION: "den Ring unter dem orangen Kreis",
    OTHER: "den orangen Kreis",
    f"{ALL} but not {GROUP[2]}": "alle Ringe, aber nicht den grünen",
}
