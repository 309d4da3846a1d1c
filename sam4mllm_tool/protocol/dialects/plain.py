"""Plain instructions that an off-the-shelf model can follow without any tuning."""

from sam4mllm_tool.protocol.dialect import Dialect

PLAIN = Dialect(
    name="plain",
    ask_boxes_text=(
        "Find every object in the picture that this describes: {expression}\n"
        "Answer with the bounding box of each as [x1,y1,x2,y2], where x and y are integers from 0 (left, top) to 999 "
        "(right, bottom) of the picture, separated by spaces, and nothing else. If there is no such object, answer: none"
    ),
    ask_points_text=(
        "Is the point {points} on the object whose bounding box is {box}, rather than on something else inside that box? "
        "Answer Yes or No."
    ),
    ask_prompt_text=(
        "Find every object in the picture that this describes: {expression}\n"
        "For each, answer with its bounding box, {on} points on it and {off} beside it but inside the box, as "
        "[x1,y1,x2,y2] on (x,y) off (x,y), where x and y are integers from 0 (left, top) to 999 (right, bottom) of the "
        "picture, and nothing else. If there is no such object, answer: none"
    ),
    ask_pointing_text=(
        "Point to every object in the picture that this describes: {expression}\n"
        "Answer with one point on each as (x,y), where x and y are integers from 0 (left, top) to 999 (right, bottom) of the "
        "picture, separated by spaces, and nothing else. If there is no such object, answer: none"
    ),
    none_text="none",
    yes="Yes",
    no="No",
    points="each",
    digits=0,
    ask_again_text=(
        "That answer can't be read: {reason}. Answer the question again, and nothing else: a box as [x1,y1,x2,y2] with "
        "integers from 0 to 999, x1 less than x2 and y1 less than y2; a point as (x,y); none if there is no such object; Yes "
        "or No where that is asked."
    ),
    ask_whether_text=(
        "Look at the object in the bounding box {box}. Is it what this describes, or one of those it describes: {expression}\n"
        "Answer Yes or No."
    ),
    ask_other_text=(
        "Leave out what is in {boxes}. Find every other object in the picture that this describes: {expression}\n"
        "Answer with the bounding box of each as [x1,y1,x2,y2], where x and y are integers from 0 (left, top) to 999 "
        "(right, bottom) of the picture, separated by spaces, and nothing else. If there is no other, answer: none"
    ),
)
