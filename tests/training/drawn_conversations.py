"""Small training conversations about drawn scenes, led by the protocol on true answers."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

from PIL import Image

from recipes.embedded.point_placement import select_informative_points
from sam4mllm_tool.data.training_conversations import (
    CONVERSATIONS_FILE,
    MANIFEST_FILE,
    ImageConversations,
    TrainingConversation,
)
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, Dialect, PoissonDisk
from sam4mllm_tool.protocol.oracle import TrueObject, build_true_dialogue
from sam4mllm_tool.types import Size, Turn
from tests.embedded_world import EverydayScene, draw_scene, sample_expressions


def write_conversations(
    folder: Path,
    count: int,
    *,
    dialect: Dialect = EMBEDDED,
    expressions: int = 2,
    points: int = 3,
    side: int = 256,
) -> Path:
    """Write PQPP and PPG for some expressions about each of `count` scenes, with at most `points` points per box."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in range(count):
        scene = draw_scene(seed, side)
        Image.fromarray(scene.image).save(folder / f"{seed}.png")
        conversations = [
            conversation
            for expression in sample_expressions(scene, expressions, Random(seed))
            for conversation in _lead_conversations(scene, expression.text, expression.targets, dialect, points)
        ]
        lines.append(ImageConversations(f"scene-{seed}", f"{seed}.png", tuple(conversations)).to_json())
    (folder / CONVERSATIONS_FILE).write_text("".join(f"{line}\n" for line in lines))
    (folder / MANIFEST_FILE).write_text(json.dumps({"dialect": asdict(dialect)}))
    return folder


def _lead_conversations(
    scene: EverydayScene, text: str, targets: tuple[int, ...], dialect: Dialect, points: int
) -> list[TrainingConversation]:
    size = Size(*scene.image.shape[1::-1])
    truth = [TrueObject(scene.mask(i), scene.regions[i].box) for i in targets]
    first, *rounds = build_true_dialogue(PQPP.start(text, size, dialect=dialect, sampler=PoissonDisk(seed=1)), truth)
    shared = (*first.question.turns, Turn("assistant", first.reply.text))
    branches = tuple(
        (exchange.question.turns[-1], Turn("assistant", exchange.reply.text)) for exchange in rounds[: points * len(targets)]
    )
    with_points = [TrueObject(t.mask, t.box, select_informative_points(t.mask, t.box)) for t in truth]
    (ppg,) = build_true_dialogue(PPG.start(text, size, dialect=dialect), with_points)
    return [
        TrainingConversation(shared, branches, "pqpp"),
        TrainingConversation((*ppg.question.turns, Turn("assistant", ppg.reply.text)), kind="ppg"),
    ]
