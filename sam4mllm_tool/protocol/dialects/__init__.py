"""One file per family of checkpoints; `DIALECTS` holds them by name."""

from sam4mllm_tool.protocol.dialects.embedded import EMBEDDED
from sam4mllm_tool.protocol.dialects.joint import JOINT
from sam4mllm_tool.protocol.dialects.plain import PLAIN
from sam4mllm_tool.protocol.dialects.released import RELEASED

__all__ = ["DIALECTS", "EMBEDDED", "JOINT", "PLAIN", "RELEASED"]

DIALECTS = {dialect.name: dialect for dialect in (RELEASED, EMBEDDED, PLAIN, JOINT)}
