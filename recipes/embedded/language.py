"""Stages 2 and 3: the base language model learns the world, then a LoRA adapter with the projector learns the dialogue.

The vision tower is frozen by now and its features are cached, so only the projector and the language model run. Both stages
share the step: a batch of lessons, each a trie of examples, one forward pass, cross-entropy on the answers' tokens.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm import tqdm
from transformers import DynamicCache, LlavaForConditionalGeneration

from recipes.embedded.architecture import CELLS, GRID, SCALE, WIDTH, vocabulary
from recipes.embedded.examples import (
    PICTURE,
    TASKS,
    Example,
    Row,
    base_examples,
    dialogue_examples,
    encode,
    example,
    rows,
)
from recipes.embedded.eyes import HELD_OUT, Targets, make_targets, pixels
from recipes.embedded.loop import Metrics, Optimiser, batches, train
from recipes.embedded.world import World
from sam4mllm_tool.embedded.expressions import KINDS, sample_expressions
from sam4mllm_tool.embedded.scenes import Scene
from sam4mllm_tool.models.mllm.model_runner import cache_parameter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.types import Box, Turn

WEIGHTS = {"inside": 1.5, "points": 1.5, "list": 0.4, "any": 0.5, "count": 0.5, "whether": 2.0}
"""Weight of a task's tokens in the loss; 1 where not named."""

WIDEST, MOST_ROWS = 96, 10
"""Tokens a row, rows a scene."""
LOOKING = (2, 3)
"""The layers whose first head is taught where to look."""
READING = (0, 1)
"""The layers whose second head is taught which words to read."""
PROBED = 4
"""The layer before which points' places and cells are to be known."""
GUIDE = 0.5
"""Weight of all three in the loss."""
_OPEN = vocabulary().index("[")
_END = vocabulary().index("</s>")
_FIRST_NUMBER = vocabulary().index("000")
Curriculum = Callable[[Scene, Random], Iterator[Example]]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of several scenes, padded to one length l.

    scenes: (s,) which scenes. owner: (n,) each row's place in scenes. ids, positions: (n, l). sees: (n, l, l) bool, among
    the row's own tokens. row, node, target, task, look: (k,), one a supervised token; reads: (k, l) bool.
    """

    scenes: Tensor
    owner: Tensor
    ids: Tensor
    positions: Tensor
    sees: Tensor
    row: Tensor
    node: Tensor
    target: Tensor
    task: Tensor
    look: Tensor
    reads: Tensor


def collate(scenes: Tensor, lessons: Sequence[Sequence[Row]]) -> Batch:
    """lessons: the rows of each scene."""
    owned = [(owner, row) for owner, lesson in enumerate(lessons) for row in lesson]
    n, length = len(owned), max(len(row.packed.ids) for _, row in owned)
    ids, positions = np.zeros((n, length), np.int64), np.zeros((n, length), np.int64)
    sees = np.broadcast_to(np.eye(length, dtype=np.bool_), (n, length, length)).copy()
    for number, (_, row) in enumerate(owned):
        used = len(row.packed.ids)
        ids[number, :used], positions[number, :used] = row.packed.ids, row.packed.positions + PICTURE
        sees[number, :used, :used] = row.packed.sees()
    flat = [
        (k, *item)
        for k, (_, row) in enumerate(owned)
        for item in zip(row.nodes, row.targets, row.tasks, row.looks, strict=True)
    ]
    owner = torch.tensor([owner for owner, _ in owned])
    reads = torch.zeros(len(flat), length, dtype=torch.bool)
    for item, read in enumerate(read for _, row in owned for read in row.reads):
        reads[item, list(read)] = True
    row, node, target, task, look = torch.tensor(flat).T
    words, places, visible = (torch.from_numpy(array) for array in (ids, positions, sees))
    return Batch(scenes, owner, words, places, visible, row, node, target, task, look, reads)


def cached_features(world: World, model: LlavaForConditionalGeneration, folder: Path) -> Tensor:
    """(scenes, 144, width) bf16: the vision tower's output, before the projector."""
    cached = folder / f"features-{world.first}-{len(world)}.pt"
    if cached.exists():
        return torch.load(cached, weights_only=True, mmap=True)
    features = torch.empty(len(world), GRID**2, WIDTH, dtype=torch.bfloat16)
    layer = model.config.vision_feature_layer
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for index in tqdm(torch.arange(len(world)).split(200), desc="features", mininterval=20):
            seen = model.model.vision_tower(pixel_values=pixels(world, index), output_hidden_states=True)
            features[index] = seen.hidden_states[layer].to(torch.bfloat16)
    torch.save(features, cached)
    return features


