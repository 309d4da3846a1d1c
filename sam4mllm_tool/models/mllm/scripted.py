"""An MLLM that returns prepared replies, for testing the code that drives one. Needs no model and no torch.

```python
mllm = ScriptedMLLM(["[012,034,101,150]", Reply("inside", ((0.9, 0.1),))])
Sam4Mllm(mllm, segmenter).segment(image, "the red mug")
assert "red mug" in mllm.questions[0].turns[-1].text
```
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.types import Image, Question, Reply

__all__ = ["ReplyOrText", "ScriptedMLLM"]

ReplyOrText: TypeAlias = "Reply | str"
"""A reply, or the text of one without probabilities."""


class ScriptedMLLM:
    """Returns its replies in order, or calls a function for each, and records the questions.

    Args:
        replies: One reply per question, in order; or a function from a question to its reply.
        name: Name in `Usage`.
        greedy: Whether it counts as deterministic, so that drivers skip identical retries.
    """

    def __init__(
        self,
        replies: Sequence[ReplyOrText] | Callable[[Question], ReplyOrText],
        *,
        name: str = "scripted",
        greedy: bool = False,
    ) -> None:
        if isinstance(replies, str):
            raise ValueError(f"replies must be a sequence of replies or a function, not the string {replies!r}")
        self._function = replies if callable(replies) else None
        self._queue = deque(() if callable(replies) else replies)
        self._name = name
        self.greedy = greedy
        self.questions: list[Question] = []
        """All questions so far, in order."""

    @property
    def name(self) -> str:
        """As given."""
        return self._name

    @property
    def replies_left(self) -> int:
        """How many prepared replies are left; 0 for a function."""
        return len(self._queue)

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
        """Return one reply per question, in order. The image is ignored.

        Raises:
            BackendError: No reply is left for a question.
        """
        return [self._reply_to(question) for question in questions]

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        """As `reply`."""
        return self.reply(image, questions)

    def _reply_to(self, question: Question) -> Reply:
        self.questions.append(question)
        if self._function is not None:
            reply = self._function(question)
        elif self._queue:
            reply = self._queue.popleft()
        else:
            number = len(self.questions)
            raise BackendError(f"the script has no reply left for question {number}: {question.turns[-1].text!r}")
        return Reply(reply) if isinstance(reply, str) else reply
