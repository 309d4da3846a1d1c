"""An MLLM that gives prepared replies, for the tests of whatever drives one: no model, no torch.

```python
mllm = ScriptedMLLM(["[012,034,101,150]", Reply("inside", ((0.9, 0.1),))])
Sam4Mllm(mllm, segmenter).segment(image, "the red ring")
assert "red ring" in mllm.questions[0].turns[-1].text
```
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.types import Image, Question, Reply

__all__ = ["Answer", "ScriptedMLLM"]

Answer: TypeAlias = "Reply | str"
"""A reply, or the text of one without probabilities."""


class ScriptedMLLM:
    """Gives its replies one after another, or asks a function for each, and keeps what it was asked.

    replies: as many answers as there will be questions, in the order asked; or a function from a question to its answer.
    name: what `usage` will call it. greedy: whether it is one that says the same whenever it is asked the same.
    """

    def __init__(
        self, replies: Sequence[Answer] | Callable[[Question], Answer], *, name: str = "scripted", greedy: bool = False
    ) -> None:
        if isinstance(replies, str):
            raise ValueError(f"replies must be a sequence of replies or a function, not the string {replies!r}")
        self._script = replies if callable(replies) else None
        self._left = deque(() if callable(replies) else replies)
        self._name = name
        self.greedy = greedy
        self.questions: list[Question] = []
        """Everything asked so far, in order."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def replies_left(self) -> int:
        """How many of the prepared replies nobody has asked for; 0 for a function."""
        return len(self._left)

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
        """One reply per question, in order; the picture is not looked at.

        Raises BackendError naming the question for which no reply is left.
        """
        return [self._answer(question) for question in questions]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`."""
        return self.reply(image, questions)

    def _answer(self, question: Question) -> Reply:
        self.questions.append(question)
        if self._script is not None:
            answer = self._script(question)
        elif self._left:
            answer = self._left.popleft()
        else:
            count = len(self.questions)
            raise BackendError(f"the script has no reply left for question {count}: {question.turns[-1].text!r}")
        return Reply(answer) if isinstance(answer, str) else answer
