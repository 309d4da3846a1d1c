"""A drawn world of everyday things with named parts, in which a box often leaves open what is meant."""

from sam4mllm_tool.embedded.everyday.expression_list import list_expressions, sample_expressions
from sam4mllm_tool.embedded.everyday.expression_templates import (
    ABSENT_KINDS,
    KINDS,
    SINGLE_OBJECT_KINDS,
    EverydayKind,
    list_vocabulary,
)
from sam4mllm_tool.embedded.everyday.referring import EverydayExpression
from sam4mllm_tool.embedded.everyday.world import TEST_SEEDS, EverydayObject, EverydayScene, ObjectPart, draw_scene

__all__ = [
    "ABSENT_KINDS",
    "KINDS",
    "SINGLE_OBJECT_KINDS",
    "TEST_SEEDS",
    "EverydayExpression",
    "EverydayKind",
    "EverydayObject",
    "EverydayScene",
    "ObjectPart",
    "draw_scene",
    "list_expressions",
    "list_vocabulary",
    "sample_expressions",
]
