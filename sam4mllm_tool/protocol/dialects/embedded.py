"""The dialect of the embedded pair: one point per question, coordinates in 192 steps."""

from sam4mllm_tool.protocol.dialect import Dialect

EMBEDDED = Dialect(
    name="embedded",
    ask_boxes_text="Give the bounding box of each object that this describes: {expression}",
    ask_points_text="Is this point on the object in {box}? {points}",
    ask_prompt_text=("Give the bounding box, {on} points on and {off} point off each object that this describes: {expression}"),
    none_text="no object",
    yes="yes",
    no="no",
    points="each",
    scale=192,
    box_text="[{x1} {y1} {x2} {y2}]",
    point_text="({x} {y})",
    max_tokens=96,
    ask_whether_text="Is the object in {box} what this describes: {expression}",
    ask_other_text="Not the object in {boxes}. Give the bounding box of each object that this describes: {expression}",
    ask_region_text="what is at {point}",  # the base was taught it, and the adapter keeps it
    padded=False,  # as in training
)
