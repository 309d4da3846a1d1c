"""Plain instructions that an off-the-shelf model can follow without any tuning.

What the questions about an image have in common comes first, and what differs last: that much is read once, here and by the
prefix caches of servers.
"""

from sam4mllm_tool.protocol.dialect import Dialect

_UNITS = "where x and y are integers from 0 (left, top) to 999 (right, bottom) of the image"
_NONE = "and nothing else. If there is no such object, answer: none\nDescription: {expression}"
_ASK_BOXES = (
    "Find every object in the image that the description below fits. Answer with the bounding box of each as [x1,y1,x2,y2], "
    f"{_UNITS}, separated by spaces, {_NONE}"
)

PLAIN = Dialect(
    name="plain",
    ask_boxes_text=_ASK_BOXES,
    ask_points_text=(
        "Look at the object in the bounding box below. Is the point below on that object, rather than on something else "
        "inside the box? Answer Yes or No. The bounding box: {box}. The point: {points}"
    ),
    ask_prompt_text=(
        "Find every object in the image that the description below fits. For each, answer with its bounding box, {on} points "
        "on it and {off} beside it but inside the box, as [x1,y1,x2,y2] on (x,y) off (x,y), "
        f"{_UNITS}, {_NONE}"
    ),
    ask_pointing_text=(
        "Point to every object in the image that the description below fits. Answer with one point on each as (x,y), "
        f"{_UNITS}, separated by spaces, {_NONE}"
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
        "Is the object in the bounding box below what this describes, or one of those it describes: {expression}\n"
        "Answer Yes or No. The bounding box: {box}"
    ),
    ask_other_text=_ASK_BOXES + "\nLeave out what is in {boxes}. If there is no other, answer: none",
)
