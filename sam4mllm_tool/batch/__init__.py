"""Segment millions of rows, each an image and an expression: planned once, worked off by shard, resumed after any kill.

```python
from sam4mllm_tool.batch import BatchConfig, RowInput, run_job

run_job(BatchConfig(input=RowInput("rows.jsonl"), output="results"))
```
The input is read once into a plan (`plan`): a line per row that says where its image is. A shard is a fixed range of the plan's
rows, and its file has a fixed name. A worker (`shard_worker`) reads a shard's rows, segments them, writes the file beside its
place and renames it; so a shard is there as a whole or not at all, whoever works on it and however often. An engine hands
shards to workers: `local` to the one in this process, `ray` to a pool of actors (`ray_engine`).
"""

from sam4mllm_tool.batch.batch_config import BatchConfig
from sam4mllm_tool.batch.job import BatchSummary, run_job
from sam4mllm_tool.batch.row_inputs import RowInput

__all__ = ["BatchConfig", "BatchSummary", "RowInput", "run_job"]
