"""The released way to run the dialogue, to compare with: each question is a `generate` call that starts from the pixels.

It asks what `PQPP` asks, so that only the execution differs: greedy decoding over a key-value cache, in inference mode, with
the checkpoint's own processor. In each call the image is processed, encoded and prefilled anew; SAM runs after all calls.
Answers about points are decoded one after another in joint dialects, in a call per point in the others. Decoding is held to the
two words, as the packages that its authors use can: the probabilities then are those that `TransformersMLLM` gives.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.errors import EmptyMaskError, Sam4MllmError
from sam4mllm_tool.models.mllm.label_probabilities import Spellings, differ_in_first_token
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.models.segmenter.transformers import TransformersSegmenter
from sam4mllm_tool.protocol import PQPP
from sam4mllm_tool.types import FreeText, Image, Question, Reply, Segmentation, SegmentedObject, Size, Turn

__all__ = ["ReferenceAnswer", "ReferenceLoop", "find_difference", "prepare_inputs"]

TOLERANCE = 1e-2
"""Largest difference between probabilities of labels in float32."""


@dataclass(frozen=True, eq=False)
class ReferenceAnswer:
    """What the reference loop says about an expression.

    Attributes:
        dialogue: Complete.
        objects: One per box.
        answered: How many questions about points were asked; the last reply stands in the place of the others'.
        skipped_seconds: What the others would have taken, at the mean of those that were asked.
    """

    dialogue: PQPP
    objects: tuple[SegmentedObject, ...]
    answered: int
    skipped_seconds: float


class ReferenceLoop:
    """Runs a pair of checkpoints of transformers on their own weights, and shares no cache with them.

    Args:
        models: The pair, its dialect, and the sampler and thresholds of PQPP.
    """

    def __init__(self, models: Sam4Mllm) -> None:
        mllm: Any = models.mllm
        self._models, self._model, self._renderer = models, mllm._runner.model, mllm._renderer

    def segment(self, image: Image, expression: str, *, asks: int | None = None) -> ReferenceAnswer:
        """Answer both rounds and segment.

        Args:
            image: RGB.
            expression: What to segment.
            asks: How many questions of the second round are asked; by default all. Each costs the same.

        Raises:
            ReplyError: The boxes can't be parsed.
        """
        config, dialect = self._models.config, self._models.dialect
        dialogue = PQPP.start(
            expression, Size(*image.size), dialect=dialect, sampler=config.sampler, thresholds=config.thresholds
        )
        answered, skipped_seconds = 0, 0.0
        with torch.inference_mode():
            while dialogue.pending:
                questions, start = dialogue.pending, time.perf_counter()
                replies = [self.reply(image, question) for question in questions[:asks]]
                seconds, skipped = time.perf_counter() - start, len(questions) - len(replies)
                answered, skipped_seconds = len(replies), seconds / len(replies) * skipped
                dialogue = dialogue.answer([*replies, *replies[-1:] * skipped])
        objects = self._new_segmenter().segment(image, dialogue.prompts)
        return ReferenceAnswer(dialogue, tuple(objects), answered, skipped_seconds)

    def reply(self, image: Image, question: Question) -> Reply:
        """Answer one question in one `generate` call."""
        answer = question.answer
        if isinstance(answer, FreeText):
            return Reply(self._renderer.decode(self._generate(image, question, answer.max_tokens)))
        words = _WordChoice(tuple(self._renderer.spellings(word) for word in answer.words))
        self._generate(image, question, answer.count, words)
        text = "".join(answer.words[max(range(len(row)), key=row.__getitem__)] for row in words.rows)
        return Reply(text, tuple(words.rows))

    def _generate(self, image: Image, question: Question, count: int, words: "_WordChoice | None" = None) -> list[int]:
        inputs = prepare_inputs(self._model, self._renderer, image, question.turns)
        output: Tensor = self._model.generate(
            **inputs,
            max_new_tokens=count,
            do_sample=False,
            use_cache=True,
            logits_processor=LogitsProcessorList([words] if words else []),
        )
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    def _new_segmenter(self) -> TransformersSegmenter:
        """Return one with the same weights that has encoded no image yet."""
        segmenter: Any = self._models.segmenter
        return TransformersSegmenter(segmenter._model, segmenter._processor, name=segmenter.name, device=segmenter.device)


class _WordChoice(LogitsProcessor):
    """Holds decoding to the most probable word, in its most probable spelling; `rows` keeps the words' probabilities."""

    def __init__(self, spellings: Spellings) -> None:
        if not differ_in_first_token(spellings) or any(len(ids) > 1 for word in spellings for ids in word):
            raise ValueError("expected words of one token each, which differ")
        self._tokens = [[ids[0] for ids in word] for word in spellings]
        self.rows: list[tuple[float, ...]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        shares = torch.stack([scores[0, tokens].float().logsumexp(0) for tokens in self._tokens]).double().softmax(0)
        self.rows.append(tuple(shares.tolist()))
        tokens = self._tokens[int(shares.argmax())]
        chosen = max(tokens, key=lambda token: float(scores[0, token]))
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([chosen], device=scores.device), 0)


def prepare_inputs(model: Any, renderer: PromptRenderer, image: Image, turns: Sequence[Turn]) -> dict[str, Tensor]:
    """Run the checkpoint's processor on a prompt and the image; return the arguments of `generate`."""
    tensors = renderer.prepare(image, renderer.render(turns))
    inputs = {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        for name, value in tensors.items()
    }
    return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}


def find_difference(
    result: Segmentation | Sam4MllmError, reference: ReferenceAnswer | Sam4MllmError, tolerance: float = TOLERANCE
) -> str | None:
    """Say how a result differs from the reference; None if boxes and labels are the same, and probabilities within tolerance.

    Args:
        result: What `Sam4Mllm.segment` returned by the method `pqpp`, or raised.
        reference: What `ReferenceLoop.segment` returned, or raised.
        tolerance: Largest difference between probabilities; 0 where they have to be equal.
    """
    if isinstance(result, EmptyMaskError) and isinstance(reference, ReferenceAnswer):
        is_empty = not any(segmented.mask.any() for segmented in reference.objects)
        return None if is_empty else f"no pixel is segmented: {result!s:.200}"
    if isinstance(result, Sam4MllmError) or isinstance(reference, Sam4MllmError):
        same = type(result) is type(reference)
        return None if same else f"{type(result).__name__}, not {type(reference).__name__}: {result!s:.200}"
    texts = [next(turn.text for turn in result.turns if turn.role == "assistant"), reference.dialogue.history[0].reply.text]
    if texts[0] != texts[1]:
        return f"the boxes are {texts[0]!r}, not {texts[1]!r}"
    ours, theirs = result.point_answers, reference.dialogue.point_answers
    if len(ours) != len(theirs):
        return f"{len(ours)} answers about points, not {len(theirs)}"
    count = len(ours) if reference.dialogue.dialect.points == "joint" else reference.answered
    for mine, other in zip(ours[:count], theirs, strict=False):
        place = f"({mine.point.x:.0f}, {mine.point.y:.0f})"
        if mine.point.label != other.point.label or mine.box != other.box:
            return f"label {mine.point.label} at {place}, not {other.point.label}"
        difference = abs((mine.point.confidence or 0) - (other.point.confidence or 0))
        if difference > tolerance:
            return f"the confidence at {place} is off by {difference:.3f}"
    return None
