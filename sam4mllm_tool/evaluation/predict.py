"""Turn the samples of each image into records: by models or from a file of predictions, in one process or several.

Images are handed out in order and come back in order, whichever process predicted them. The samples of an image are asked
about side by side. A record depends on nothing but the image's samples, so the result is the same for any number of processes
and for any interruption.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.errors import DataError, MissingExtraError
from sam4mllm_tool.evaluation.config import EvaluationConfig
from sam4mllm_tool.evaluation.metrics import EvaluationProtocol, PixelCounts
from sam4mllm_tool.evaluation.predictions import read_predictions
from sam4mllm_tool.evaluation.process_share import ProcessShare
from sam4mllm_tool.evaluation.records import SampleRecord
from sam4mllm_tool.evaluation.scoring import GroundTruth, score_failure, score_mask, score_segmentation
from sam4mllm_tool.parallel import map_in_processes
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.types import Segmentation

__all__ = ["NO_PREDICTION", "predict_records"]

NO_PREDICTION = "no prediction"


class _Predictor(Protocol):
    def __call__(self, samples: Sequence[Sample]) -> list[SampleRecord]:
        """Return one record per sample of an image, in order."""


def predict_records(
    images: Iterator[list[Sample]], config: EvaluationConfig, *, processes: int = 1, models: Sam4Mllm | None = None
) -> Iterator[list[SampleRecord]]:
    """Yield the records of each image's samples, in order.

    Args:
        images: The samples of each image.
        config: What to evaluate.
        processes: The number of processes, each with its own models.
        models: Used instead of the config's, in this process.

    Raises:
        ValueError: `models` were given for several processes.
        BackendError: A process died.
        SpecError, MissingExtraError: The models can't be loaded.
    """
    if processes <= 1:
        yield from map(_load_predictor(config, models), images)
        return
    if models is not None:
        raise ValueError("several processes load their own models: give their specs, or processes=1")
    yield from map_in_processes(_predict, images, processes, prepare=_prepare, given=(config,), task="evaluation")


_process_config: EvaluationConfig | None = None
_process_predictor: _Predictor | None = None


def _prepare(config: EvaluationConfig) -> None:
    global _process_config
    _process_config = config


def _predict(samples: Sequence[Sample]) -> list[SampleRecord]:
    """Load the models on the first image, so that an error while loading is raised in the process that waits for it."""
    global _process_predictor
    assert _process_config is not None
    _process_predictor = _process_predictor or _load_predictor(_process_config, None)
    return _process_predictor(samples)


def _load_predictor(config: EvaluationConfig, models: Sam4Mllm | None) -> _Predictor:
    if config.predictions is not None:
        return _FilePredictor(config)
    if models is None:
        import torch

        torch.set_num_threads(config.threads)
        ProcessShare.from_environment().use_own_gpu()
        models = config.models.load()
    return _ModelPredictor(models, config.scoring_protocol, config.method)


class _FilePredictor:
    """Reads each sample's mask from the file of predictions."""

    def __init__(self, config: EvaluationConfig) -> None:
        assert config.predictions is not None
        self._protocol, self._predictions = config.scoring_protocol, read_predictions(config.predictions)

    def __call__(self, samples: Sequence[Sample]) -> list[SampleRecord]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> SampleRecord:
        truth = _decode_truth(sample, self._protocol)
        if isinstance(truth, SampleRecord):
            return truth
        prediction = self._predictions.get(sample.id)
        if prediction is None:
            return score_failure(truth, self._protocol, NO_PREDICTION, box_expected=False)
        mask = prediction.mask(sample.size)
        return score_mask(truth, self._protocol, mask, stated_none=prediction.states_none(mask))


class _ModelPredictor:
    """Segments each sample's expression with the models."""

    def __init__(self, models: Sam4Mllm, protocol: EvaluationProtocol, method: Method) -> None:
        self._models, self._protocol, self._method = models, protocol, method

    def __call__(self, samples: Sequence[Sample]) -> list[SampleRecord]:
        truths = [_decode_truth(sample, self._protocol) for sample in samples]
        usable = [truth.sample for truth in truths if isinstance(truth, GroundTruth)]
        results = iter(self._segment(usable))
        return [truth if isinstance(truth, SampleRecord) else self._score(truth, next(results)) for truth in truths]

    def _segment(self, samples: Sequence[Sample]) -> list[Segmentation | Exception]:
        """Return the result of each sample, or the exception that it raised.

        Where the group raises, each sample is segmented again by itself, so that one sample's failure is its own miss.
        """
        if not samples:
            return []
        try:
            expressions = [sample.expression for sample in samples]
            return list(self._models.segment_group(samples[0].image_path, expressions, method=self._method))
        except MissingExtraError:
            raise
        except Exception as error:  # noqa: BLE001  # one sample must not end an evaluation of hours
            if len(samples) == 1:
                return [error]
        return [result for sample in samples for result in self._segment([sample])]

    def _score(self, truth: GroundTruth, result: Segmentation | Exception) -> SampleRecord:
        if isinstance(result, Exception):
            return score_failure(truth, self._protocol, f"{type(result).__name__}: {result}")
        try:
            return score_segmentation(truth, self._protocol, result)
        except DataError as error:
            return score_failure(truth, self._protocol, str(error))


def _decode_truth(sample: Sample, protocol: EvaluationProtocol) -> GroundTruth | SampleRecord:
    """Return the truth, or a record that says why it can't be read."""
    try:
        return GroundTruth.decode(sample, protocol)
    except DataError as error:
        empty = SampleRecord(sample.id, sample.kind, "none", PixelCounts(0, 0, 0, failed=True))
        return replace(empty, dropped=str(error), error="the truth can't be read")
