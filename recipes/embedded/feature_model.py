"""The MLLM on cached image features: batches of example rows, and the forward pass that shares the image among them.

The vision tower is frozen when the language model learns, so its output is computed once. The image then runs through the
language model once per scene, and the scene's rows attend to its keys and values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import DynamicCache, LlavaForConditionalGeneration

from recipes.embedded.architecture import build_vocabulary
from recipes.embedded.packing import PREFIX_LENGTH, ExampleRow
from recipes.embedded.processes import first_process_first
from recipes.embedded.scene_cache import SceneCache
from recipes.embedded.training_loop import autocast
from sam4mllm_tool.atomic_io import atomic_path
from sam4mllm_tool.models.mllm.model_runner import cache_parameter

_END = build_vocabulary().index("</s>")
IMAGE_ATTENTION_LAYERS = (2, 3)
"""The layers whose first head is taught where in the image to look."""
WORD_ATTENTION_LAYERS = (0, 1)
"""The layers whose second head is taught which words matter."""
PROBED_LAYER = 4
"""The layer whose input is probed for points' positions and cells."""


@dataclass(frozen=True, eq=False)
class ExampleBatch:
    """n rows of several scenes, padded to length l, with k tokens to predict.

    Attributes:
        scenes: (s,) indices of the scenes.
        owner: (n,) each row's index in `scenes`.
        ids: (n, l) tokens, without the image's.
        positions: (n, l).
        visible: (n, l, l) bool, which of the row's own tokens each token attends to.
        row, node: (k,) where each token is predicted from.
        target, task, image_target, region: (k,) see `ExampleRow`.
        word_targets: (k, l) bool.
    """

    scenes: Tensor
    owner: Tensor
    ids: Tensor
    positions: Tensor
    visible: Tensor
    row: Tensor
    node: Tensor
    target: Tensor
    task: Tensor
    image_target: Tensor
    region: Tensor
    word_targets: Tensor

    def to(self, device: torch.device) -> "ExampleBatch":
        """Return the batch on a device, but for `scenes`, which index the features."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "scenes"}
        return ExampleBatch(self.scenes, **moved)


def collate(scenes: Tensor, rows_by_scene: Sequence[Sequence[ExampleRow]]) -> ExampleBatch:
    """Build a batch of the rows of each scene."""
    owners, rows = zip(*((owner, row) for owner, group in enumerate(rows_by_scene) for row in group), strict=True)
    n, length = len(rows), max(len(row.tree.ids) for row in rows)
    ids, positions = np.zeros((n, length), np.int64), np.zeros((n, length), np.int64)
    visible = np.broadcast_to(np.eye(length, dtype=np.bool_), (n, length, length)).copy()
    for number, row in enumerate(rows):
        used = len(row.tree.ids)
        ids[number, :used], positions[number, :used] = row.tree.ids, row.tree.positions + PREFIX_LENGTH
        visible[number, :used, :used] = row.tree.sees()
    columns = [
        (number, *values)
        for number, row in enumerate(rows)
        for values in zip(row.nodes, row.targets, row.tasks, row.image_targets, row.regions, strict=True)
    ]
    word_targets = torch.zeros(len(columns), length, dtype=torch.bool)
    for number, nodes in enumerate(nodes for row in rows for nodes in row.word_targets):
        word_targets[number, list(nodes)] = True
    id_tensor, position_tensor, visible_tensor = (torch.from_numpy(array) for array in (ids, positions, visible))
    row_index, node, target, task, image_target, region = torch.tensor(columns).T
    return ExampleBatch(
        scenes,
        torch.tensor(owners),
        id_tensor,
        position_tensor,
        visible_tensor,
        row_index,
        node,
        target,
        task,
        image_target,
        region,
        word_targets,
    )


class CachedFeatures:
    """The vision tower's output for all scenes, computed once and kept in files of 1,000 scenes.

    Args:
        cache: The scenes.
        model: The model with the trained tower.
        folder: Where the files are, and where missing ones are written.
    """

    _CHUNK = 1000

    def __init__(self, cache: SceneCache, model: LlavaForConditionalGeneration, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._files = [folder / f"{cache.first + first:06d}.pt" for first in range(0, len(cache), self._CHUNK)]
        chunks = torch.arange(len(cache)).split(self._CHUNK)
        with first_process_first():
            for file, index in zip(self._files, tqdm(chunks, desc="features", mininterval=20), strict=True):
                if not file.exists():
                    features = torch.cat([self._compute(cache, model, part) for part in index.split(50)])
                    with atomic_path(file) as part_file:
                        torch.save(features, part_file)
        self._chunks = [torch.load(file, weights_only=True, mmap=True) for file in self._files]

    @torch.inference_mode()
    def _compute(self, cache: SceneCache, model: LlavaForConditionalGeneration, index: Tensor) -> Tensor:
        with autocast(model.device):
            output = model.model.vision_tower(pixel_values=cache.load_pixels(index).to(model.device), output_hidden_states=True)
        return output.hidden_states[model.config.vision_feature_layer].to("cpu", torch.bfloat16)

    def __getitem__(self, scenes: Tensor) -> Tensor:
        """Return the features of some scenes, (n, patches, width) bfloat16."""
        return torch.stack([self._chunks[i // self._CHUNK][i % self._CHUNK] for i in scenes.tolist()])


@dataclass(frozen=True, eq=False)
class ForwardOutput:
    """What a forward pass gives for the k tokens to predict.

    Attributes:
        logits: (k, vocabulary).
        image_attention: (k, patches) per layer of IMAGE_ATTENTION_LAYERS; like the following, only with `details`.
        word_attention: (k, l) per layer of WORD_ATTENTION_LAYERS.
        hidden: (k, width), the input of PROBED_LAYER.
    """

    logits: Tensor
    image_attention: list[Tensor] = field(default_factory=list)
    word_attention: list[Tensor] = field(default_factory=list)
    hidden: Tensor | None = None


class CachedFeatureModel:
    """The MLLM on cached features of the vision tower."""

    def __init__(self, model: LlavaForConditionalGeneration, features: Tensor | CachedFeatures) -> None:
        self.model, self.features = model, features

    def embed_image(self, scenes: Tensor) -> Tensor:
        """Return (n, 1 + patches, width): the embeddings of the start token and the image."""
        start = self.model.get_input_embeddings()(torch.ones(len(scenes), 1, dtype=torch.long, device=self.model.device))
        image = self.model.model.multi_modal_projector(self.features[scenes].to(self.model.device).float())
        return torch.cat([start, image.to(start.dtype)], 1)

    def forward(self, batch: ExampleBatch, *, details: bool = False) -> ForwardOutput:
        """Run a batch; `details` adds attention and hidden states to the logits."""
        language = self.model.model.language_model
        visible = F.pad(batch.visible, (PREFIX_LENGTH, 0), value=True)[:, None]
        out = language(
            inputs_embeds=self.model.get_input_embeddings()(batch.ids),
            attention_mask=visible.new_zeros(visible.shape, dtype=torch.float32).masked_fill_(~visible, float("-inf")),
            position_ids=batch.positions,
            use_cache=True,
            output_attentions=details,
            output_hidden_states=details,
            **{cache_parameter(language): self._run_image(batch)},
        )
        logits = self.model.lm_head(out.last_hidden_state[batch.row, batch.node]).float()
        if not details:
            return ForwardOutput(logits)
        at = batch.row, batch.node
        return ForwardOutput(
            logits,
            [out.attentions[layer][at[0], 0, at[1], 1:PREFIX_LENGTH].float() for layer in IMAGE_ATTENTION_LAYERS],
            [out.attentions[layer][at[0], 1, at[1], PREFIX_LENGTH:].float() for layer in WORD_ATTENTION_LAYERS],
            out.hidden_states[PROBED_LAYER][at].float(),
        )

    def _run_image(self, batch: ExampleBatch) -> DynamicCache:
        """Run each scene's image once; return its keys and values for every row."""
        language = self.model.model.language_model
        by_scene, by_row = DynamicCache(), DynamicCache()
        language(inputs_embeds=self.embed_image(batch.scenes), use_cache=True, **{cache_parameter(language): by_scene})
        for number, layer in enumerate(by_scene.layers):
            keys, values = (states.index_select(0, batch.owner) for states in (layer.keys, layer.values))  # type: ignore[union-attr]
            by_row.update(keys, values, number)
        return by_row

    @torch.inference_mode()
    def generate(self, scenes: Tensor, prompts: Sequence[list[int]], tokens: int) -> list[str]:
        """Generate greedy answers of at most `tokens` tokens; prompts begin with the tokens of the image."""
        length, device = max(map(len, prompts)), self.model.device
        padded = torch.tensor([[0] * (length - len(prompt)) + prompt for prompt in prompts], device=device)
        embedded = self.model.get_input_embeddings()(padded)
        for row, prompt, image in zip(embedded, prompts, self.embed_image(scenes), strict=True):
            start = length - len(prompt)
            row[start : start + PREFIX_LENGTH] = image
        model: Any = self.model  # only some versions of transformers type `generate`
        out: Tensor = model.generate(
            inputs_embeds=embedded,
            attention_mask=torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device),
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=_END,
            pad_token_id=0,
        )
        words = build_vocabulary()
        return [" ".join(words[t] for t in row if t > _END) for row in out.tolist()]
