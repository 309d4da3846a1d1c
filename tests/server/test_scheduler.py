"""The queue in front of the models: batches, limits, requests that nobody waits for, and the end."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import pytest
from PIL import Image
from PIL.Image import Image as PILImage

from sam4mllm_tool.errors import BackendError, QueueFullError, ServiceBusyError, TooLateError
from sam4mllm_tool.pipeline.methods import segment_expression
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.server.scheduled_models import ScheduledModels
from sam4mllm_tool.server.scheduler import SchedulerObserver
from sam4mllm_tool.server.scheduler_limits import SchedulerLimits
from sam4mllm_tool.types import Question, Reply, Size
from tests.replicated_models import ReplicatedBoxSegmenter, compute_on_two_cores
from tests.server.http_servers import create_ring_models
from tests.server.mcp.mcp_servers import reply_about_rings


class Desk:
    """An MLLM that answers about rings once its gate is open, with copies that answer independently."""

    name, greedy = "desk", True

    def __init__(self) -> None:
        self.gate, self.questions = threading.Event(), list[str]()
        self.desks = [self]

    def replicate(self, count: int) -> "list[Desk]":
        self.desks += [Desk() for _ in range(count - len(self.desks))]
        return self.desks

    def reply(self, image: PILImage, questions: Sequence[Question]) -> list[Reply]:  # noqa: ARG002
        self.questions += [question.turns[-1].text for question in questions]
        assert self.gate.wait(10)
        return [reply_about_rings(question) for question in questions]

    async def areply(self, image: PILImage, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)

    def was_asked_about(self, expression: str) -> bool:
        return any(expression in question for question in self.questions)


class GatedModels:
    """Ring models that answer once their gate is open, and note the expressions that they are asked about."""

    def __init__(self, observer: SchedulerObserver | None = None, **limits: float) -> None:
        self.gate, self.is_asked = threading.Event(), threading.Event()
        self.questions: list[str] = []
        self.models = ScheduledModels(create_ring_models(self._reply), SchedulerLimits(**limits), observer)  # type: ignore[arg-type]

    def _reply(self, question: Question) -> Reply:
        self.questions.append(question.turns[-1].text)
        self.is_asked.set()
        assert self.gate.wait(10)
        if "broken" in question.turns[-1].text:
            raise BackendError("out of memory")
        return reply_about_rings(question)

    def submit(self, expression: str, key: bytes = b"rings") -> "Future[list[object]]":
        image = Image.new("RGB", (100, 80))
        run = self.models.start_run(Size(100, 80), expression, "box")
        driver = self.models._start_driver(image, segment_expression(run, expression, "box"), run, ())
        return self.models.scheduler.submit(image, [driver], key)

    def was_asked_about(self, expression: str) -> bool:
        return any(expression in question for question in self.questions)


class TwoDesks(GatedModels):
    """A scheduler with two workers."""

    def __init__(self, **limits: float) -> None:
        self.mllm = Desk()
        models = Sam4Mllm(self.mllm, ReplicatedBoxSegmenter(), dialect=JOINT)
        self.models = ScheduledModels(models, SchedulerLimits(gather_s=0.0, **limits))  # type: ignore[arg-type]

    def find(self, expression: str) -> Desk:
        """Wait until one of the desks was asked about an expression, and return it."""
        for _ in range(1000):
            for desk in self.mllm.desks:
                if desk.was_asked_about(expression):
                    return desk
            time.sleep(0.01)
        raise AssertionError(f"no desk was asked about {expression}")


def test_requests_that_come_while_others_are_served_share_the_next_calls() -> None:
    images: list[int] = []
    observer = SchedulerObserver()
    observer.after_call = images.append  # type: ignore[method-assign]
    gated = GatedModels(observer)
    futures = [gated.submit("the left ring")]
    assert gated.is_asked.wait(10)
    futures += [gated.submit(f"the ring {number}") for number in range(5)]
    gated.gate.set()
    assert all(len(future.result(10)) == 1 for future in futures)
    assert images[:2] == [1, 5]
    gated.models.close()


def test_a_full_queue_refuses_and_what_was_accepted_is_answered() -> None:
    gated = GatedModels(queue_size=2, images_at_once=1)
    futures = [gated.submit("the left ring")]
    assert gated.is_asked.wait(10)
    futures += [gated.submit("the ring"), gated.submit("the ring")]
    with pytest.raises(QueueFullError, match="2 requests wait already"):
        gated.submit("the ring")
    gated.gate.set()
    assert all(future.result(10) for future in futures)
    gated.models.close()


def test_a_request_that_is_cancelled_costs_no_model_call() -> None:
    gated = GatedModels(images_at_once=1)
    first, second = gated.submit("the left ring"), None
    assert gated.is_asked.wait(10)
    second = gated.submit("the purple ring")
    assert second.cancel()
    gated.gate.set()
    first.result(10)
    gated.models.close()
    assert not gated.was_asked_about("purple")


def test_a_request_that_is_too_late_costs_no_model_call() -> None:
    gated = GatedModels(images_at_once=1, timeout_s=0.05)
    gated.submit("the left ring")
    assert gated.is_asked.wait(10)
    late = gated.submit("the purple ring")
    threading.Timer(0.1, gated.gate.set).start()
    with pytest.raises(TooLateError, match=r"within 0\.05 seconds"):
        late.result(10)
    gated.models.close()
    assert not gated.was_asked_about("purple")


def test_a_failing_call_answers_its_own_requests_and_the_next_ones_are_served() -> None:
    gated = GatedModels()
    gated.gate.set()
    with pytest.raises(BackendError):
        gated.submit("the broken ring").result(10)
    assert gated.submit("the left ring").result(10)
    gated.models.close()


def test_closing_finishes_what_was_accepted_and_accepts_nothing_more() -> None:
    gated = GatedModels(images_at_once=1)
    futures = [gated.submit("the ring") for _ in range(3)]
    assert gated.is_asked.wait(10)
    closing = threading.Thread(target=gated.models.close)
    closing.start()
    gated.gate.set()
    assert all(future.result(10) for future in futures)
    closing.join(10)
    with pytest.raises(ServiceBusyError, match="stopping"):
        gated.submit("the ring")


async def test_threads_and_tasks_run_flows_through_the_same_queue() -> None:
    models = ScheduledModels(create_ring_models())
    blocking = models.segment(Image.new("RGB", (100, 80)), "the left ring", method="box")
    result = await models.asegment(Image.new("RGB", (100, 80)), "the left ring", method="box")
    assert result.to_dict()["objects"] == blocking.to_dict()["objects"]
    models.close()


@pytest.fixture
def two_cores() -> Iterator[None]:
    with compute_on_two_cores():
        yield


def open_all(desks: TwoDesks) -> None:
    for desk in desks.mllm.desks:
        desk.gate.set()


@pytest.mark.usefixtures("two_cores")
def test_requests_about_two_images_are_served_at_the_same_time_by_two_workers() -> None:
    desks = TwoDesks()
    futures = [desks.submit("the left ring", b"first"), desks.submit("the right ring", b"second")]
    assert desks.find("left") is not desks.find("right")
    assert desks.models.scheduler.in_work == 2
    open_all(desks)
    assert all(len(future.result(10)) == 1 for future in futures)
    desks.models.close()


@pytest.mark.usefixtures("two_cores")
def test_a_request_waits_for_the_worker_that_knows_its_image() -> None:
    desks = TwoDesks()
    first = desks.submit("the left ring", b"first")
    knows = desks.find("left")
    again = desks.submit("the right ring", b"first")
    other = desks.submit("the purple ring", b"second")
    assert desks.find("purple") is not knows
    open_all(desks)
    assert first.result(10)
    assert again.result(10)
    assert other.result(10)
    assert desks.find("right") is knows
    desks.models.close()


@pytest.mark.usefixtures("two_cores")
def test_a_worker_takes_over_images_of_one_that_has_no_room() -> None:
    desks = TwoDesks(images_at_once=2)
    futures = [desks.submit("the left ring", b"first")]
    busy = desks.find("left")
    futures.append(desks.submit("the right ring", b"first"))
    assert desks.find("right") is not busy
    open_all(desks)
    assert all(future.result(10) for future in futures)
    desks.models.close()


@pytest.mark.usefixtures("two_cores")
def test_the_oldest_request_is_not_overtaken_for_ever() -> None:
    desks = TwoDesks(images_at_once=2, queue_size=200)
    futures = [desks.submit("the left ring", b"first"), desks.submit("the right ring", b"second")]
    assert desks.find("left") is not desks.find("right")
    futures.append(desks.submit("the purple ring", b"third"))
    futures += [desks.submit(f"the ring {number}", key) for number in range(80) for key in (b"first", b"second")]
    open_all(desks)
    assert all(future.result(30) for future in futures)
    desk = desks.find("purple")
    before = next(index for index, question in enumerate(desk.questions) if "purple" in question)
    assert 1 < before < 40, "of 81 questions"
    desks.models.close()


@pytest.mark.usefixtures("two_cores")
def test_closing_finishes_what_waits_for_either_worker() -> None:
    desks = TwoDesks(images_at_once=2)
    futures = [desks.submit(f"the ring {number}", bytes([number % 3])) for number in range(9)]
    closing = threading.Thread(target=desks.models.close)
    closing.start()
    open_all(desks)
    assert all(future.result(10) for future in futures)
    closing.join(10)
    assert not closing.is_alive()
