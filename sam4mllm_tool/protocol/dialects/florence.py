"""Florence-2: task prompts as its processor spells them out, answers in location tokens, 1000 steps to a side."""

from sam4mllm_tool.protocol.dialects.native import build_native

FLORENCE2 = build_native(
    "florence2",
    answer="",
    frame="steps",
    box_text="<loc_{x1}><loc_{y1}><loc_{x2}><loc_{y2}>",
    point_text="<loc_{x}><loc_{y}>",
    item_text="object{box}",
    separator="",
    none_text="none",
    ask_points_text="",
    ask_boxes_text="Locate {expression} in the image.",
    ask_prompt_text="Locate {expression} in the image.",
    ask_pointing_text="",
    ask_whether_text="",
    ask_other_text="",
    ask_again_text="",
    ask_region_text="What does the region {box} describe?",
)
"""It answers with boxes alone; nothing else can be asked of it."""