class Student:
    """The MLLM at work on cached features."""

    def __init__(self, model: LlavaForConditionalGeneration, features: Tensor) -> None:
        self.model, self.features = model, features
        self.looked: list[Tensor] = []
        """(k, 144) for each of LOOKING: what its first head saw of the picture in the last `logits`, if asked to tell."""
        self.read: list[Tensor] = []
        """(k, l) for each of READING: what its second head saw of the row."""
        self.hidden: Tensor | None = None
        """(k, width): what the node knew before layer PROBED."""

    def picture(self, scenes: Tensor) -> Tensor:
        """(n, 145, width): the start token and the picture."""
        start = self.model.get_input_embeddings()(torch.ones(len(scenes), 1, dtype=torch.long))
        seen = self.model.model.multi_modal_projector(self.features[scenes].float())
        return torch.cat([start, seen.to(start.dtype)], 1)

    def logits(self, batch: Batch, tell: bool = False) -> Tensor:
        """(k, vocabulary) at the supervised nodes; tell: keep `looked`, `read` and `hidden`.

        The picture runs once a scene; each row then attends to its scene's keys and values, and to its own trie.
        """
        language = self.model.model.language_model
        seen = DynamicCache()
        cache = cache_parameter(language)
        language(inputs_embeds=self.picture(batch.scenes), use_cache=True, **{cache: seen})
        shared = DynamicCache()
        for number, layer in enumerate(seen.layers):
            keys, values = (kept.index_select(0, batch.owner) for kept in (layer.keys, layer.values))  # type: ignore[union-attr]
            shared.update(keys, values, number)
        n, length = batch.ids.shape
        sees = torch.cat([torch.ones(n, length, PICTURE, dtype=torch.bool), batch.sees], -1)[:, None]
        out = language(
            inputs_embeds=self.model.get_input_embeddings()(batch.ids),
            attention_mask=torch.zeros(sees.shape, dtype=torch.bfloat16).masked_fill_(~sees, float("-inf")),
            position_ids=batch.positions,
            use_cache=True,
            output_attentions=tell,
            output_hidden_states=tell,
            **{cache: shared},
        )
        if tell:
            self.looked = [out.attentions[layer][batch.row, 0, batch.node, 1:PICTURE].float() for layer in LOOKING]
            self.read = [out.attentions[layer][batch.row, 1, batch.node, PICTURE:].float() for layer in READING]
            self.hidden = out.hidden_states[PROBED][batch.row, batch.node].float()
        return self.model.lm_head(out.last_hidden_state[batch.row, batch.node]).float()

    @torch.inference_mode()
    def generate(self, scenes: Tensor, prompts: Sequence[list[int]], tokens: int) -> list[str]:
        """Greedy answers; prompts begin with the picture."""
        length = max(map(len, prompts))
        attends = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
        word = self.model.get_input_embeddings()
        embedded = [
            torch.cat([word(torch.zeros(length - len(p), dtype=torch.long)), seen, word(torch.tensor(p[PICTURE:]))])
            for p, seen in zip(prompts, self.picture(scenes), strict=True)
        ]
        model: Any = self.model  # only some versions of transformers type `generate`
        out: Tensor = model.generate(
            inputs_embeds=torch.stack(embedded),
            attention_mask=attends,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=_END,
            pad_token_id=0,
        )
        words = vocabulary()
        return [" ".join(words[t] for t in row if t > _END) for row in out.tolist()]


