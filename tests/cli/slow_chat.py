"""A chat in its own process whose MLLM can hang: `python -m tests.cli.slow_chat IMAGE [HISTORY]`.

A request that contains "slow" never gets a reply; every other object is found at once, in the same box.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.cli.chat import run_conversation
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import RELEASED
from sam4mllm_tool.types import Image, Labels, Question, Reply


class SlowMLLM(ScriptedMLLM):
    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        if "slow" in str(questions):
            print("(thinking)", flush=True)
            await asyncio.Event().wait()
        return await super().areply(image, questions)


def reply_with_one_box(question: Question) -> str:
    return "Yes" * question.answer.count if isinstance(question.answer, Labels) else "[100,100,500,600]"


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background makes its children ignore it
    models = Sam4Mllm(SlowMLLM(reply_with_one_box), BoxSegmenter(), dialect=RELEASED)
    history = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    run_conversation(models, sys.argv[1], history=history, out=Path(sys.argv[1]).parent / "out")
