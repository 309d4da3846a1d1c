"""A chat in a process of its own whose MLLM takes its time: `python -m tests.cli.slow_chat PICTURE [HISTORY]`.

Asked for anything "slow" it takes a minute; all else is found at once, in a box of its own.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.cli.chat import hold
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.types import Image, Labels, Question, Reply


class SlowMLLM(ScriptedMLLM):
    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        if "slow" in str(questions):
            print("(thinking)", flush=True)
            await asyncio.sleep(60)
        return await super().areply(image, questions)


def knows(question: Question) -> str:
    return "Yes" * question.answer.count if isinstance(question.answer, Labels) else "[100,100,500,600]"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts the tests in the background has it ignored
    models = Sam4Mllm(SlowMLLM(knows), BoxSegmenter(), dialect=RELEASED)
    history = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    hold(models, sys.argv[1], history=history, out=Path(sys.argv[1]).parent / "out")
