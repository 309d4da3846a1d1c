"""Stages 2 and 3: the base language model learns the scenes, then a LoRA adapter with the projector learns the dialogue.

Both stages share the step: the packed examples of a batch of scenes, one forward pass, cross-entropy on the answers' tokens
and the auxiliary losses.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from recipes.embedded.architecture import COORDINATES, build_vocabulary
from recipes.embedded.auxiliary_losses import PointProbe, compute_image_attention_loss, compute_word_attention_loss
from recipes.embedded.curriculum import base_examples
from recipes.embedded.dialogue_curriculum import dialogue_examples
from recipes.embedded.feature_model import CachedFeatureModel, CachedFeatures, ExampleBatch, collate
from recipes.embedded.packing import TASKS, TrainingExample, build_example, encode_text, pack_examples
from recipes.embedded.patch_targets import PatchTargets, compute_targets
from recipes.embedded.scene_cache import SIDE, SceneCache
from recipes.embedded.training_loop import Metrics, MuonAdamW, Stage, autocast, draw_batches, train
from sam4mllm_tool.embedded.everyday import KINDS, SINGLE_OBJECT_KINDS, EverydayScene, sample_expressions
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.types import Box, Turn

TASK_WEIGHTS = {"inside": 1.5, "points": 1.5, "list": 0.4, "parts": 0.4, "any": 0.5, "count": 0.5, "match": 2.0, "whether": 2.0}
"""Weight of a task's tokens in the loss; 1 for the others."""
DECISION_WEIGHT = 3.0
"""Weight of the tokens that say whether there is a box, or another one."""
AUXILIARY_WEIGHTS = {"look": 2.0, "read": 0.5, "known": 0.5}
"""Weight of each auxiliary loss: a box is only as good as the attention that its numbers are read by."""
ROW_WIDTH, MAX_ROWS = 112, 8
"""Tokens per row, rows per scene."""
_RATED_TASKS = (
    "inside",
    "points",
    "what",
    "any",
    "count",
    "match",
    "whether",
)  # their metric is accuracy, that of others the loss
_FIRST_NUMBER = build_vocabulary().index("000")
_DECISIONS = torch.tensor([build_vocabulary().index(word) for word in ("[", "nothing", "no", "</s>")])
Curriculum = Callable[[EverydayScene, Random], Iterator[TrainingExample]]


def compute_answer_loss(logits: Tensor, batch: ExampleBatch, blur: float) -> tuple[Tensor, Metrics]:
    """Compute the weighted cross-entropy and each task's metric.

    Args:
        logits: (k, vocabulary).
        batch: What they were computed for.
        blur: Standard deviation, in steps, of the normal distribution that replaces a coordinate as target; 0 for none.
    """
    losses = F.cross_entropy(logits, batch.target, reduction="none")
    if blur:
        number = (batch.target >= _FIRST_NUMBER) & (batch.target < _FIRST_NUMBER + COORDINATES)
        steps = torch.arange(COORDINATES, device=logits.device)[None] - (batch.target[number] - _FIRST_NUMBER)[:, None]
        share = torch.softmax(-0.5 * (steps / blur) ** 2, -1)
        log_p = logits[number].log_softmax(-1)[:, _FIRST_NUMBER : _FIRST_NUMBER + COORDINATES]
        losses = losses.masked_scatter(number, -(share * log_p).sum(-1))
    weights = torch.tensor([TASK_WEIGHTS.get(task, 1.0) for task in TASKS], device=logits.device)[batch.task]
    located = torch.isin(
        batch.task, torch.tensor([TASKS.index(task) for task in ("locate", "boxes", "other")], device=logits.device)
    )
    weights = torch.where(located & torch.isin(batch.target, _DECISIONS.to(logits.device)), DECISION_WEIGHT, weights)
    right = (logits.argmax(-1) == batch.target).float()
    metrics = {}
    for index, task in enumerate(TASKS):
        if (at := batch.task == index).any():
            metrics[task] = (right if task in _RATED_TASKS else losses)[at].mean().item()
    return (losses * weights).sum() / weights.sum(), metrics


