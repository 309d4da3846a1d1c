"""What a person sees of a training run: a bar with the speed, lines of metrics, and the real cIoU on held-out samples."""

import json
import sys
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

from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.data.training_conversations import read_conversations
from sam4mllm_tool.errors import DataError, Sam4MllmError
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

__all__ = ["Bar", "Evaluation", "Journal", "held_out", "measure", "require_held_out"]

Log = Callable[[dict[str, float]], None]


class Bar(TrainerCallback):
    """Steps done, time left, loss and tokens per second."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero:
            every = 1 if sys.stderr.isatty() else 30
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", unit="step", mininterval=every)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix_str(f"loss {logs['loss']:.4f}, {logs['tokens_per_second']:,.0f} tokens/s", refresh=False)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if self._bar is not None:
            self._bar.close()


class Journal(TrainerCallback):
    """Every figure as a line of JSON, with its step; of a run that goes on, what came after its checkpoint is taken out."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero and self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= state.global_step]
            beside = self._file.with_suffix(".tmp")
            beside.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            beside.replace(self._file)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if state.is_world_process_zero and logs:
            try:
                with self._file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"step": state.global_step, **logs}) + "\n")
            except OSError as error:
                raise OSError(f"the metrics can't be written to {self._file}: {error.strerror}") from error


def _step(line: str) -> float:
    """A line's step; one that was cut is of no step that was."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


@dataclass(eq=False)
class Evaluation(TrainerCallback):
    """Segments held-out samples with the model under training, every so many steps and at the end.

    samples: what is segmented, by each of the methods. log: where the figures go. wait: returns when all processes have come
    here. pause: called afterwards. inference: the context to compute in.
    """

    models: Sam4Mllm
    samples: Sequence[Sample]
    methods: Sequence[str]
    every: int
    log: Log = lambda _: None
    wait: Callable[[], None] = lambda: None
    pause: Callable[[], None] = lambda: None
    inference: Callable[[], AbstractContextManager[Any]] = nullcontext

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **told: Any) -> None:  # noqa: ARG002
        if state.global_step % self.every and state.global_step < state.max_steps:
            return
        if state.is_world_process_zero:
            model = told["model"]
            model.eval()
            with torch.random.fork_rng(devices=[]), self.inference():
                figures = [measure(self.models, self.samples, method) for method in self.methods]
            model.train()
            self.log({name: value for one in figures for name, value in one.items()})
        self.wait()
        self.pause()


def measure(models: Sam4Mllm, samples: Sequence[Sample], method: Any) -> dict[str, float]:
    """cIoU, sum of intersections over sum of unions, and the samples that could not be segmented, by their share.

    Pixels that a sample ignores count neither way; a sample without an answer, an unreadable reply for instance, counts as an
    empty mask. Raises ValueError for no samples.
    """
    if not samples:
        raise ValueError("expected at least one sample to measure on, got none")
    shared = united = unread = 0
    began = time.perf_counter()
    for sample in samples:
        counted, truth = ~sample.ignore(), sample.mask()
        try:
            found = models.segment(sample.image_path, sample.expression, method=method).mask
        except Sam4MllmError:
            found = np.zeros_like(truth)
            unread += 1
        shared += int((found & truth & counted).sum())
        united += int(((found | truth) & counted).sum())
    return {
        f"eval_{method}_cIoU": shared / united if united else 1.0,
        f"eval_{method}_unread": unread / len(samples),
        f"eval_{method}_seconds": (time.perf_counter() - began) / len(samples),
    }


def held_out(data: str, split: str, count: int) -> list[Sample]:
    """The first samples with an expression, at least one. data: NAME:ROOT.

    Raises DataError where there is none, or where the first one's mask can't be decoded.
    """
    from sam4mllm_tool.data import load_dataset

    name, _, root = data.partition(":")
    dataset = load_dataset(name, Path(root).expanduser(), split=split)
    samples = list(islice((sample for sample in dataset if sample.expression), count))
    if not samples:
        told = "; ".join(dataset.problems.lines())
        raise DataError(f"eval_data {data} has no sample with an expression in split '{split}'{f': {told}' if told else ''}")
    samples[0].mask()
    return samples


def require_held_out(samples: Sequence[Sample], lessons: Path) -> None:
    """Raises DataError naming the first sample whose picture is among the lessons, by its id or its file."""
    if not samples:
        return
    ids = {sample.image_id: sample for sample in reversed(samples) if sample.image_id}
    files = {sample.image_path.resolve(): sample for sample in reversed(samples)}
    for lesson in read_conversations(lessons):
        if same := ids.get(lesson.image_id) or files.get((lessons / lesson.image).resolve()):
            raise DataError(
                f"evaluation sample {same.id!r} shows {same.image_path}, a picture of lesson {lesson.id!r}: hold pictures out, "
                'by a "split" in the lines of a jsonl set, or name another split or data set in eval_split and eval_data'
            )
