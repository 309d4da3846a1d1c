"""PaliGemma and PaliGemma 2: task prompts, answers in location tokens with y first, 1024 steps to a side."""

from sam4mllm_tool.protocol.dialects.native import build_native

PALIGEMMA = build_native(
    "paligemma",
    answer="",
    frame="steps",
    scale=1024,
    digits=4,
    box_text="<loc{y1}><loc{x1}><loc{y2}><loc{x2}>",
    point_text="<loc{y}><loc{x}>",
    item_text="{box} object",
    separator=" ; ",
    none_text="none",
    yes="yes",
    no="no",
    ask_boxes_text="detect {expression}",
    ask_points_text="answer en is the object in {box} at the point {points}?",
    ask_prompt_text="detect {expression}",
    ask_pointing_text="",
    ask_whether_text="answer en is this, {expression}, the object in {box}?",
    ask_other_text="",
    ask_again_text="",
    ask_region_text="answer en what is in {box}?",
)
"""It knows tasks, not instructions: it can't be asked for points, for other objects, or to correct itself."""
