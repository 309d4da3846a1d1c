"""The published adapter's wire format, word for word, as its data converter writes it."""

from sam4mllm_tool.protocol.dialect import Dialect

RELEASED = Dialect(
    name="released",
    system=(
        "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
        "provides, and assist the user with a variety of tasks using natural language."
    ),
    ask_boxes_text=('Please provide the bounding box coordinate of the region this sentence describes (0+):\n"{expression}".'),
    ask_points_text="Check if the points listed below are located on the object with bounding box {box}:\n{points}",
    # PPG exists in the paper alone; this wording is ours.
    ask_prompt_text=(
        "Please provide the bounding box coordinate, {on} points on and {off} points off the region this sentence "
        'describes (0+):\n"{expression}".'
    ),
    none_text="No object found.",
    yes="Yes",
    no="No",
    points="joint",
    answer_start="\n",
    padded=False,  # as in training
)
