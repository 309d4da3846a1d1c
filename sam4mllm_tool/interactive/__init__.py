"""Correct a result in conversation, by words and by clicks, without LangChain and without a session.

```python
state = InteractiveState.from_segmentation(models.segment(image, "the ring"))
run = models.start_run(state.size)
refined = models.run(image, refine(run, state, instruction="no, the other one"), run)
refined.state.objects, refined.understood
```

instructions.py reads an instruction, references.py completes it from the expression before, alternatives.py finds what else may
be meant, clicks.py applies clicks by means of mask_candidates.py, refine.py puts these together, and state.py holds the result.
An expression that asks for several objects is split by compound_expression.py and segmented by compound_segmentation.py.
"""

from sam4mllm_tool.interactive.compound_expression import CompoundExpression, split_expression
from sam4mllm_tool.interactive.compound_segmentation import segment_compound
from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.references import complete_expression
from sam4mllm_tool.interactive.refine import RefinementResult, refine
from sam4mllm_tool.interactive.state import InteractiveState, RefineError

__all__ = [
    "CompoundExpression",
    "Instruction",
    "InteractiveState",
    "RefineError",
    "RefinementResult",
    "complete_expression",
    "read_instruction",
    "refine",
    "segment_compound",
    "split_expression",
]
