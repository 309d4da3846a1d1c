"""A short dialect for models that are tuned: all points of a box in one question, coordinates from 0 to 999."""

from sam4mllm_tool.protocol.dialect import Dialect

JOINT = Dialect(
    name="joint",
    ask_boxes_text="Give the bounding box of each object that this describes: {expression}",
    ask_points_text="Is each of these points on the object in {box}? {points}",
    ask_prompt_text="Give the bounding box, {on} points on and {off} points off each object that this describes: {expression}",
    none_text="no such object",
    yes="Yes",
    no="No",
    points="joint",
    ask_again_text=(
        "That answer can't be read: {reason}. Answer the question again, and nothing else: a box as [x1,y1,x2,y2] with "
        "integers from 0 to 999, x1 less than x2 and y1 less than y2; a point as (x,y); no such object if there is none; one "
        "Yes or No for each point where that is asked."
    ),
    ask_whether_text="Is the object in {box} what this describes: {expression}",
    ask_other_text="Not the object in {boxes}. Give the bounding box of each object that this describes: {expression}",
    padded=False,  # as in training
)
