"""From the samples of a picture to their records: by models or out of a file, in this process or in several.

Pictures are handed out one after another and come back in their order, whoever solved them; a picture's samples are asked
side by side, and what becomes of them depends on nothing but the picture, so neither the number of processes nor a cut shows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol as Interface

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError, MissingExtraError
from sam4mllm_tool.evaluation.config import EvaluationConfig
from sam4mllm_tool.evaluation.metrics import Counts, Protocol
from sam4mllm_tool.evaluation.point_recorder import Listener
from sam4mllm_tool.evaluation.predictions import read_predictions
from sam4mllm_tool.evaluation.records import Record
from sam4mllm_tool.evaluation.scoring import Truth, judge_failure, judge_mask, judge_segmentation
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.types import Segmentation

__all__ = ["MISSING", "solve_all"]

MISSING = "no prediction"


class _Solver(Interface):
    def __call__(self, samples: Sequence[Sample]) -> list[Record]:
        """A record a sample of one picture, in order."""


def solve_all(
    pictures: Iterator[list[Sample]], config: EvaluationConfig, *, processes: int = 1, models: Sam4Mllm | None = None
) -> Iterator[list[Record]]:
    """The records of each picture's samples, in order.

    processes: how many solve at once, each with models of its own. models: in place of the config's, for one process.
    Raises what loading the models raises, BackendError where a process dies, ValueError for models and several processes.
    """
    if processes <= 1:
        yield from map(_solver(config, models), pictures)
        return
    if models is not None:
        raise ValueError("several processes load their own models: give their specs, or processes=1")
    yield from map_in_processes(_solve, pictures, processes, prepare=_prepare, given=(config,), task="evaluation")


_config: EvaluationConfig | None = None
_own: _Solver | None = None


def _prepare(config: EvaluationConfig) -> None:
    global _config
    _config = config


def _solve(samples: Sequence[Sample]) -> list[Record]:
    """Makes the solver on the first picture: what goes wrong then is raised where it is waited for."""
    global _own
    assert _config is not None
    _own = _own or _solver(_config, None)
    return _own(samples)


def _solver(config: EvaluationConfig, models: Sam4Mllm | None) -> _Solver:
    if config.predictions is not None:
        return _Reader(config)
    if models is None:
        import torch

        torch.set_num_threads(config.threads)
        models = config.models.load()
    return _Asker(models, config.counting, config.method)


class _Reader:
    """Takes each sample's mask out of the file of predictions."""

    def __init__(self, config: EvaluationConfig) -> None:
        assert config.predictions is not None
        self._protocol, self._found = config.counting, read_predictions(config.predictions)

    def __call__(self, samples: Sequence[Sample]) -> list[Record]:
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Record:
        truth = _truth(sample, self._protocol)
        if isinstance(truth, Record):
            return truth
        prediction = self._found.get(sample.id)
        if prediction is None:
            return judge_failure(truth, self._protocol, MISSING, asked=False)
        mask = prediction.mask(sample.size)
        return judge_mask(truth, self._protocol, mask, stated_none=prediction.states_none(mask))


class _Asker:
    """Asks the models."""

    def __init__(self, models: Sam4Mllm, protocol: Protocol, method: Method) -> None:
        self._listener, self._protocol, self._method = Listener(models), protocol, method

    def __call__(self, samples: Sequence[Sample]) -> list[Record]:
        truths = [_truth(sample, self._protocol) for sample in samples]
        usable = [truth for truth in truths if isinstance(truth, Truth)]
        self._listener.forget()
        answers = iter(self._answers([truth.sample for truth in usable]))
        return [truth if isinstance(truth, Record) else self._judge(truth, next(answers)) for truth in truths]

    def _answers(self, samples: Sequence[Sample]) -> list[Segmentation | Exception]:
        """What the models make of each sample, or why they make nothing of it.

        Whatever is raised is a miss of the sample that raised it, found by asking again one by one; the others go on.
        """
        if not samples:
            return []
        try:
            expressions = [sample.expression for sample in samples]
            return list(self._listener.models.segment_group(samples[0].image_path, expressions, method=self._method))
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001  # an evaluation of hours doesn't end with one sample
            if len(samples) == 1:
                return [error]
        return [answer for sample in samples for answer in self._answers([sample])]

    def _judge(self, truth: Truth, answer: Segmentation | Exception) -> Record:
        if isinstance(answer, Exception):
            return judge_failure(truth, self._protocol, f"{type(answer).__name__}: {answer}")
        try:
            return judge_segmentation(truth, self._protocol, answer, self._listener.points(answer.expression))
        except DataError as error:
            return judge_failure(truth, self._protocol, str(error))


def _truth(sample: Sample, protocol: Protocol) -> Truth | Record:
    """The truth, or a record that says why there is none."""
    try:
        return Truth.of(sample, protocol)
    except DataError as error:
        empty = Record(sample.id, sample.kind, "none", Counts(0, 0, 0, failed=True))
        return replace(empty, dropped=str(error), error="the truth can't be read")
