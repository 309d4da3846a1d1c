"""What every MLLM backend has to do, as a suite of checks that a test class inherits."""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import ClassVar

import numpy as np

from sam4mllm_tool.errors import ReplyError
from sam4mllm_tool.images.load import load_image
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.models.validation import validate_replies
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import PLAIN, Dialect
from sam4mllm_tool.testing.conformance_cases import SMALL, ConformanceCase, draw_conformance_cases, draw_every_mode
from sam4mllm_tool.testing.prepared_answers import MALFORMED_EXPRESSION, PreparedAnswers, ask_about_points
from sam4mllm_tool.testing.running import cancel_early, skip
from sam4mllm_tool.types import MLLM, Box, Question, Reply

__all__ = ["MLLMConformance"]

_TOLERANCE = 1e-3
"""How far probabilities of the same question may be apart: rounding depends on what is computed together."""


class MLLMConformance:
    """Checks of an MLLM backend. Inherit it in a class whose name begins with Test, and define `make_backend`.

    Two kinds of backends can know the answers. One that passes on what another program says is driven by `self.oracle`, which
    has the right answer to every question: a scripted model takes `self.oracle.answer`, the handler of a stand-in server
    `self.oracle.answer_text`. One with a trained model answers by itself, in its own dialect: set `is_prepared = False`, and
    `is_close` to what can be expected of the model.

    Attributes:
        dialect: In which the backend is asked.
        is_prepared: Whether the backend is driven by `self.oracle`.
    """

    dialect: ClassVar[Dialect] = PLAIN
    is_prepared: ClassVar[bool] = True

    def make_backend(self) -> MLLM:
        """Return the backend to check; called once for each check. It may be the same one each time."""
        raise NotImplementedError(f"{type(self).__name__} has to define make_backend")

    def make_cases(self) -> Sequence[ConformanceCase]:
        """Return what the backend is asked about: drawn images of odd sizes, with one object meant, none, and two."""
        return draw_conformance_cases()

    def is_close(self, box: Box, true_box: Box) -> bool:
        """Return whether a box, in pixels, is near enough to the true one: by default within a pixel at each side."""
        return all(abs(value - true) <= 1 for value, true in zip(box, true_box, strict=True))

    @cached_property
    def cases(self) -> tuple[ConformanceCase, ...]:
        """The cases."""
        return tuple(self.make_cases())

    @cached_property
    def oracle(self) -> PreparedAnswers:
        """The right answers, for `make_backend`."""
        return PreparedAnswers(self.dialect, self.cases)

    # Boxes ----------------------------------------------------------------------------------------------------------

    def test_backend_has_a_name(self) -> None:
        """The name is a text that is not empty."""
        name = self.make_backend().name
        assert isinstance(name, str), f"expected a name, the spec of the model, got {name!r}"
        assert name, "expected a name, the spec of the model, got an empty one"

    def test_known_box_comes_back(self) -> None:
        """Boxes of single objects, on images of odd sizes, are near the true ones (`is_close`)."""
        self._check_boxes([case for case in self.cases if len(case.boxes) == 1])

    def test_absent_object_gets_no_box(self) -> None:
        """ "There is no such object" arrives as such."""
        self._check_boxes([case for case in self.cases if not case.boxes])

    def test_several_boxes_come_back(self) -> None:
        """Two objects get two boxes."""
        self._check_boxes([case for case in self.cases if len(case.boxes) > 1])

    def test_malformed_reply_becomes_a_reply_error(self) -> None:
        """A reply that can't be read arrives as it is, so that the dialect raises ReplyError."""
        if not self.is_prepared:
            skip("a trained model can't be made to give a malformed reply")
        case, question = self.cases[0], self.dialect.ask_boxes(MALFORMED_EXPRESSION)
        (reply,) = self._reply(self.make_backend(), case, [question])
        try:
            boxes = self.dialect.parse_boxes(question, reply, case.size)
        except ReplyError:
            return
        raise AssertionError(f"expected the malformed reply to arrive as it is; {reply.text!r} is read as {boxes}")

    def test_backend_works_in_the_pipeline(self) -> None:
        """`Sam4Mllm.segment` gets the known box."""
        case = next(case for case in self.cases if len(case.boxes) == 1)
        models = Sam4Mllm(self.make_backend(), BoxSegmenter(), dialect=self.dialect)
        (segmented,) = models.segment(case.image, case.expression, method="box").objects
        self._check_box(segmented.prompt.box, case.boxes[0], case)

    # Labels ---------------------------------------------------------------------------------------------------------

    def test_points_get_their_labels(self) -> None:
        """Known points get the right labels."""
        backend = self.make_backend()
        for case in self._cases_with_points:
            questions, texts = self._ask_about_points(case)
            for question, text, reply in zip(questions, texts, self._reply(backend, case, questions), strict=True):
                ((label, _),) = self.dialect.parse_labels(question, reply)
                assert self.dialect.format_labels([label]) == text, (
                    f"expected {text} to {question.turns[-1].text!r}, got {reply}"
                )

    def test_probabilities_sum_to_one(self) -> None:
        """The probabilities of each label are a distribution, where there are any."""
        backend, case = self.make_backend(), self._cases_with_points[0]
        questions, _ = self._ask_about_points(case)
        for reply in self._reply(backend, case, questions):
            for row in reply.label_probabilities or ():
                assert math.isclose(sum(row), 1, abs_tol=_TOLERANCE), f"expected probabilities that sum to 1, got {row}"

    # Calls ----------------------------------------------------------------------------------------------------------

    def test_no_questions_get_no_replies(self) -> None:
        """No questions get an empty list."""
        replies = self.make_backend().reply(self.cases[0].image, [])
        assert list(replies) == [], f"expected no replies to no questions, got {replies}"

    def test_replies_come_in_the_order_of_the_questions(self) -> None:
        """Questions of both kinds get the same replies together, one by one and in reverse."""
        backend, case = self.make_backend(), self._cases_with_points[0]
        questions = self._ask_everything(case)
        together = self._reply(backend, case, questions)
        alone = [self._reply(backend, case, [question])[0] for question in questions]
        _check_same(together, alone, "asked together and one by one")
        reversed_order = self._reply(backend, case, questions[::-1])[::-1]
        _check_same(together, reversed_order, "asked in order and in reverse")

    def test_async_replies_are_the_same(self) -> None:
        """`areply` gives what `reply` gives."""
        backend, case = self.make_backend(), self._cases_with_points[0]
        questions = self._ask_everything(case)
        waited = asyncio.run(_as_coroutine(backend, case, questions))
        _check_same(self._reply(backend, case, questions), self._validate(backend, questions, waited), "by reply and areply")

    def test_batch_gives_each_image_its_own_replies(self) -> None:
        """`reply_batch`, where there is one, gives for each image what `reply` gives."""
        backend, cases = self.make_backend(), self._cases_with_points[:2]
        reply_batch: Callable[..., list[list[Reply]]] | None = getattr(backend, "reply_batch", None)
        if reply_batch is None:
            return  # it answers about one image at a time
        questions = [self._ask_everything(case) for case in cases]
        together = reply_batch([(case.image, each) for case, each in zip(cases, questions, strict=True)])
        assert len(together) == len(cases), f"{len(together)} lists of replies for {len(cases)} images"
        for case, each, replies in zip(cases, questions, together, strict=True):
            _check_same(self._reply(backend, case, each), self._validate(backend, each, replies), "alone and in a batch")

    def test_cancelled_call_leaves_the_backend_usable(self) -> None:
        """A cancelled call ends as cancelled, and the next one is answered as before."""
        backend, case = self.make_backend(), self._cases_with_points[0]
        questions = self._ask_everything(case)
        expected = self._reply(backend, case, questions)
        replies = cancel_early(lambda: backend.areply(case.image, questions))
        _check_same(expected, self._validate(backend, questions, replies), "before and after a cancelled call")

    def test_threads_get_their_own_replies(self) -> None:
        """Calls from several threads, each about another image, get the replies that one thread gets."""
        backend, cases = self.make_backend(), list({case.size: case for case in self._cases_with_points}.values())
        expected = [self._reply(backend, case, self._ask_everything(case)) for case in cases]
        with ThreadPoolExecutor(len(cases)) as pool:
            jobs = [pool.submit(self._reply, backend, case, self._ask_everything(case)) for case in cases]
            for replies, job in zip(expected, jobs, strict=True):
                _check_same(replies, job.result(), "in one thread and in several")

    # Images ---------------------------------------------------------------------------------------------------------

    def test_every_image_mode_is_read_as_its_rgb(self) -> None:
        """Images of every mode get the reply that their RGB, as `load_image` makes it, gets."""
        backend, case = self.make_backend(), self._cases_with_points[0]
        question = self._ask_about_points(case)[0][0]
        for image in draw_every_mode(case.image.resize(SMALL)):
            expected = backend.reply(load_image(image), [question])
            try:
                replies = backend.reply(image, [question])
            except Exception as error:
                raise AssertionError(f"an image of mode {image.mode!r} fails: {type(error).__name__}: {error}") from error
            _check_same(expected, replies, f"to an image of mode {image.mode!r} and to its RGB as load_image makes it")

    def test_image_is_left_as_it_was(self) -> None:
        """The image that was given is not changed."""
        backend, case = self.make_backend(), self.cases[0]
        image, before = case.image.copy(), np.array(case.image)
        self._validate(backend, questions := self._ask_everything(case), backend.reply(image, questions))
        assert np.array_equal(np.asarray(image), before), "the backend changed the image that it was given"

    # Help -----------------------------------------------------------------------------------------------------------

    @property
    def _cases_with_points(self) -> list[ConformanceCase]:
        return [case for case in self.cases if case.points]

    def _ask_about_points(self, case: ConformanceCase) -> tuple[list[Question], list[str]]:
        pairs = ask_about_points(self.dialect, case)
        return [question for question, _ in pairs], [text for _, text in pairs]

    def _ask_everything(self, case: ConformanceCase) -> list[Question]:
        """Return questions of both kinds about a case."""
        return [self.dialect.ask_boxes(case.expression), *self._ask_about_points(case)[0]]

    def _reply(self, backend: MLLM, case: ConformanceCase, questions: Sequence[Question]) -> list[Reply]:
        return self._validate(backend, questions, backend.reply(case.image, questions))

    def _validate(self, backend: MLLM, questions: Sequence[Question], replies: Sequence[Reply]) -> list[Reply]:
        return validate_replies(backend.name, questions, replies)

    def _check_boxes(self, cases: Sequence[ConformanceCase]) -> None:
        backend = self.make_backend()
        assert cases, "expected make_cases to have a case of one object, of none and of several"
        for case in cases:
            question = self.dialect.ask_boxes(case.expression)
            (reply,) = self._reply(backend, case, [question])
            boxes = sorted(self.dialect.parse_boxes(question, reply, case.size), key=lambda box: box.x1)
            assert len(boxes) == len(case.boxes), (
                f"expected {len(case.boxes)} boxes for {case.expression!r}, got {len(boxes)}: {reply.text!r}"
            )
            for box, true_box in zip(boxes, case.boxes, strict=True):
                self._check_box(box, true_box, case)

    def _check_box(self, box: Box, true_box: Box, case: ConformanceCase) -> None:
        assert self.is_close(box, true_box), (
            f"expected a box near {tuple(true_box)} for {case.expression!r} on {case.size.width} x {case.size.height} pixels, "
            f"got {tuple(box)}"
        )


async def _as_coroutine(backend: MLLM, case: ConformanceCase, questions: Sequence[Question]) -> list[Reply]:
    return await backend.areply(case.image, questions)


def _check_same(replies: Sequence[Reply], others: Sequence[Reply], how: str) -> None:
    """Raise AssertionError unless two lists of replies say the same."""
    assert len(replies) == len(others), f"expected the same replies {how}, got {len(replies)} and {len(others)}"
    for reply, other in zip(replies, others, strict=True):
        assert reply.text == other.text, f"expected the same reply {how}, got {reply.text!r} and {other.text!r}"
        rows, other_rows = reply.label_probabilities, other.label_probabilities
        if rows is None or other_rows is None:
            assert rows == other_rows, f"expected probabilities {how}, got {rows} and {other_rows}"
        else:
            assert np.allclose(rows, other_rows, atol=_TOLERANCE), (
                f"expected the same probabilities {how}, got {rows} and {other_rows}"
            )
