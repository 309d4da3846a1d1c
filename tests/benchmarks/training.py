"""What tuning is worth: `python -m tests.benchmarks.training --work DIR`.

Draws 2,000 training scenes, builds their lessons, and tunes an adapter on the embedded base with the settings of
examples/embedded.toml; prints cIoU by box, ppg and pqpp on held-out scenes before and after. Then tunes that adapter on PPG's
conversations alone, of 500 scenes, once with the best of K = 64 groups of points and once with a random one, and prints both.
Everything stays in DIR and goes on from there when the command is run again; some 60 minutes on two cores from nothing.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.embedded.files import SCENES_FILE, write_scenes
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.training.callbacks import measure
from sam4mllm_tool.training.config import TrainingConfig, read_config
from sam4mllm_tool.training.run import train

SETTINGS = Path(__file__).parents[2] / "examples" / "embedded.toml"
TRAINED, HELD_OUT = 200_000, 900_000
"""First seeds of the scenes tuned on and of those measured on."""


def scenes(folder: Path, count: int, seed: int) -> Path:
    if not (folder / SCENES_FILE).exists():
        write_scenes(folder, count, seed)
    return folder


def cious(models: Sam4Mllm, samples: list[Sample]) -> dict[str, float]:
    return {method: measure(models, samples, method)[f"eval_{method}_cIoU"] for method in METHODS}


def untuned(samples: list[Sample]) -> dict[str, float]:
    """The embedded base without any adapter, asked as its adapter is."""
    base = TransformersMLLM.load(embedded_folder("mllm"), name="the embedded base")
    return cious(Sam4Mllm(base, load_segmenter("embedded"), dialect=EMBEDDED), samples)


def tuned(config: TrainingConfig, samples: list[Sample]) -> dict[str, float]:
    return cious(Sam4Mllm.load(f"embedded+{train(config)}"), samples)


def show(name: str, told: dict[str, float]) -> None:
    print(name.ljust(28) + "  ".join(f"{method} {value:.3f}" for method, value in told.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=60)
    parser.add_argument("--ppg-scenes", type=int, default=500)
    parser.add_argument("--ppg-steps", type=int, default=150)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    work = arguments.work
    data = [Source("jsonl", scenes(work / "scenes", arguments.scenes, TRAINED))]
    samples = list(load_dataset("jsonl", scenes(work / "held-out", arguments.held_out, HELD_OUT), split="val"))
    both = Recipe(dialect=EMBEDDED, ppg=0.35)
    best = replace(both, pqpp=0, ppg=1)

    def settings(lessons: Path, out: str, **others: Any) -> TrainingConfig:
        told = {**read_config(SETTINGS), "lessons": str(lessons), "out": str(work / out), **others}
        return TrainingConfig.from_dict(told)

    before = untuned(samples)
    show("before", before)
    lessons = build_conversations(data, work / "lessons", both, processes=arguments.processes)
    after = tuned(settings(lessons, "adapter"), samples)
    show("after", after)
    print("gain: " + "  ".join(f"{method} {after[method] - before[method]:+.3f} (bar +0.200)" for method in METHODS))
    data = [Source("jsonl", scenes(work / "ppg-scenes", arguments.ppg_scenes, TRAINED))]
    ppg: dict[int, float] = {}
    for groups in (64, 1):
        name = f"ppg-{groups}"
        lessons = build_conversations(
            data, work / f"lessons-{name}", replace(best, groups=groups), processes=arguments.processes
        )
        on = {"mllm": f"embedded+{work / 'adapter'}", "learning_rate": 5e-4, "projector_learning_rate": 5e-5}
        models = Sam4Mllm.load(f"embedded+{train(settings(lessons, name, max_steps=arguments.ppg_steps, **on))}")
        ppg[groups] = measure(models, samples, "ppg")["eval_ppg_cIoU"]
        show(f"PPG alone, K = {groups}", {"ppg": ppg[groups]})
    print(f"best of 64 groups against a random one: {ppg[64] - ppg[1]:+.3f} (bar above 0)")


if __name__ == "__main__":
    main()