@dataclass(eq=False)
class LanguageTraining:
    """Trains one of the two stages.

    Attributes:
        stage: What is trained.
        cache: The training scenes.
        model: The model that is trained.
        probe: Its auxiliary probe.
        targets: Where in the image answers are visible.
        curriculum: Makes the examples of a scene.
        box_question: Template of the question for boxes, in held-out generation.
        point_task: Task of point answers, with the two words they may be.
        batch_size: Scenes per step.
        blur: See `compute_answer_loss`.
    """

    stage: Stage
    cache: SceneCache
    model: CachedFeatureModel
    probe: PointProbe
    targets: PatchTargets
    curriculum: Curriculum
    box_question: str
    point_task: tuple[str, str, str]
    batch_size: int = 8
    blur: float = 0.0

    def run(self) -> None:
        """Train, resuming from the checkpoint."""
        batches: Iterator[ExampleBatch] | None = None

        def compute_loss(step: int) -> tuple[Tensor, Metrics]:
            nonlocal batches
            batches = batches or self._prefetch_batches(step)
            return self._compute_loss(next(batches))

        train(self.stage, compute_loss, self._evaluate)

    def _prefetch_batches(self, first_step: int) -> Iterator[ExampleBatch]:
        """Yield batches; a thread builds the next one while the model learns from this one."""
        draw = draw_batches(self.cache.trained_on, self.batch_size, seed=40, first=first_step)
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._build_batch, first_step, next(draw))
            for step in itertools.count(first_step + 1):
                current, following = following, pool.submit(self._build_batch, step, next(draw))
                yield current.result()

    def _build_batch(self, step: int, scenes: Tensor) -> ExampleBatch:
        name = self.stage.name
        examples = (self.curriculum(self.cache.scene(i), Random(f"{name}-{step}-{i}")) for i in scenes.tolist())
        return collate(scenes, [pack_examples(list(group), ROW_WIDTH, MAX_ROWS) for group in examples])

    def _compute_loss(self, batch: ExampleBatch) -> tuple[Tensor, Metrics]:
        device = self.model.model.device
        batch, targets = batch.to(device), self.targets.select(batch.scenes).to(device)
        with autocast(device):
            out = self.model.forward(batch, details=True)
        loss, metrics = compute_answer_loss(out.logits, batch, self.blur)
        assert out.hidden is not None
        auxiliary = {
            "look": compute_image_attention_loss(out.image_attention, batch, targets),
            "read": compute_word_attention_loss(out.word_attention, batch),
            "known": self.probe.compute_loss(out.hidden, batch, targets),
        }
        for name, value in auxiliary.items():
            loss = loss + AUXILIARY_WEIGHTS[name] * value
        return loss, metrics | {name: value.item() for name, value in auxiliary.items()}

    def _evaluate(self) -> Metrics:
        return {**measure_boxes(self.cache, self.model, self.box_question), **self.measure_points()}

    @torch.inference_mode()
    def measure_points(self, scenes: int = 40) -> Metrics:
        """Measure the point answers after the true dialogue: accuracy of all and of those that pass the paper's thresholds."""
        task, *words = self.point_task
        yes, no = (encode_text(word)[0] for word in words)
        hits, passing = [], []
        for index in self.cache.held_out(scenes).split(20):
            examples = [list(self.curriculum(self.cache.scene(i), Random(i))) for i in index.tolist()]
            batch = collate(index, [pack_examples(group, ROW_WIDTH, MAX_ROWS) for group in examples]).to(
                self.model.model.device
            )
            with autocast(self.model.model.device):
                logits = self.model.forward(batch).logits
            at = (batch.task == TASKS.index(task)) & ((batch.target == yes) | (batch.target == no))
            p = logits[at][:, [yes, no]].softmax(-1)[:, 0]
            hits.append((p > 0.5) == (batch.target[at] == yes))
            passing.append((p > 0.75) | (p < 0.1))
        hit, passed = torch.cat(hits).float(), torch.cat(passing)
        return {
            "point": hit.mean().item(),
            "passing": passed.float().mean().item(),
            "right_of_passing": hit[passed].mean().item(),
        }


