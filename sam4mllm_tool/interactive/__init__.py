"""Correct a result in conversation, by words and by clicks, without LangChain and without a session.

```python
state = InteractiveState.from_segmentation(models.segment(image, "the mug"))
run = models.start_run(state.size)
refined = models.run(image, refine(run, state, instruction="no, the other one"), run)
refined.state.objects, refined.understood
```

instructions.py reads an instruction, with the numbers in it (number_references.py), and protocol/references.py completes it
from the expression before. number_selection.py, described_objects.py, object_alternatives.py and mask_sizes.py carry it out;
other_objects.py finds what else may be meant. clicks.py applies clicks by means of mask_candidates.py. refine.py puts these
together, number_listing.py puts numbers into words, and state.py holds the result.

An expression that asks for several objects is split by compound_expression.py and segmented by compound_segmentation.py.
"""

from sam4mllm_tool.interactive.compound_expression import CompoundExpression, split_expression
from sam4mllm_tool.interactive.compound_segmentation import segment_compound
from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.interactive_objects import InteractiveObject, ObjectCandidate
from sam4mllm_tool.interactive.number_listing import list_choices, list_left_out
from sam4mllm_tool.interactive.object_alternatives import find_choices
from sam4mllm_tool.interactive.refine import RefinementResult, refine
from sam4mllm_tool.interactive.state import InteractiveState, RefineError
from sam4mllm_tool.protocol.references import complete_expression

__all__ = [
    "CompoundExpression",
    "Instruction",
    "InteractiveObject",
    "InteractiveState",
    "ObjectCandidate",
    "RefineError",
    "RefinementResult",
    "complete_expression",
    "find_choices",
    "list_choices",
    "list_left_out",
    "read_instruction",
    "refine",
    "segment_compound",
    "split_expression",
]
