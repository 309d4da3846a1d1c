"""Checkpoints that are kept with the recipe, in half precision and without the optimizer's state.

The training takes hours, so what is trained is stored: `python -m recipes.embedded.stored_stages --work DIR` writes the
checkpoints of a working folder into this package's folder `stages`, from where `python -m recipes.embedded` goes on wherever
its own working folder has none.
"""

import argparse
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sam4mllm_tool.atomic_io import atomic_path

STORED = Path(__file__).parent / "stages"
"""Where the stored checkpoints are, NAME.safetensors each."""


def store_stage(work: Path, stage: str, stored: Path = STORED) -> Path:
    """Write the checkpoint of a stage in half precision, with the number of its steps; return the file."""
    checkpoint = torch.load(work / f"{stage}.pt", weights_only=True, map_location="cpu")
    stored.mkdir(exist_ok=True)
    file = stored / f"{stage}.safetensors"
    with atomic_path(file) as part:
        weights = {name: value.half().contiguous() for name, value in checkpoint["model"].items()}
        save_file(weights, part, metadata={"step": str(checkpoint["step"])})
    return file


def restore_stages(work: Path, stored: Path = STORED) -> list[str]:
    """Write the checkpoints that the working folder lacks; return the names of their stages."""
    restored = []
    for file in sorted(stored.glob("*.safetensors")):
        checkpoint = work / f"{file.stem}.pt"
        if checkpoint.exists():
            continue
        with safe_open(file, "pt") as weights:
            model = {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118 - it is no mapping
            step = int(weights.metadata()["step"])
        with atomic_path(checkpoint) as part:
            torch.save({"model": model, "optimizer": [], "step": step}, part)
        restored.append(file.stem)
    return restored


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m recipes.embedded.stored_stages", description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="working folder of the training")
    parser.add_argument("stages", nargs="+", help="stages whose checkpoints are to be stored")
    arguments = parser.parse_args()
    for stage in arguments.stages:
        print(store_stage(arguments.work, stage))


if __name__ == "__main__":
    main()
