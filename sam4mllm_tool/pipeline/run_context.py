"""The run context: the settings, the image size and the transcript of one run, and the steps that every method is made of."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from sam4mllm_tool.config import Method, SegmentationConfig
from sam4mllm_tool.errors import BackendError, ReplyError
from sam4mllm_tool.pipeline.calibration import Calibration
from sam4mllm_tool.pipeline.requests import Flow, MLLMRequest, ProposalRequest, SegmentRequest
from sam4mllm_tool.pipeline.transcript import Transcript
from sam4mllm_tool.protocol import PLAIN, Dialect, Dialogue, Exchange, flatten_turns
from sam4mllm_tool.protocol.references import concept
from sam4mllm_tool.types import (
    Box,
    ObjectPrompt,
    Question,
    Reply,
    Segmentation,
    SegmentedObject,
    Size,
    Usage,
)

__all__ = ["WITHOUT_POINTS", "ModelTraits", "RunContext", "Transcript", "yes_probability"]

WITHOUT_POINTS = "went on without unreadable points"
"""How the note begins that says so."""
MAX_MASK_BYTES = 2**31
"""Of all masks of one request together, a byte a pixel: 33 objects on the largest image, 100 on one of 21 megapixels."""

D = TypeVar("D", bound=Dialogue)


@dataclass(frozen=True)
class ModelTraits:
    """What a run has to know of the models.

    Args:
        dialect: How the MLLM is asked.
        calibration: Corrects the MLLM's probabilities.
        greedy: Whether the MLLM gives the same reply to the same question every time (`types.MLLM`).
        mllm: The MLLM's name.
        segmenter: The segmenter's name.
        proposes: Whether the segmenter finds instances by words (`types.Segmenter`).
        weights: As in `Usage`.
    """

    dialect: Dialect = PLAIN
    calibration: Calibration = Calibration()
    greedy: bool = False
    mllm: str = "the MLLM"
    segmenter: str = "the segmenter"
    proposes: bool = False
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunContext:
    """One run on one image: its settings, and the transcript that its steps add to.

    Args:
        size: Of the image as it is shown, in pixels.
        traits: Of the models.
        config: The settings.
        transcript: Shared by all steps of the run.
        expression: What the run is about, where it is a method's; for traces.
        method: The method, where the run is a method's; for traces.
    """

    size: Size
    traits: ModelTraits = ModelTraits()
    config: SegmentationConfig = SegmentationConfig()
    transcript: Transcript = field(default_factory=Transcript)
    expression: str | None = None
    method: Method | None = None

    @property
    def dialect(self) -> Dialect:
        return self.traits.dialect

    @property
    def calibration(self) -> Calibration:
        return self.traits.calibration

    def for_size(self, size: Size) -> "RunContext":
        """The same run on a crop that is shown at `size` pixels."""
        return replace(self, size=size)

    def with_new_transcript(self) -> "RunContext":
        """The same settings, nothing asked yet."""
        return replace(self, transcript=Transcript())

    def note(self, text: str) -> None:
        """Add a note on what did not go as expected."""
        self.transcript.notes.append(text)

    # Steps -----------------------------------------------------------------------------------------------------------

    def ask(self, questions: Sequence[Question]) -> Flow[list[Reply]]:
        """Ask all questions at once and return their replies."""
        response = yield MLLMRequest(tuple(questions))
        replies = response.replies
        self.transcript.exchanges += [Exchange(*pair) for pair in zip(questions, replies, strict=True)]
        self.transcript.warnings += [warning for warning in response.warnings if warning not in self.transcript.warnings]
        self.transcript.rounds += 1
        self.transcript.seconds["mllm"] += response.seconds
        return replies

    def segment_prompts(self, prompts: Sequence[ObjectPrompt]) -> Flow[list[SegmentedObject]]:
        """Segment one object per prompt.

        Raises:
            BackendError: The masks together would take too much memory.
        """
        if not prompts:
            return []
        self._check_mask_memory(len(prompts))
        response = yield SegmentRequest(tuple(prompts))
        self.transcript.seconds["segmenter"] += response.seconds
        return response.objects

    def propose_objects(self, expression: str) -> Flow[list[SegmentedObject]]:
        """Return instances of the expression's concept that the segmenter finds, best first; none where it can't."""
        phrase = concept(expression)
        if not self.traits.proposes or not phrase:
            return []
        response = yield ProposalRequest(phrase)
        self.transcript.seconds["segmenter"] += response.seconds
        return response.objects

    def run_dialogue(self, dialogue: D) -> Flow[D | Dialogue]:
        """Answer a dialogue's questions until none is pending.

        Where replies stay unreadable it goes on without points, if the dialogue can.

        Raises:
            ReplyError: It can't.
        """
        state: D | Dialogue = dialogue
        while state.pending:
            replies = yield from self._readable_replies(state)
            try:
                state = state.answer(replies)
            except ReplyError as error:
                without_points = state.drop_unreadable_points(replies)
                if without_points is None:
                    raise
                self.note(f"{WITHOUT_POINTS}: {error.reason}")
                state = without_points
        self.transcript.point_answers += state.point_answers
        return state

    def verify_boxes(self, expression: str, boxes: Sequence[Box]) -> Flow[list[float | None]]:
        """Ask of each box whether the object in it is one that the expression means, all at once.

        Returns:
            A probability per box; None where the dialect has no words for the question or the model gives no probabilities.
        """
        questions = [self.dialect.ask_verification(expression, box, self.size) for box in boxes]
        pending = [question for question in questions if question is not None]
        if not pending:
            return [None] * len(boxes)
        replies = yield from self.ask(pending)
        return [yes_probability(reply) for reply in replies]

    def find_other_boxes(self, expression: str, boxes: Sequence[Box]) -> Flow[tuple[Box, ...] | None]:
        """Ask for the boxes of what the expression means besides what is in `boxes`.

        Returns:
            The boxes; none where the reply stays unreadable; None where the dialect has no words for the question.
        """
        question = self.dialect.ask_other_boxes(expression, boxes, self.size)
        tries_left = self.config.retries
        while question is not None:
            (reply,) = yield from self.ask([question])
            try:
                return self.dialect.parse_boxes(question, reply, self.size)
            except ReplyError as error:
                correction = self.dialect.ask_again(question, reply, error.reason)
                if not tries_left or self._is_vain(correction, question):
                    self.note(f"no other object could be read from the reply: {error.reason}")
                    return ()
                question, tries_left = correction, tries_left - 1
        return None

    # Results ---------------------------------------------------------------------------------------------------------

    def none_confidence(self, reply: Reply) -> float | None:
        """The calibrated probability that a reply which names no object is right; None where it has no log-probability."""
        return None if reply.log_probability is None else self.calibration.none(math.exp(reply.log_probability))

    def build_result(
        self,
        expression: str,
        objects: Sequence[SegmentedObject],
        confidence: float | None = None,
        *,
        abstained: bool = False,
    ) -> Segmentation:
        """Build the result from the objects and the transcript. Where there are warnings, no confidence is left in it.

        An object without an expression of its own gets the result's.
        """
        transcript = self.transcript
        objects = [each if each.expression is not None else replace(each, expression=expression) for each in objects]
        if transcript.warnings:
            objects, confidence = [replace(segmented, confidence=None) for segmented in objects], None
        seconds = dict(transcript.seconds) if any(transcript.seconds.values()) else {}
        usage = Usage(
            self.traits.mllm,
            self.traits.segmenter,
            len(transcript.exchanges),
            seconds,
            transcript.tokens,
            transcript.rounds,
            self.dialect.name,
            transcript.cached_tokens,
            transcript.requests,
            self.traits.weights,
        )
        return Segmentation(
            expression,
            self.size,
            tuple(objects),
            flatten_turns(transcript.exchanges),
            usage,
            tuple(transcript.notes),
            confidence,
            tuple(transcript.point_answers),
            tuple(transcript.warnings),
            abstained,
        )

    def _readable_replies(self, dialogue: Dialogue) -> Flow[list[Reply]]:
        """Ask what is pending, and ask again for what can't be read, up to the bound on retries."""
        questions = list(dialogue.pending)
        replies = yield from self.ask(questions)
        for _ in range(self.config.retries):
            faults = [(index, fault) for index, fault in enumerate(dialogue.faults(replies)) if fault]
            corrections = {
                index: self.dialect.ask_again(questions[index], replies[index], fault.reason) for index, fault in faults
            }
            corrections = {
                index: correction
                for index, correction in corrections.items()
                if not self._is_vain(correction, questions[index])
            }
            if not corrections:
                break
            count = f" {len(corrections)} questions" if len(corrections) > 1 else ""
            self.note(f"asked again{count}: {faults[0][1].reason}")
            new_replies = yield from self.ask(list(corrections.values()))
            for (index, question), reply in zip(corrections.items(), new_replies, strict=True):
                questions[index], replies[index] = question, reply
        return replies

    def _is_vain(self, correction: Question, question: Question) -> bool:
        """Whether the model would only repeat itself."""
        return self.traits.greedy and correction == question

    def _check_mask_memory(self, count: int) -> None:
        if count * self.size.width * self.size.height > MAX_MASK_BYTES:
            raise BackendError(
                f"the masks of {count} objects on an image of {self.size.width} x {self.size.height} pixels would take more "
                f"than {MAX_MASK_BYTES / 2**30:g} GiB: make the image smaller"
            )


def yes_probability(reply: Reply) -> float | None:
    """The probability of the first of the asked words, which is yes; None where the model gives none."""
    return reply.label_probabilities[0][0] if reply.label_probabilities else None
