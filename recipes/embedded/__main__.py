"""Train the embedded pair: `python -m recipes.embedded --work DIR --out DIR`.

Every stage writes checkpoints into the working folder and resumes from them when the command is run again. Where it has none,
those that are stored with the recipe are used: eyes, which began from an earlier pair's tower, sam-encoder, and the beginnings
of base and sam. Without `recipes/embedded/stages` all begins from nothing. A GPU is used if there is one; `torchrun
--nproc-per-node N -m recipes.embedded` shares every batch among N processes. One core with AVX2, without bfloat16, takes 15
minutes for drawing, 4 hours for eyes, 6 for base, 1 for adapter and 3 for sam. The working folder takes 14 GB.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from recipes.embedded import language_stage, sam_model, sam_stage, warm_start
from recipes.embedded.architecture import EmbeddingCodes, build_mllm, build_processor
from recipes.embedded.domain_stage import write_domain
from recipes.embedded.processes import first_process_first, get_rank, join_processes
from recipes.embedded.scene_cache import SceneCache
from recipes.embedded.stored_stages import restore_stages
from recipes.embedded.training_loop import choose_device
from recipes.embedded.vision_stage import train_vision
from sam4mllm_tool.atomic_io import set_default_permissions
from sam4mllm_tool.data.image_hashes import TRAINED_IMAGES_FILE, TrainedImages
from sam4mllm_tool.protocol import EMBEDDED

STEPS = {"eyes": 1600, "base": 4000, "adapter": 500, "sam-encoder": 800, "sam": 3000}
"""Training stages in their order, with the number of optimizer steps of each."""
STAGES = (*STEPS, "save", "domain")
"""All stages in their order. "save" writes the trained folders, "domain" measures which images they know."""


def create_mllm(earlier: Path | None = None) -> LlavaForConditionalGeneration:
    """Create the MLLM with eager attention, which is the fastest for short sequences on a CPU.

    Weights are fresh, but for the vision tower where the folder of an earlier pair is given.
    """
    torch.manual_seed(0)
    model = build_mllm()
    if earlier is not None:
        warm_start.load_tower(model, earlier)
    model.set_attn_implementation("eager")
    model.to(choose_device())
    return model


def create_sam() -> Any:
    """Create Segment Anything with fresh weights."""
    torch.manual_seed(0)
    model = sam_model.build_sam()
    model.set_attn_implementation("eager")
    model.to(choose_device())
    return model


def load_parts(folder: Path, stage: str, **parts: nn.Module) -> None:
    """Load modules from a stage's checkpoint, in which their weights have the keyword as prefix."""
    weights = torch.load(folder / f"{stage}.pt", weights_only=True, map_location="cpu")["model"]
    for name, part in parts.items():
        prefix = f"{name}."
        part.load_state_dict({key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)})


def load_mllm(folder: Path, stage: str) -> LlavaForConditionalGeneration:
    """Load the MLLM as the stage `eyes` or `base` left it."""
    model = create_mllm()
    projector = model.model.multi_modal_projector
    load_parts(folder, "eyes", tower=model.model.vision_tower, projector=projector)
    EmbeddingCodes().rescale_projector(projector)
    if stage == "base":
        load_parts(folder, "base", language=model.model.language_model)
    return model


def run_stages(
    stages: Sequence[str], cache: SceneCache, folder: Path, steps: dict[str, int], earlier: Path | None = None
) -> None:
    """Train the stages in their order; each reads the checkpoints of those before it.

    Args:
        stages: Names of the stages.
        cache: The training scenes.
        folder: Where the checkpoints are.
        steps: Optimizer steps of each stage.
        earlier: Folder of an earlier pair whose vision tower the training starts from.
    """
    if "eyes" in stages:
        train_vision(cache, create_mllm(earlier), folder, steps["eyes"])
    if "base" in stages:
        language_stage.train_base(cache, load_mllm(folder, "eyes"), folder, steps["base"])
    if "adapter" in stages:
        language_stage.train_adapter(cache, load_mllm(folder, "base"), folder, steps["adapter"])
    model = create_sam()
    if "sam-encoder" in stages:
        sam_stage.train_encoder(cache, model, folder, steps["sam-encoder"])
    if "sam" in stages:
        dense = sam_stage.DenseEncoder(model).to(model.device)
        load_parts(folder, "sam-encoder", encoder=dense.encoder, head=dense.head)
        sam_stage.train_masks(cache, dense, model, folder, steps["sam"])


def save_mllm(folder: Path, out: Path, scenes: int) -> None:
    """Save the base as OUT/mllm and its adapter as OUT/adapter, in half precision.

    The adapter's folder gets dialect.json, and trained_images.json with the names of the first so many scenes' files.
    """
    base = load_mllm(folder, "base").half()
    base.save_pretrained(out / "mllm")
    build_processor().save_pretrained(out / "mllm")
    adapted = language_stage.add_adapter(load_mllm(folder, "base"))
    load_parts(folder, "adapter", adapted=adapted)
    adapted.half()
    adapted.peft_config["default"].base_model_name_or_path = "embedded"
    adapted.save_pretrained(str(out / "adapter"), save_embedding_layers=False)
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    (out / "adapter" / "dialect.json").write_text(EMBEDDED.to_json(), encoding="utf-8")
    names = frozenset(f"scene-{thousand:04d}???.png" for thousand in range(-(-scenes // 1000)))
    (out / "adapter" / TRAINED_IMAGES_FILE).write_text(TrainedImages(names=names).to_json(), encoding="utf-8")
    for part in ("mllm", "adapter"):
        set_default_permissions(out / part)


def save_sam(folder: Path, out: Path) -> None:
    """Save Segment Anything as OUT/sam, in half precision."""
    model = sam_model.build_sam()
    load_parts(folder, "sam", sam=model)
    model.half().save_pretrained(out / "sam")
    sam_model.build_processor().save_pretrained(out / "sam")
    set_default_permissions(out / "sam")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="working folder, for drawn scenes and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder to save the trained folders mllm, adapter and sam in")
    parser.add_argument("--scenes", type=int, default=30_000, help="number of training scenes, a multiple of 500")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="stages to run")
    parser.add_argument(
        "--start-from", type=Path, metavar="DIR", help="folder of an earlier pair, to start from its vision tower"
    )
    for stage, steps in STEPS.items():
        parser.add_argument(f"--{stage}-steps", type=int, default=steps, help="optimizer steps (default: %(default)s)")
    arguments = parser.parse_args()
    join_processes()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    stages = [stage for stage in STEPS if stage in arguments.stages]
    if stages:
        arguments.work.mkdir(parents=True, exist_ok=True)
        with first_process_first():
            if restored := restore_stages(arguments.work):
                print(f"going on from the stored checkpoints of {', '.join(restored)}")
            cache = SceneCache(arguments.work / "world", arguments.scenes)
        counts = {s: getattr(arguments, f"{s.replace('-', '_')}_steps") for s in STEPS}
        run_stages(stages, cache, arguments.work, counts, arguments.start_from)
    if get_rank() > 0:
        return
    if "save" in arguments.stages:
        save_mllm(arguments.work, arguments.out, arguments.scenes)
        save_sam(arguments.work, arguments.out)
    if "domain" in arguments.stages:
        write_domain(arguments.out)


if __name__ == "__main__":
    main()
