"""Correcting a result in conversation, by words and by clicks, without LangChain and without a session.

```python
found, talk = start(models.segment(picture, "the ring")), Talk()
refined = models.run(picture, refine(models.flows, found, talk, instruction="no, the other one"), talk)
refined.found.objects, refined.understood
```
instructions.py reads an instruction, words.py puts it together with what was said before; finding.py finds what else may be
meant; clicking.py does what clicks ask for; refine.py puts them together; found.py is the result and its small state.
"""

from sam4mllm_tool.interactive.instructions import Instruction, read_instruction
from sam4mllm_tool.interactive.references import combine
from sam4mllm_tool.interactive.refine import Refined, refine
from sam4mllm_tool.interactive.state import Found, RefineError, start

__all__ = [
    "Found",
    "Instruction",
    "RefineError",
    "Refined",
    "combine",
    "read_instruction",
    "refine",
    "start",
]
