"""A run as one file: recorded, shown, replayed without any model, exported for training.

```python
from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.trace import Recorder, load, replay, save

recorder = Recorder(Sam4Mllm.load())
recorder.models.segment("image.png", "the red mug")
save(recorder.traces[-1], "mug.trace.json.gz")
assert not replay(load("mug.trace.json.gz")).difference
```
"""

from sam4mllm_tool.trace.files import load, save
from sam4mllm_tool.trace.recording import Recorder, recorded
from sam4mllm_tool.trace.replaying import Replay, replay, replaying
from sam4mllm_tool.trace.schema import Trace, TraceError, TraceSettings, Verdict

__all__ = [
    "Recorder",
    "Replay",
    "Trace",
    "TraceError",
    "TraceSettings",
    "Verdict",
    "load",
    "recorded",
    "replay",
    "replaying",
    "save",
]
