"""What a person sees of a training run: a progress bar, a file of metrics, and the real cIoU on held-out samples."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from sam4mllm_tool.atomic_io import write_text
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import read_conversations
from sam4mllm_tool.errors import DataError, Sam4MllmError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = [
    "HeldOutEvaluation",
    "MetricsFile",
    "ProgressBar",
    "load_held_out_samples",
    "measure_ciou",
    "require_disjoint_images",
]


class ProgressBar(TrainerCallback):
    """Shows steps done, time left, loss and tokens per second."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", mininterval=1, disable=None
            )

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix_str(f"loss {logs['loss']:.4f}, {logs['tokens_per_second']:,.0f} tokens/s", refresh=False)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.close()


class MetricsFile(TrainerCallback):
    """Writes every set of metrics as a line of JSON with its step.

    A resumed run first removes the lines of steps after its checkpoint, which it will run again; without a checkpoint, all.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero and self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines()
            write_text(self._file, "".join(f"{line}\n" for line in lines if 0 < state.global_step >= _read_step(line)))

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero and logs:
            try:
                with self._file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"step": state.global_step, **logs}) + "\n")
            except OSError as error:
                raise OSError(f"the metrics can't be written to {self._file}: {error.strerror}") from error


def _read_step(line: str) -> float:
    """Return the step of a line; infinity for a line that was cut off."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@dataclass(eq=False)
class HeldOutEvaluation(TrainerCallback):
    """Segments held-out samples with the model before training, every `every` steps and at the end.

    Attributes:
        models: The pipeline around the model under training.
        samples: What is segmented, by each of `methods`.
        every: Steps between evaluations.
        log: Receives the metrics.
        wait_for_everyone: Returns once all processes have called it.
        pause_clock: Called after an evaluation, so that its time doesn't count in tokens per second.
        inference_context: Makes the context in which the model is evaluated.
    """

    models: Sam4Mllm
    samples: Sequence[Sample]
    methods: Sequence[str]
    every: int
    log: Callable[[dict[str, float]], None] = lambda _: None
    wait_for_everyone: Callable[[], None] = lambda: None
    pause_clock: Callable[[], None] = lambda: None
    inference_context: Callable[[], AbstractContextManager[Any]] = nullcontext

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **context: Any) -> None:  # noqa: ARG002
        if not state.global_step:
            self._evaluate_once(state, context["model"])

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **context: Any) -> None:  # noqa: ARG002
        if state.global_step % self.every == 0 or state.global_step >= state.max_steps:
            self._evaluate_once(state, context["model"])

    def _evaluate_once(self, state: TrainerState, model: Any) -> None:
        """Evaluate in the first process while the others wait."""
        if state.is_world_process_zero:
            self._evaluate(model)
        self.wait_for_everyone()
        self.pause_clock()

    def _evaluate(self, model: Any) -> None:
        metrics: dict[str, float] = {}
        model.eval()
        with torch.random.fork_rng(devices=[]), self.inference_context():
            for method in self.methods:
                metrics |= measure_ciou(self.models, self.samples, method)
        model.train()
        self.log(metrics)


def measure_ciou(models: Sam4Mllm, samples: Sequence[Sample], method: Any) -> dict[str, float]:
    """Segment the samples and compare with their true masks.

    Pixels that a sample ignores don't count. A sample that can't be segmented, because a reply is unreadable for instance,
    counts as an empty mask.

    Returns:
        `eval_{method}_cIoU`: sum of intersections over sum of unions. `eval_{method}_unread`: share of the samples that
        could not be segmented. `eval_{method}_seconds`: mean time per sample.

    Raises:
        ValueError: There are no samples.
    """
    if not samples:
        raise ValueError("expected at least one sample to measure on, got none")
    intersection = union = unread = 0
    began = time.perf_counter()
    for sample in samples:
        counted, truth = ~sample.ignore(), sample.mask()
        try:
            mask = models.segment(sample.image_path, sample.expression, method=method).mask
        except Sam4MllmError:
            mask = np.zeros_like(truth)
            unread += 1
        intersection += int((mask & truth & counted).sum())
        union += int(((mask | truth) & counted).sum())
    return {
        f"eval_{method}_cIoU": intersection / union if union else 1.0,
        f"eval_{method}_unread": unread / len(samples),
        f"eval_{method}_seconds": (time.perf_counter() - began) / len(samples),
    }


def load_held_out_samples(data: str, split: str, count: int) -> list[Sample]:
    """Load the first `count` samples that have an expression.

    Args:
        data: The dataset, as NAME:ROOT.
        split: Its split.
        count: Most samples.

    Raises:
        DataError: There is no such sample, or the first one's mask can't be decoded.
    """
    from sam4mllm_tool.data import load_dataset

    name, _, root = data.partition(":")
    dataset = load_dataset(name, Path(root).expanduser(), split=split)
    samples = list(islice((sample for sample in dataset if sample.expression), count))
    if not samples:
        problems = "; ".join(dataset.problems.lines())
        reason = f": {problems}" if problems else ""
        raise DataError(f"eval_data {data} has no sample with an expression in split '{split}'{reason}")
    samples[0].mask()
    return samples


def require_disjoint_images(samples: Sequence[Sample], conversations_dir: Path) -> None:
    """Raise DataError if an evaluation sample's image, by its id or its file, is also trained on."""
    if not samples:
        return
    ids = {sample.image_id: sample for sample in reversed(samples) if sample.image_id}
    files = {sample.image_path.resolve(): sample for sample in reversed(samples)}
    for conversations in read_conversations(conversations_dir):
        file = (conversations_dir / conversations.image).resolve()
        if sample := ids.get(conversations.image_id) or files.get(file):
            raise DataError(
                f"evaluation sample {sample.id!r} shows {sample.image_path}, which training conversation {conversations.id!r} "
                'is about: hold images out by a "split" in the lines of a jsonl dataset, or choose another dataset or split in '
                "eval_data and eval_split"
            )
