"""What an evaluation is told: which samples, who answers, and how it is counted."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sam4mllm_tool.atomic_io import file_sha256
from sam4mllm_tool.data import DATASETS, Dataset, load_dataset
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.evaluation.metrics import PROTOCOLS, Protocol, default_protocol
from sam4mllm_tool.models.metadata import find_fingerprints
from sam4mllm_tool.pipeline.calibration import find_calibration
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Method, Sam4Mllm
from sam4mllm_tool.protocol import Grid, Sampler, Thresholds

__all__ = ["EvaluationConfig", "ModelSpec"]

_FORMAT = 2


@dataclass(frozen=True)
class ModelSpec:
    """How to load the models, as `Sam4Mllm.load` takes it; pickles, so that every process loads its own."""

    mllm: str | None = None
    segmenter: str | None = None
    dialect: str | None = None
    device: str | None = None
    dtype: str | None = None
    sampler: Sampler = Grid()
    thresholds: Thresholds = Thresholds()
    retries: int = 2
    abstain: float = 0.0
    closer: bool = True

    def load(self) -> Sam4Mllm:
        """Raises SpecError, MissingExtraError."""
        return Sam4Mllm.load(
            self.mllm,
            self.segmenter,
            dialect=self.dialect,
            device=self.device,
            dtype=self.dtype,
            sampler=self.sampler,
            thresholds=self.thresholds,
            retries=self.retries,
            abstain=self.abstain,
            closer=self.closer,
        )

    def describe(self) -> dict[str, Any]:
        """As JSON, with the specs that the environment gives and what tells their weights from others.

        Raises SpecError for a spec that names nothing, and a calibration that can't be read.
        """
        mllm = self.mllm or os.environ.get("SAM4MLLM_MLLM") or "embedded"
        segmenter = self.segmenter or os.environ.get("SAM4MLLM_SEGMENTER") or "embedded"
        return {
            "mllm": mllm,
            "segmenter": segmenter,
            "weights": find_fingerprints(mllm, segmenter),
            "dialect": self.dialect,
            "device": self.device,
            "dtype": self.dtype,
            "sampler": repr(self.sampler),
            "thresholds": asdict(self.thresholds),
            "retries": self.retries,
            "abstain": self.abstain,
            "closer": self.closer,
            "calibration": asdict(find_calibration(mllm)),
        }


@dataclass(frozen=True)
class EvaluationConfig:
    """An evaluation of models on a data set, or of somebody's predictions for it.

    dataset, root, split, options: as `load_dataset` takes them. protocol: a name among `PROTOCOLS`; without one, that of the
    data set. models, method: who answers and how; not used where `predictions` names a file of masks. limit: the first so
    many samples. threads: a process computes on, on a CPU; figures may differ in their last digit with another number, so it
    is part of the order and not the machine's. Raises DataError for names that there are not.
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
        for what, name, known in (
            ("data set", self.dataset, DATASETS),
            ("protocol", self.protocol, PROTOCOLS),
            ("method", self.method, METHODS),
        ):
            if name not in known:
                raise DataError(f"no {what} is called {name!r}; there are {', '.join(known)}")
        if (self.limit is not None and self.limit < 1) or self.threads < 1:
            raise DataError(f"expected limit and threads from 1 on, got {self.limit} and {self.threads}")

    @property
    def counting(self) -> Protocol:
        return PROTOCOLS[self.protocol]

    def open(self) -> Dataset:
        """Raises what `load_dataset` raises."""
        return load_dataset(self.dataset, self.root, self.split, **self.options)

    def describe(self, models: Sam4Mllm | None = None) -> dict[str, Any]:
        """The order as JSON: what makes two evaluations the same. models: where they were handed over, not loaded.

        Raises DataError where the file of predictions can't be read.
        """
        if self.predictions is not None:
            answers: dict[str, Any] = {"predictions": {"file": self.predictions.name, "sha256": _digest(self.predictions)}}
        else:
            told = self.models.describe() if models is None else _describe(models)
            answers = {"models": told, "method": self.method}
        order = {
            "format": _FORMAT,
            "dataset": self.dataset,
            "split": self.split,
            "root": str(self.root),
            "options": dict(self.options),
            "protocol": self.protocol,
            "limit": self.limit,
            "threads": self.threads,
            **answers,
        }
        described: dict[str, Any] = json.loads(json.dumps(order, default=str))
        return described


def _describe(models: Sam4Mllm) -> dict[str, Any]:
    return {
        "mllm": models.mllm.name,
        "segmenter": models.segmenter.name,
        "by": getattr(models.segmenter, "by", None),
        "dialect": models.dialect.name,
        "sampler": repr(models.sampler),
        "thresholds": asdict(models.thresholds),
        "retries": models.retries,
        "abstain": models.abstain,
        "closer": models.closer,
        "calibration": asdict(models.calibration),
    }


def _digest(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise DataError(f"the predictions can't be read from {path}: {error.strerror or error}") from error
