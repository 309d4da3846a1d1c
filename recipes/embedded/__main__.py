"""`python -m recipes.embedded --work DIR --out DIR`: trains the embedded pair from nothing and saves it.

Every stage checkpoints into the working folder and goes on from there when the command is run again. On two cores with
AVX-512 bfloat16: world 2 minutes, eyes 20, base 55, adapter 80, sam 70. The working folder takes 12 GB.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from recipes.embedded import language, sam
from recipes.embedded.architecture import Codes, build_mllm, build_processor
from recipes.embedded.eyes import train_eyes
from recipes.embedded.world import World
from sam4mllm_tool.protocol import EMBEDDED

STAGES = ("eyes", "base", "adapter", "sam-encoder", "sam")
STEPS = {"eyes": 1500, "base": 2150, "adapter": 2600, "sam-encoder": 300, "sam": 6300}


def fresh_mllm() -> LlavaForConditionalGeneration:
    """Fresh weights, with the plain attention that is fastest for short sequences on a CPU."""
    torch.manual_seed(0)
    model = build_mllm()
    model.set_attn_implementation("eager")
    return model


def fresh_sam() -> Any:
    torch.manual_seed(0)
    model = sam.build_sam()
    model.set_attn_implementation("eager")
    return model


def load_parts(folder: Path, stage: str, **parts: nn.Module) -> None:
    """Loads the named parts of a stage's checkpoint."""
    saved = torch.load(folder / f"{stage}.pt", weights_only=True)["model"]
    for name, part in parts.items():
        part.load_state_dict(
            {key.removeprefix(f"{name}."): value for key, value in saved.items() if key.startswith(f"{name}.")}
        )


def trained_base(folder: Path, upto: str) -> LlavaForConditionalGeneration:
    """The MLLM after the stage `eyes` or `base`."""
    model = fresh_mllm()
    projector = model.model.multi_modal_projector
    load_parts(folder, "eyes", tower=model.model.vision_tower, projector=projector)
    Codes().balance(projector)
    if upto == "base":
        load_parts(folder, "base", language=model.model.language_model)
    return model


def run_stages(stages: Sequence[str], world: World, folder: Path, steps: dict[str, int]) -> None:
    """Trains the stages in their order; each reads the checkpoints of those before it."""
    if "eyes" in stages:
        train_eyes(world, fresh_mllm(), folder, steps["eyes"])
    if "base" in stages:
        language.train_base(world, trained_base(folder, "eyes"), folder, steps["base"])
    if "adapter" in stages:
        language.train_adapter(world, trained_base(folder, "base"), folder, steps["adapter"])
    model = fresh_sam()
    if "sam-encoder" in stages:
        sam.train_encoder(world, model, folder, steps["sam-encoder"])
    if "sam" in stages:
        load_parts(folder, "sam-encoder", encoder=model.vision_encoder)
        sam.train_masks(world, model, folder, steps["sam"])


def save_mllm(folder: Path, out: Path) -> None:
    """The base as OUT/mllm and its adapter, with dialect.json, as OUT/adapter; half precision."""
    base = trained_base(folder, "base").half()
    base.save_pretrained(out / "mllm")
    build_processor().save_pretrained(out / "mllm")
    adapted = language.with_adapter(trained_base(folder, "base"))
    load_parts(folder, "adapter", adapted=adapted)
    adapted.half()
    adapted.peft_config["default"].base_model_name_or_path = "embedded"
    adapted.save_pretrained(str(out / "adapter"), save_embedding_layers=False)
    (out / "adapter" / "README.md").unlink(missing_ok=True)
    (out / "adapter" / "dialect.json").write_text(EMBEDDED.to_json(), encoding="utf-8")


def save_sam(folder: Path, out: Path) -> None:
    """Segment Anything as OUT/sam, half precision."""
    model = sam.build_sam()
    model.load_state_dict(torch.load(folder / "sam.pt", weights_only=True)["model"])
    model.half().save_pretrained(out / "sam")
    sam.build_processor().save_pretrained(out / "sam")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="working folder, for drawn scenes and checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="where the trained folders mllm, adapter and sam go")
    parser.add_argument("--scenes", type=int, default=36_000, help="training scenes, a multiple of 1000")
    parser.add_argument("--stages", nargs="+", choices=(*STAGES, "save"), default=[*STAGES, "save"])
    for stage in STAGES:
        parser.add_argument(f"--{stage}-steps", type=int, default=STEPS[stage])
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    steps = {stage: getattr(arguments, f"{stage.replace('-', '_')}_steps") for stage in STAGES}
    trained = [stage for stage in STAGES if stage in arguments.stages]
    if trained:
        arguments.work.mkdir(parents=True, exist_ok=True)
        run_stages(trained, World(arguments.work / "world", arguments.scenes), arguments.work, steps)
    if "save" in arguments.stages:
        save_mllm(arguments.work, arguments.out)
        save_sam(arguments.work, arguments.out)


if __name__ == "__main__":
    main()
