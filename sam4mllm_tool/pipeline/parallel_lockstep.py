"""Drive the runs about many images in several threads, each with models of its own over the same weights.

Image i is driven by thread i modulo their number, and what a thread has in work at a time depends on its own images alone, so
that a repeated run computes the same in the same order.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue
from threading import Thread
from typing import TypeAlias

from sam4mllm_tool.errors import ImageError
from sam4mllm_tool.models.cpu_threads import count_cores, share_cores, use_cores
from sam4mllm_tool.pipeline.lockstep import ImageRuns, OnError, Outcome, drive_in_lockstep
from sam4mllm_tool.pipeline.model_server import ModelServer

__all__ = ["drive_in_parallel", "replicate_for_cores"]

_MOST_THREADS = 4
"""From there on Python itself, which runs one thread at a time, leaves cores idle."""

_Group: TypeAlias = ImageRuns | ImageError
_Outcomes: TypeAlias = list[Outcome] | ImageError


def replicate_for_cores(server: ModelServer, most: int) -> list[ModelServer]:
    """Return a server for each core, as far as the models allow it: on a CPU, up to four, and up to `most`."""
    return server.replicate(min(count_cores(), _MOST_THREADS, most))


def drive_in_parallel(
    server: ModelServer, groups: Iterable[_Group], images_at_once: int, on_error: OnError = "raise"
) -> Iterator[_Outcomes]:
    """Do as `drive_in_lockstep` does; where the models allow it, on a CPU, in a thread for each core, up to four.

    Args:
        server: The models.
        groups: As there; taken in this thread, up to twice as many as are in work. A single one is driven in this thread, too.
        images_at_once: How many images are in work at a time, in all threads.
        on_error: As there.
    """
    source = iter(groups)
    first = list(islice(source, 2))
    servers = replicate_for_cores(server, images_at_once) if len(first) > 1 else [server]
    groups = chain(first, source)
    if len(servers) == 1:
        yield from drive_in_lockstep(server, groups, images_at_once, on_error)
        return
    share = images_at_once // len(servers)
    with share_cores(len(servers)) as cores:
        workers = [_Worker(replica, share, on_error, cores) for replica in servers]
        try:
            yield from _distribute(groups, workers, 2 * share * len(workers))
        finally:
            for worker in workers:
                worker.stop()


def _distribute(groups: Iterator[_Group], workers: Sequence["_Worker"], ahead: int) -> Iterator[_Outcomes]:
    """Hand out groups in turns, so many ahead of the outcomes that were yielded, and yield the outcomes in order."""
    taken = yielded = 0
    is_over = False
    while True:
        for group in islice(groups, ahead - (taken - yielded)):
            workers[taken % len(workers)].groups.put(group)
            taken += 1
        if not is_over and taken - yielded < ahead:
            is_over = True
            for worker in workers:
                worker.groups.put(None)
        if taken == yielded:
            return
        yield workers[yielded % len(workers)].next_outcomes()
        yielded += 1


@dataclass(frozen=True)
class _Failure:
    error: BaseException


class _Stopped(Exception):  # noqa: N818 - it is no error
    """Ends a thread whose outcomes nobody waits for any more."""


class _Worker:
    """A thread, the groups that it is to drive, and what they came to.

    Attributes:
        groups: In order; None after the last.
    """

    def __init__(self, server: ModelServer, images_at_once: int, on_error: OnError, cores: int) -> None:
        self.groups: SimpleQueue[_Group | None] = SimpleQueue()
        self._outcomes: SimpleQueue[_Outcomes | _Failure] = SimpleQueue()
        self._most, self._begun = 2 * images_at_once, 0
        self._is_last = self._is_stopped = False
        arguments = self._run, server, images_at_once, on_error, cores
        self._thread = Thread(target=copy_context().run, args=arguments, name="sam4mllm-images", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[_Group]:
        return self

    def __next__(self) -> _Group:
        """Wait for a group. While so many are begun that the first of them has to be done before, there is none."""
        if self._is_stopped:
            raise _Stopped
        if self._is_last or self._begun == self._most:
            raise StopIteration
        group = self.groups.get()
        self._is_last = group is None
        self._begun += 1
        return self.__next__() if group is None else group

    def next_outcomes(self) -> _Outcomes:
        """Wait for what the next group comes to, or raise what ended the thread."""
        outcomes = self._outcomes.get()
        if isinstance(outcomes, _Failure):
            raise outcomes.error
        return outcomes

    def stop(self) -> None:
        """End the thread, after the calls of models that it is in."""
        self._is_stopped = True
        self.groups.put(None)
        self._thread.join()

    def _run(self, server: ModelServer, images_at_once: int, on_error: OnError, cores: int) -> None:
        use_cores(cores)
        try:
            for outcomes in drive_in_lockstep(server, self, images_at_once, on_error):
                self._begun -= 1
                self._outcomes.put(outcomes)
        except BaseException as error:  # noqa: BLE001 - it is raised where the outcomes are waited for
            self._outcomes.put(_Failure(error))