def loss_of(logits: Tensor, batch: Batch, soften: float) -> tuple[Tensor, Metrics]:
    """Weighted cross-entropy. soften > 0: a coordinate's neighbours get a normal share of its target, so wide in steps."""
    each = F.cross_entropy(logits, batch.target, reduction="none")
    if soften:
        number = (batch.target >= _FIRST_NUMBER) & (batch.target < _FIRST_NUMBER + SCALE)
        steps = torch.arange(SCALE)[None] - (batch.target[number] - _FIRST_NUMBER)[:, None]
        share = torch.softmax(-0.5 * (steps / soften) ** 2, -1)
        log_p = logits[number].log_softmax(-1)[:, _FIRST_NUMBER : _FIRST_NUMBER + SCALE]
        each = each.masked_scatter(number, -(share * log_p).sum(-1))
    weights = torch.tensor([WEIGHTS.get(task, 1.0) for task in TASKS])[batch.task]
    right = (logits.argmax(-1) == batch.target).float()
    metrics = {}
    for index, task in enumerate(TASKS):
        if (at := batch.task == index).any():
            metrics[task] = (
                right[at].mean() if task in ("inside", "points", "what", "any", "count", "whether") else each[at].mean()
            ).item()
    return (each * weights).sum() / weights.sum(), metrics


def read_loss(attention: Sequence[Tensor], batch: Batch) -> Tensor:
    """How far attention is from being spread evenly over the words that decide which object is meant."""
    told = batch.reads.any(1)
    even = batch.reads[told] / batch.reads[told].sum(1, keepdim=True)
    return torch.stack([-((a[told] + 1e-3).log() * even).sum(1).mean() for a in attention]).mean()


def look_loss(attention: Sequence[Tensor], batch: Batch, owners: Tensor) -> Tensor:
    """How much of the attention misses the patches where the answer is to be seen: mean -log of the share that does not.

    owners: (scenes, 144), which object covers a patch. Told where to look, a small model finds its routes in minutes.
    """
    covered = owners[batch.scenes][batch.owner[batch.row]] == batch.look[:, None]
    patch, _ = _patch_and_cell(batch.look)
    meant = torch.where(batch.look[:, None] >= 0, covered, torch.arange(GRID**2) == patch[:, None])
    told = meant.any(1)
    # That a box opens, and its first number, are routed by the words of the expression; what follows, by the numbers so far.
    by_words = (batch.target == _OPEN) | (batch.ids[batch.row, batch.node] == _OPEN)
    weights = torch.where(by_words, 4.0, 1.0) * told
    misses = torch.stack([-((a * meant).sum(1) + 1e-3).log() for a in attention]).mean(0)
    return (misses * weights).sum() / weights.sum()


def _patch_and_cell(look: Tensor) -> tuple[Tensor, Tensor]:
    """Of each look at a cell, its patch and its number within the patch; -1 for the other looks."""
    row, column = (-2 - look) // (GRID * CELLS), (-2 - look) % (GRID * CELLS)
    patch = row // CELLS * GRID + column // CELLS
    cell = row % CELLS * CELLS + column % CELLS
    return torch.where(look < -1, patch, -1), torch.where(look < -1, cell, -1)


