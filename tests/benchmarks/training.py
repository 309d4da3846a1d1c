"""The gain from tuning: `python -m tests.benchmarks.training --work DIR`.

Draws 2,000 training scenes, builds training conversations, and tunes an adapter on the embedded base with the settings of
examples/embedded.toml; prints cIoU by box, ppg and pqpp on held-out scenes before and after. Then tunes that adapter on PPG
conversations alone, of 500 scenes, once with the best of K = 64 groups of points and once with a random group, and prints
both. Everything stays in DIR, and running the command again resumes it; from nothing it takes 60 minutes on two cores.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sam4mllm_tool.data import load_dataset
from sam4mllm_tool.data.build import Source, build_conversations
from sam4mllm_tool.data.conversation_builder import Recipe
from sam4mllm_tool.data.sample import Sample
from sam4mllm_tool.embedded.scene_files import SCENES_FILE, write_scenes
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import METHODS, Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.training.callbacks import measure_ciou
from sam4mllm_tool.training.config import TrainingConfig, read_config
from sam4mllm_tool.training.run import train

SETTINGS = Path(__file__).parents[2] / "examples" / "embedded.toml"
TRAINED, HELD_OUT = 200_000, 900_000
"""First seeds of the scenes tuned on and of those measured on."""


def draw_scenes(folder: Path, count: int, seed: int) -> Path:
    if not (folder / SCENES_FILE).exists():
        write_scenes(folder, count, seed)
    return folder


def measure_methods(models: Sam4Mllm, samples: list[Sample]) -> dict[str, float]:
    return {method: measure_ciou(models, samples, method)[f"eval_{method}_cIoU"] for method in METHODS}


def measure_base(samples: list[Sample]) -> dict[str, float]:
    """Measure the embedded base without an adapter, in its adapter's dialect."""
    base = TransformersMLLM.load(embedded_folder("mllm"), name="the embedded base")
    return measure_methods(Sam4Mllm(base, load_segmenter("embedded"), dialect=EMBEDDED), samples)


def train_and_measure(config: TrainingConfig, samples: list[Sample]) -> dict[str, float]:
    return measure_methods(Sam4Mllm.load(f"embedded+{train(config)}"), samples)


def show(name: str, figures: dict[str, float]) -> None:
    print(name.ljust(28) + "  ".join(f"{method} {value:.3f}" for method, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="working folder")
    parser.add_argument("--scenes", type=int, default=2000, help="training scenes (default: %(default)s)")
    parser.add_argument("--held-out", type=int, default=60, help="held-out scenes (default: %(default)s)")
    parser.add_argument("--ppg-scenes", type=int, default=500, help="scenes for PPG alone (default: %(default)s)")
    parser.add_argument("--ppg-steps", type=int, default=150, help="steps for PPG alone (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="processes that build (default: %(default)s)")
    arguments = parser.parse_args()
    work = arguments.work
    data = [Source("jsonl", draw_scenes(work / "scenes", arguments.scenes, TRAINED))]
    samples = list(load_dataset("jsonl", draw_scenes(work / "held-out", arguments.held_out, HELD_OUT), split="all"))
    both = Recipe(dialect=EMBEDDED, ppg=0.35)
    best = replace(both, pqpp=0, ppg=1)

    def build_config(conversations: Path, out: str, **others: Any) -> TrainingConfig:
        settings = {**read_config(SETTINGS), "lessons": str(conversations), "out": str(work / out), **others}
        return TrainingConfig.from_dict(settings)

    before = measure_base(samples)
    show("before", before)
    conversations = build_conversations(data, work / "lessons", both, processes=arguments.processes)
    after = train_and_measure(build_config(conversations, "adapter"), samples)
    show("after", after)
    print("gain: " + "  ".join(f"{method} {after[method] - before[method]:+.3f} (expected +0.200)" for method in METHODS))
    data = [Source("jsonl", draw_scenes(work / "ppg-scenes", arguments.ppg_scenes, TRAINED))]
    ppg: dict[int, float] = {}
    for groups in (64, 1):
        name = f"ppg-{groups}"
        recipe = replace(best, groups=groups)
        conversations = build_conversations(data, work / f"lessons-{name}", recipe, processes=arguments.processes)
        others = {
            "mllm": f"embedded+{work / 'adapter'}",
            "from_base": False,
            "learning_rate": 5e-4,
            "projector_learning_rate": 5e-5,
        }
        models = Sam4Mllm.load(f"embedded+{train(build_config(conversations, name, max_steps=arguments.ppg_steps, **others))}")
        ppg[groups] = measure_ciou(models, samples, "ppg")["eval_ppg_cIoU"]
        show(f"PPG alone, K = {groups}", {"ppg": ppg[groups]})
    print(f"best of 64 groups against a random group: {ppg[64] - ppg[1]:+.3f} (expected above 0)")


if __name__ == "__main__":
    main()
