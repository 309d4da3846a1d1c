"""Small lessons about drawn scenes, led by the protocol on true answers."""

import json
from dataclasses import asdict
from pathlib import Path
from random import Random

from PIL import Image

from recipes.embedded.examples import telling_points
from sam4mllm_tool.data.training_conversations import (
    CONVERSATIONS_FILE,
    MANIFEST_FILE,
    ImageConversations,
    TrainingConversation,
)
from sam4mllm_tool.embedded.expressions import sample_expressions
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, Dialect, PoissonDisk
from sam4mllm_tool.protocol.oracle import TrueObject, build_true_dialogue
from sam4mllm_tool.types import Size, Turn


def write_lessons(
    folder: Path,
    count: int,
    *,
    dialect: Dialect = EMBEDDED,
    expressions: int = 2,
    points: int = 3,
    side: int = 256,
    seed: int = 0,
) -> Path:
    """A lesson a scene: PQPP and PPG for each of some expressions, at most `points` points a box."""
    folder.mkdir(parents=True, exist_ok=True)
    lessons = []
    for number in range(seed, seed + count):
        scene = draw_scene(number, side)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
        drawn = sample_expressions(scene, expressions, Random(number))
        conversations = [one for e in drawn for one in _conversations(scene, e.text, e.targets, dialect, points)]
        lessons.append(ImageConversations(f"scene-{number}", f"{number}.png", tuple(conversations)))
    (folder / CONVERSATIONS_FILE).write_text("".join(f"{lesson.to_json()}\n" for lesson in lessons))
    (folder / MANIFEST_FILE).write_text(json.dumps({"dialect": asdict(dialect)}))
    return folder


def _conversations(
    scene: Scene, text: str, targets: tuple[int, ...], dialect: Dialect, points: int
) -> list[TrainingConversation]:
    size = Size(*scene.instances.shape[::-1])
    truth = [TrueObject(scene.mask(i), scene.objects[i].box) for i in targets]
    first, *rounds = build_true_dialogue(PQPP.start(text, size, dialect=dialect, sampler=PoissonDisk(seed=1)), truth)
    shared = (*first.question.turns, Turn("assistant", first.reply.text))
    branches = tuple(
        (exchange.question.turns[-1], Turn("assistant", exchange.reply.text)) for exchange in rounds[: points * len(targets)]
    )
    pointed = [TrueObject(t.mask, t.box, telling_points(t.mask, tuple(map(int, t.box)))) for t in truth]
    (ppg,) = build_true_dialogue(PPG.start(text, size, dialect=dialect), pointed)
    return [
        TrainingConversation(shared, branches, "pqpp"),
        TrainingConversation((*ppg.question.turns, Turn("assistant", ppg.reply.text)), kind="ppg"),
    ]