class Probe(nn.Module):
    """Reads, half-way up, what a point's answer will be made of: where in its patch it falls, and the patch's cells.

    Told to know both, the layers above learn to pick the one cell; the probe itself is thrown away.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(WIDTH, 2 * CELLS + CELLS**2)

    def loss(self, hidden: Tensor, batch: Batch, cells: Tensor) -> Tensor:
        """cells: (scenes, 144, 16) uint8, the share of each cell that its patch's object covers, to 255."""
        patch, cell = _patch_and_cell(batch.look)
        at = cell >= 0
        row, column, values = self.read(hidden[at]).split([CELLS, CELLS, CELLS**2], -1)
        truth = cells[batch.scenes[batch.owner[batch.row[at]]], patch[at]].float() / 255
        place = F.cross_entropy(row, cell[at] // CELLS) + F.cross_entropy(column, cell[at] % CELLS)
        return place + 2 * F.binary_cross_entropy_with_logits(values, truth)


def train_stage(
    name: str, world: World, student: Student, optimiser: Optimiser, folder: Path, curriculum: Curriculum, ask: str, *,
    steps: int, batch: int, soften: float, module: nn.Module,
    truth: Targets, probe: Probe,
) -> None:  # fmt: skip
    """One stage; ask: the wording whose boxes are checked by real generation; truth: teaches where to look."""
    draw = batches(len(world) - HELD_OUT, batch, seed=40)

    def make(step: int, scenes: Tensor) -> Batch:
        drawn = (curriculum(world.scene(i), Random(f"{name}-{step}-{i}")) for i in scenes.tolist())
        return collate(scenes, [rows(list(examples), WIDEST, MOST_ROWS) for examples in drawn])

    # One thread draws the next batch's examples while this one is learnt.
    pool = ThreadPoolExecutor(1)
    ahead: list[tuple[int, object]] = []

    def run(step: int) -> tuple[Tensor, Metrics]:
        if not ahead or ahead[0][0] != step:
            ahead[:] = [(step, pool.submit(make, step, next(draw)))]
        _, future = ahead.pop()
        ahead.append((step + 1, pool.submit(make, step + 1, next(draw))))
        lessons: Batch = future.result()  # type: ignore[attr-defined]
        with torch.autocast("cpu", torch.bfloat16):
            logits = student.logits(lessons, tell=True)
        loss, metrics = loss_of(logits, lessons, soften)
        if student.hidden is not None:
            look, read = look_loss(student.looked, lessons, truth.owner), read_loss(student.read, lessons)
            known = probe.loss(student.hidden, lessons, truth.cells)
            loss = loss + GUIDE * (look + read + known)
            metrics |= {"look": look.item(), "read": read.item(), "known": known.item()}
        return loss, metrics

    def evaluate() -> Metrics:
        return {**box_figures(world, student, ask), **point_figures(world, student, curriculum)}

    train(name, folder, module, optimiser, steps, run, evaluate)


def box_figures(world: World, student: Student, ask: str, scenes: int = 80) -> Metrics:
    """Share of right answers by kind on held-out scenes, really generated: IoU of at least 0.5, or rightly none."""
    asked: list[tuple[int, str, str, list[float]]] = []
    rng = Random(7)
    for i in range(len(world) - scenes, len(world)):
        for expression in sample_expressions(world.scene(i), 7, rng):
            boxes = [world.objects[i][k].box for k in expression.targets]
            asked.append((i, ask.format(expression.text), expression.kind, list(boxes[0]) if boxes else []))
    asked.sort(key=lambda item: len(item[1]))
    right: dict[str, list[float]] = {}
    refused: list[float] = []
    for start in range(0, len(asked), 96):
        chunk = asked[start : start + 96]
        prompts = [example((Turn("user", text),), "", "locate") for _, text, _, _ in chunk]
        with torch.autocast("cpu", torch.bfloat16):
            told = student.generate(torch.tensor([i for i, *_ in chunk]), [p.ids[: p.answer] for p in prompts], 7)
        for (_, _, kind, box), reply in zip(chunk, told, strict=True):
            numbers = [(int(n) + 0.5) * 256 / SCALE for n in re.findall(r"\d{3}", reply)[:4]]
            right.setdefault(kind, []).append(_hits(numbers, box) if box else not numbers)
            if box:
                refused.append(not numbers)
    figures: Metrics = {kind: float(np.mean(right[kind])) for kind in KINDS if kind in right}
    single = [hit for kind in figures if kind not in ("absent", "plural") for hit in right[kind]]
    return {**figures, "single": float(np.mean(single)), "refused": float(np.mean(refused))}


def _hits(numbers: Sequence[float], box: Sequence[float]) -> bool:
    return len(numbers) == 4 and Box(*numbers).iou(Box(*box)) >= 0.5


@torch.inference_mode()
def point_figures(world: World, student: Student, curriculum: Curriculum, scenes: int = 80) -> Metrics:
    """Point answers given the true dialogue so far: right, and right among those that pass the paper's thresholds."""
    yes, no = (
        encode(word)[0] for word in (("inside", "outside") if curriculum is base_examples else (EMBEDDED.yes, EMBEDDED.no))
    )
    asked = TASKS.index("inside" if curriculum is base_examples else "points")
    hits, passing = [], []
    for index in torch.arange(len(world) - HELD_OUT, len(world) - HELD_OUT + scenes).split(20):
        drawn = [list(curriculum(world.scene(i), Random(i))) for i in index.tolist()]
        batch = collate(index, [rows(examples, WIDEST, MOST_ROWS) for examples in drawn])
        with torch.autocast("cpu", torch.bfloat16):
            logits = student.logits(batch)
        at = (batch.task == asked) & ((batch.target == yes) | (batch.target == no))
        p = logits[at][:, [yes, no]].softmax(-1)[:, 0]
        truth = batch.target[at] == yes
        hits.append((p > 0.5) == truth)
        passing.append((p > 0.75) | (p < 0.1))
    hit, passed = torch.cat(hits).float(), torch.cat(passing)
    return {"point": hit.mean().item(), "passing": passed.float().mean().item(), "right_of_passing": hit[passed].mean().item()}


def train_base(world: World, model: LlavaForConditionalGeneration, folder: Path, steps: int, batch: int = 16) -> None:
    """Stage 2, in place: the language model; checkpoint folder/base.pt.

    The projector stays as the eyes left it: trained along with a language model that knows nothing yet, it loses colours and
    shapes within a few hundred steps, and nothing recovers them.
    """
    model.model.multi_modal_projector.requires_grad_(False)
    student = Student(model, cached_features(world, model, folder))
    probe = Probe()
    parts = nn.ModuleDict({"language": model.model.language_model, "probe": probe})
    optimiser = Optimiser(parts.named_parameters(), rate=3e-3, weight_decay=0.01, rate_of_others=6e-4)
    train_stage(
        "base", world, student, optimiser, folder, base_examples, "locate {}",
        steps=steps, batch=batch, soften=1.0, module=parts, truth=make_targets(world, folder), probe=probe,
    )  # fmt: skip


def with_adapter(model: LlavaForConditionalGeneration) -> PeftModel:
    """LoRA on every projection of the language model, and the projector trained along."""
    config = LoraConfig(
        r=32,
        lora_alpha=64,
        lora_dropout=0.0,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def train_adapter(world: World, model: LlavaForConditionalGeneration, folder: Path, steps: int, batch: int = 16) -> PeftModel:
    """Stage 3: the base frozen, an adapter on top; checkpoint folder/adapter.pt."""
    features = cached_features(world, model, folder)
    adapted = with_adapter(model)
    student = Student(model, features)  # its layers are the adapter's from here on
    probe = Probe()
    parts = nn.ModuleDict({"adapted": adapted, "probe": probe})
    optimiser = Optimiser(parts.named_parameters(), rate=2e-3, weight_decay=0.0, rate_of_others=2e-4)
    ask = EMBEDDED.ask_boxes_text.replace("{expression}", "{}")
    train_stage(
        "adapter", world, student, optimiser, folder, dialogue_examples, ask,
        steps=steps, batch=batch, soften=0.0, module=parts, truth=make_targets(world, folder), probe=probe,
    )  # fmt: skip
    return adapted
