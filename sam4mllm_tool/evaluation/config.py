"""The settings of an evaluation: which samples, which models, and which protocol."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Unpack

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.config import METHODS, Method, SegmentationConfig, SettingsOverrides
from sam4mllm_tool.data import DATASETS, Dataset, load_dataset
from sam4mllm_tool.data.batch_output import SHARD_FILES
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import PROTOCOLS, EvaluationProtocol, default_protocol
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.models.metadata import find_fingerprints
from sam4mllm_tool.models.mllm import EMBEDDED
from sam4mllm_tool.pipeline.calibration import find_calibration
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["EvaluationConfig", "ModelSpec"]

_FORMAT = 2


@dataclass(frozen=True, init=False)
class ModelSpec:
    """The arguments of `Sam4Mllm.load`. Can be pickled, so that each process loads its own models.

    Args:
        mllm: Spec of the MLLM; by default the environment's SAM4MLLM_MLLM, else `embedded`.
        segmenter: Spec of the segmenter; by default the environment's SAM4MLLM_SEGMENTER, else `embedded`.
        dialect: A name among `protocol.DIALECTS`.
        options: Where and how precisely the models run; `device` and `dtype` are short for two of these.
        config: The settings of every run, but for the method, which `EvaluationConfig` names.
        settings: Single settings that differ from `config`, as in `abstain=0.5`.
    """

    mllm: str | None = None
    segmenter: str | None = None
    dialect: str | None = None
    options: LoadOptions = LoadOptions()
    config: SegmentationConfig = SegmentationConfig()

    def __init__(
        self,
        mllm: str | None = None,
        segmenter: str | None = None,
        *,
        dialect: str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        options: LoadOptions = LoadOptions(),
        config: SegmentationConfig = SegmentationConfig(),
        **settings: Unpack[SettingsOverrides],
    ) -> None:
        options = options.override(device=device, dtype=dtype)
        values = (mllm, segmenter, dialect, options, config.override(settings))
        for field_, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field_.name, value)

    def load(self) -> Sam4Mllm:
        """Load the models. Raises SpecError, MissingExtraError."""
        return Sam4Mllm.load(self.mllm, self.segmenter, dialect=self.dialect, options=self.options, config=self.config)

    @property
    def mllm_spec(self) -> str:
        """The spec of the MLLM: given, the environment's, or `embedded`."""
        return self.mllm or os.environ.get("SAM4MLLM_MLLM") or EMBEDDED

    def describe(self) -> dict[str, Any]:
        """Return the settings as JSON values, with the specs that the environment gives and fingerprints of the weights.

        Raises:
            SpecError: A spec names no model, or a calibration can't be read.
        """
        mllm = self.mllm_spec
        segmenter = self.segmenter or os.environ.get("SAM4MLLM_SEGMENTER") or EMBEDDED
        return {
            "mllm": mllm,
            "segmenter": segmenter,
            "weights": find_fingerprints(mllm, segmenter),
            "dialect": self.dialect,
            **{"device": None, "dtype": None, **self.options.to_dict()},  # these two were there before there were options
            **_describe_settings(self.config),
            "calibration": asdict(find_calibration(mllm)),
        }


@dataclass(frozen=True)
class EvaluationConfig:
    """An evaluation of models, or of another system's predictions, on a dataset.

    Attributes:
        dataset: A name that `load_dataset` takes.
        root: The folder that holds the dataset.
        split: The split to evaluate.
        options: Further keyword arguments of `load_dataset`.
        protocol: A name in `PROTOCOLS`; by default the one that the dataset's published results follow.
        models: How to load the models; unused with `predictions`.
        method: How the models are asked; unused with `predictions`.
        predictions: A file of masks to score instead of models.
        limit: Evaluate only this many samples, the first ones.
        threads: CPU threads per process. Another number may change the last digit of a result, so it is part of what is
            evaluated, unlike the number of processes.

    Raises:
        DataError: A name is unknown, or a number is below 1.
    """

    dataset: str
    root: Path
    split: str = "val"
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str = ""
    models: ModelSpec = ModelSpec()
    method: Method = "pqpp"
    predictions: Path | None = None
    limit: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "protocol", self.protocol or default_protocol(self.dataset))
        for kind, name, known in (
            ("dataset", self.dataset, DATASETS),
            ("protocol", self.protocol, PROTOCOLS),
            ("method", self.method, METHODS),
        ):
            if name not in known:
                raise DataError(f"no {kind} is called {name!r}; there are {', '.join(known)}")
        if (self.limit is not None and self.limit < 1) or self.threads < 1:
            raise DataError(f"expected limit and threads of at least 1, got {self.limit} and {self.threads}")

    @property
    def scoring_protocol(self) -> EvaluationProtocol:
        """The protocol that `protocol` names."""
        return PROTOCOLS[self.protocol]

    def open(self) -> Dataset:
        """Open the dataset. Raises what `load_dataset` raises."""
        return load_dataset(self.dataset, self.root, self.split, **self.options)

    def describe(self, models: Sam4Mllm | None = None) -> dict[str, Any]:
        """Return the order as JSON values: evaluations with equal orders are the same.

        Args:
            models: The models, where they were passed to `evaluate` instead of being loaded by this config.

        Raises:
            DataError: The file of predictions can't be read.
        """
        if self.predictions is not None:
            source: dict[str, Any] = {"predictions": {"file": self.predictions.name, "sha256": _hash_file(self.predictions)}}
        else:
            described_models = self.models.describe() if models is None else _describe_models(models)
            source = {"models": described_models, "method": self.method}
        order = {
            "format": _FORMAT,
            "dataset": self.dataset,
            "split": self.split,
            "root": str(self.root),
            "options": dict(self.options),
            "protocol": self.protocol,
            "limit": self.limit,
            "threads": self.threads,
            **source,
        }
        plain: dict[str, Any] = json.loads(json.dumps(order, default=str))
        return plain


def _describe_models(models: Sam4Mllm) -> dict[str, Any]:
    return {
        "mllm": models.mllm.name,
        "segmenter": models.segmenter.name,
        "by": getattr(models.segmenter, "by", None),
        "dialect": models.dialect.name,
        **_describe_settings(models.config),
        "calibration": asdict(models.calibration),
    }


def _describe_settings(config: SegmentationConfig) -> dict[str, Any]:
    """Return the settings under the keys that order.json has had since its first version, so that earlier runs resume."""
    default = config.max_points == SegmentationConfig().max_points
    return {
        "sampler": repr(config.sampler),
        "thresholds": asdict(config.thresholds),
        "retries": config.retries,
        "abstain": config.abstain,
        "closer": config.refine_crops,
        **({} if default else {"max_points": config.max_points}),
    }


def _hash_file(path: Path) -> str:
    try:
        if path.is_dir():  # a batch job's results
            return "-".join(file_sha256(file)[:12] for file in sorted(path.glob(SHARD_FILES)))
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"the predictions can't be read from {path}: {error.strerror or error}") from error
