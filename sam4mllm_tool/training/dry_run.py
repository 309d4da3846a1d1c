"""What a training run will take, measured on its first images: rows, steps, time and memory. Nothing is written.

The conversations of a few images are built in a temporary folder, and a few optimizer steps are timed on the device of the run.
"""

import json
import math
import resource
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.image_order import group_by_image, leave_out
from sam4mllm_tool.data.sources import Source
from sam4mllm_tool.data.training_conversations import CONVERSATIONS_FILE, read_conversations
from sam4mllm_tool.data.workers import build_images
from sam4mllm_tool.errors import count_noun
from sam4mllm_tool.training.attention import BRANCHES
from sam4mllm_tool.training.batches import Collator
from sam4mllm_tool.training.config import TrainingConfig
from sam4mllm_tool.training.held_out_part import hold_out_samples
from sam4mllm_tool.training.model import TrainableModel, load_trainable_model, uses_bfloat16
from sam4mllm_tool.training.preflight import check_before_building, choose_data_dialect
from sam4mllm_tool.training.row_builder import RowBuilder
from sam4mllm_tool.training.tokenized_dataset import TokenizedDataset, write_rows
from sam4mllm_tool.training.trainer import compute_loss_sum

__all__ = ["RunEstimate", "estimate_run"]

_IMAGES, _STEPS = 6, 3
"""Images whose conversations are built, and optimizer steps that are run, the first of which isn't timed."""


@dataclass(frozen=True)
class RunEstimate:
    """What a run will take, about.

    Attributes:
        start: What it starts from, in a line.
        images: Images that are trained on.
        held_back: Images that are held back.
        rows: Rows of tokens.
        tokens: Text tokens per row, in the mean.
        steps: Optimizer steps.
        building_s: Seconds to build the training conversations; 0 where they are built already.
        step_s: Seconds per optimizer step.
        memory_bytes: The largest memory in use: the GPU's, or else the process's.
        device: Where it runs.
    """

    start: str
    images: int
    held_back: int
    rows: int
    tokens: int
    steps: int
    building_s: float
    step_s: float
    memory_bytes: int
    device: str

    def lines(self) -> list[str]:
        """Return the estimate for people."""
        held_back = f", {count_noun(self.held_back, 'image')} held back" if self.held_back else ""
        building = f" after {_format_time(self.building_s)} to build the training conversations" if self.building_s else ""
        return [
            f"training {self.start}",
            f"data: {count_noun(self.images, 'image')}{held_back}",
            f"rows: about {self.rows:,}, of {self.tokens:,} tokens in the mean",
            f"steps: {self.steps:,}, about {self.step_s:.2g} s each on {self.device}",
            f"time: about {_format_time(self.steps * self.step_s)}{building}",
            f"memory: about {self.memory_bytes / 2**30:.1f} GiB",
            "nothing was written",
        ]


def estimate_run(config: TrainingConfig) -> RunEstimate:
    """Estimate what `train` will take with these settings. Raises what `train` raises before its first step."""
    start = check_before_building(config)
    with TemporaryDirectory() as folder:
        if config.data:
            held_back = hold_out_samples(config).held_back
            part = _build_first_conversations(config, held_back, Path(folder))
        else:
            held_back = frozenset()
            part = _copy_first_conversations(Path(config.lessons).expanduser(), Path(folder))
        trainable = load_trainable_model(replace(config, lessons=folder, data=(), held_back=None, eval_data=None))
        builder = RowBuilder(trainable.prompter, trainable.placeholder, packs=trainable.packs, max_tokens=config.max_tokens)
        counts = write_rows(Path(folder), Path(folder) / "rows.sqlite", builder)
        dataset = TokenizedDataset(Path(folder) / "rows.sqlite", trainable.prompter, trainable.placeholder)
        step_s = _time_steps(config, trainable, dataset)
    rows = max(1, round(counts["rows"] / part.share))
    batches = math.ceil(rows / config.batch)
    return RunEstimate(
        start=start.describe(),
        images=part.images,
        held_back=len(held_back),
        rows=rows,
        tokens=round(sum(dataset.lengths) / len(dataset.lengths)),
        steps=config.max_steps or math.ceil(config.epochs * math.ceil(batches / config.accumulation)),
        building_s=part.building_s,
        step_s=step_s,
        memory_bytes=_measure_memory(trainable.model.device),
        device=str(trainable.model.device),
    )


@dataclass(frozen=True)
class _FirstPart:
    """The first conversations: of how many images there are in all, which share they are, and the seconds to build all."""

    images: int
    share: float
    building_s: float = 0.0


def _build_first_conversations(config: TrainingConfig, held_back: frozenset[str], folder: Path) -> _FirstPart:
    """Write the conversations of the first images."""
    datasets = [Source.parse(text).open() for text in config.data]
    recipe = Recipe.of(choose_data_dialect(config), config.recipe or {})
    images = leave_out(group_by_image(datasets), held_back)
    first = list(islice(images, _IMAGES))
    began = time.perf_counter()
    built = list(build_images(iter(first), folder, recipe, 1))
    seconds = (time.perf_counter() - began) / max(1, len(first))
    lines = [line for image in built for line in image.lines]
    (folder / CONVERSATIONS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    total = len(first) + sum(1 for _ in images)
    return _FirstPart(total, len(first) / total, total * seconds / config.build_processes)


def _copy_first_conversations(source: Path, folder: Path) -> _FirstPart:
    """Copy the first lines."""
    images: set[str] = set()
    total = 0
    with (folder / CONVERSATIONS_FILE).open("w", encoding="utf-8") as lines:
        for conversations in read_conversations(source):
            images.add(conversations.image)
            if total < _IMAGES:
                image = str((source / conversations.image).resolve())
                lines.write(json.dumps(json.loads(conversations.to_json()) | {"image": image}) + "\n")
            total += 1
    return _FirstPart(len(images), min(1.0, _IMAGES / total) if total else 1.0)


def _time_steps(config: TrainingConfig, trainable: TrainableModel, dataset: TokenizedDataset) -> float:
    """Return the seconds of an optimizer step, without the first one's warm-up."""
    tokenizer = trainable.prompter.tokenizer
    pad_id = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    collate = Collator(pad_id, trainable.accepted_inputs, trainable.packs, trainable.attention == BRANCHES)
    weights = [weight for weight in trainable.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0)
    device, numbers, in_bfloat16 = trainable.model.device, 0, uses_bfloat16(config)
    dtype = torch.bfloat16 if in_bfloat16 else trainable.model.dtype
    seconds = []
    for _ in range(_STEPS):
        began = time.perf_counter()
        for _ in range(config.accumulation):
            items = [dataset[(numbers + offset) % len(dataset)] for offset in range(config.batch)]
            numbers += config.batch
            batch = {name: value.to(device) for name, value in collate(items).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=in_bfloat16):
                compute_loss_sum(trainable.model, batch, dtype).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return sum(seconds[1:]) / (_STEPS - 1)


def _measure_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _format_time(seconds: float) -> str:
    """Return `40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