def measure_boxes(cache: SceneCache, model: CachedFeatureModel, question: str, scenes: int = 40) -> Metrics:
    """Measure generated boxes on held-out scenes by kind: the share of replies that are right, up to the second box.

    Every box has to have an IoU of at least 0.5; a reply without a box is right where the expression fits nothing.
    """
    cases: list[tuple[int, str, str, list[Box]]] = []
    rng = Random(7)
    for i in cache.held_out(scenes).tolist():
        scene = cache.scene(i)
        for expression in sample_expressions(scene, 8, rng, held_out=True):
            boxes = [scene.regions[k].box for k in expression.targets]
            cases.append((i, question.format(expression.text), expression.kind, boxes[:2]))
    cases.sort(key=lambda case: len(case[1]))
    hits: dict[str, list[bool]] = {}
    refused: list[bool] = []
    for start in range(0, len(cases), 64):
        chunk = cases[start : start + 64]
        prompts = [build_example((Turn("user", text),), "", "locate") for _, text, _, _ in chunk]
        with autocast(model.model.device):
            replies = model.generate(torch.tensor([i for i, *_ in chunk]), [p.ids[: p.answer_start] for p in prompts], 13)
        for (_, _, kind, boxes), reply in zip(chunk, replies, strict=True):
            predicted = _parse_boxes(reply)[:2]
            pairs = list(zip(predicted, boxes, strict=False))
            hits.setdefault(kind, []).append(len(predicted) == len(boxes) and all(a.iou(b) >= 0.5 for a, b in pairs))
            if boxes:
                refused.append(not predicted)
    figures: Metrics = {kind: float(np.mean(hits[kind])) for kind in KINDS if kind in hits}
    single = [hit for kind in figures if kind in SINGLE_OBJECT_KINDS and kind != "implicit_held_out" for hit in hits[kind]]
    return {**figures, "single": float(np.mean(single)), "refused": float(np.mean(refused))}


def _parse_boxes(reply: str) -> list[Box]:
    numbers = [(int(n) + 0.5) * SIDE / COORDINATES for n in re.findall(r"\d{3}", reply)]
    return [Box(*numbers[i : i + 4]) for i in range(0, len(numbers) - 3, 4)]


def train_base(cache: SceneCache, model: LlavaForConditionalGeneration, folder: Path, steps: int) -> None:
    """Train the language model in place (stage 2); checkpoint folder/base.pt.

    The projector stays as the vision stage left it: trained along with a language model that knows nothing yet, it loses
    colours and shapes within a few hundred steps, and they never come back.
    """
    model.model.multi_modal_projector.requires_grad_(False)
    probe = PointProbe()
    parts = nn.ModuleDict({"language": model.model.language_model, "probe": probe})
    parts.to(model.device)
    optimizer = MuonAdamW(parts.named_parameters(), rate=3e-3, weight_decay=0.01, adamw_rate=6e-4)
    LanguageTraining(
        Stage("base", folder, parts, optimizer, steps),
        cache,
        CachedFeatureModel(model, CachedFeatures(cache, model, folder / "features")),
        probe,
        compute_targets(cache, folder),
        base_examples,
        box_question="locate {}",
        point_task=("inside", "inside", "outside"),
        blur=1.0,
    ).run()


def add_adapter(model: LlavaForConditionalGeneration) -> PeftModel:
    """Add LoRA on every projection of the language model, and a trainable copy of the projector."""
    config = LoraConfig(
        r=32,
        lora_alpha=64,
        lora_dropout=0.0,
        target_modules=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def train_adapter(cache: SceneCache, model: LlavaForConditionalGeneration, folder: Path, steps: int) -> None:
    """Train an adapter on the frozen base (stage 3); checkpoint folder/adapter.pt."""
    features = CachedFeatures(cache, model, folder / "features")
    adapted = add_adapter(model)  # in place: `model` has the adapter's layers from here on
    probe = PointProbe()
    parts = nn.ModuleDict({"adapted": adapted, "probe": probe})
    parts.to(model.device)
    optimizer = MuonAdamW(parts.named_parameters(), rate=2e-3, weight_decay=0.0, adamw_rate=2e-4)
    LanguageTraining(
        Stage("adapter", folder, parts, optimizer, steps),
        cache,
        CachedFeatureModel(model, features),
        probe,
        compute_targets(cache, folder),
        dialogue_examples,
        box_question=EMBEDDED.ask_boxes_text.replace("{expression}", "{}"),
        point_task=("points", EMBEDDED.yes, EMBEDDED.no),
    ).run()
