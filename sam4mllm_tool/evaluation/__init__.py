"""Evaluation with the published benchmarks' metrics, each with its bootstrap interval.

```python
from sam4mllm_tool.evaluation import EvaluationConfig, ModelSpec, evaluate

evaluate(EvaluationConfig("refcoco", "data/coco", split="val", models=ModelSpec("embedded", "embedded")), "out")
```
writes samples.jsonl, metrics.json, report.md and report.html into the folder `out`. metrics.py defines the metrics.
"""

from sam4mllm_tool.evaluation.config import EvaluationConfig, ModelSpec
from sam4mllm_tool.evaluation.metrics import PROTOCOLS
from sam4mllm_tool.evaluation.runner import evaluate

__all__ = ["PROTOCOLS", "EvaluationConfig", "ModelSpec", "evaluate"]
