"""Conformance suites for backends of your own: inherit one, make the backend, run pytest.

```py
class TestMyMLLM(MLLMConformance):
    def make_backend(self) -> MLLM:
        return MyMLLM(answer=self.oracle.answer)
```

Neither pytest nor torch is imported here. `run_checks` runs a suite without pytest.
"""

from sam4mllm_tool.testing.conformance_cases import ConformanceCase, draw_conformance_cases
from sam4mllm_tool.testing.mllm_conformance import MLLMConformance
from sam4mllm_tool.testing.prepared_answers import PreparedAnswers
from sam4mllm_tool.testing.running import run_checks
from sam4mllm_tool.testing.segmenter_conformance import SegmenterConformance

__all__ = [
    "ConformanceCase",
    "MLLMConformance",
    "PreparedAnswers",
    "SegmenterConformance",
    "draw_conformance_cases",
    "run_checks",
]
