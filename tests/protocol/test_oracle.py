"""A training dialogue, replayed through inference, reproduces every user turn, byte for byte."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from sam4mllm_tool.embedded.expressions import expressions
from sam4mllm_tool.embedded.scenes import Scene, draw_scene
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.sam4mllm import Method, Sam4Mllm
from sam4mllm_tool.protocol import (
    EMBEDDED,
    JOINT,
    PLAIN,
    PPG,
    PQPP,
    RELEASED,
    BoxOnly,
    Dialect,
    FixedList,
    Grid,
    PoissonDisk,
    Sampler,
    Thresholds,
    TrueObject,
    true_dialogue,
    true_replies,
)
from sam4mllm_tool.protocol.oracle import label_at
from sam4mllm_tool.types import Box, Labels, Point, PointPrompt, Size

EVERY_DIALECT = pytest.mark.parametrize("dialect", [RELEASED, EMBEDDED, PLAIN, JOINT], ids=lambda d: d.name)
SIDE = 128
SIZE = Size(SIDE, SIDE)


def truths(scene: Scene, targets: tuple[int, ...]) -> list[TrueObject]:
    """With two points on and one off, as PPG is taught to write them."""
    things = []
    for target in targets:
        mask = scene.mask(target)
        (y1, x1), (y2, x2) = np.argwhere(mask)[[0, -1]]
        y3, x3 = np.argwhere(~mask)[0]
        points = (PointPrompt(x1 + 0.5, y1 + 0.5, 1), PointPrompt(x2 + 0.5, y2 + 0.5, 1), PointPrompt(x3 + 0.5, y3 + 0.5, 0))
        things.append(TrueObject(mask, scene.objects[target].box, points))
    return things


def asked() -> Iterator[tuple[Scene, str, list[TrueObject]]]:
    """Expressions for one object, several and none."""
    for seed in range(4):
        scene = draw_scene(seed, SIDE)
        by_count = {min(2, len(e.targets)): e for e in expressions(scene)}
        for expression in by_count.values():
            yield scene, expression.text, truths(scene, expression.targets)


CASES = list(asked())


def test_the_cases_have_one_object_several_and_none() -> None:
    assert {min(2, len(things)) for _, _, things in CASES} == {0, 1, 2}


def replayed(scene: Scene, text: str, history, method: Method, dialect: Dialect, sampler: Sampler) -> None:
    """The pipeline, given the replies alone, asks what the training dialogue asked."""
    mllm = ScriptedMLLM([exchange.reply for exchange in history])
    Sam4Mllm(mllm, BoxSegmenter(), dialect=dialect, sampler=sampler).segment(scene.image, text, method=method)
    assert mllm.replies_left == 0
    assert mllm.questions == [exchange.question for exchange in history]
    trained = [turn.text.encode() for e in history for turn in e.question.turns if turn.role == "user"]
    assert [turn.text.encode() for q in mllm.questions for turn in q.turns if turn.role == "user"] == trained


@EVERY_DIALECT
@pytest.mark.parametrize("points", ["joint", "each"])
@pytest.mark.parametrize("sampler", [Grid(), FixedList(), PoissonDisk(seed=7)], ids=lambda s: type(s).__name__)
def test_training_pqpp_replays_through_inference(dialect: Dialect, points, sampler: Sampler) -> None:
    dialect = dataclasses.replace(dialect, points=points)
    for scene, text, things in CASES:
        history = true_dialogue(PQPP.start(text, SIZE, dialect=dialect, sampler=sampler), things)
        replayed(scene, text, history, "pqpp", dialect, sampler)


@EVERY_DIALECT
def test_training_ppg_and_box_only_replay_through_inference(dialect: Dialect) -> None:
    for scene, text, things in CASES:
        for method, start in (("ppg", PPG.start), ("box", BoxOnly.start)):
            history = true_dialogue(start(text, SIZE, dialect=dialect), things)
            assert len(history) == 1
            replayed(scene, text, history, method, dialect, Grid())


@EVERY_DIALECT
def test_true_labels_are_what_the_mask_says_at_the_point_asked_about(dialect: Dialect) -> None:
    """Counted from the words of the questions and replies alone, with the pixel looked up by hand."""
    for _, text, things in CASES:
        done = PQPP.start(text, SIZE, dialect=dialect, thresholds=Thresholds(0, 0))
        while done.pending:
            done = done.answer(true_replies(done, things))
        assert len(done.prompts) == len(things)
        for prompt, thing in zip(done.prompts, things, strict=True):
            assert len(prompt.points) == 25
            assert [p.label for p in prompt.points] == [int(thing.mask[int(p.y), int(p.x)]) for p in prompt.points]
            assert np.abs(np.subtract(prompt.box, thing.box)).max() <= 1.5 * SIDE / dialect.scale


def test_true_ppg_writes_the_points_it_was_given() -> None:
    for _, text, things in CASES:
        done = PPG.start(text, SIZE, dialect=RELEASED)
        done = done.answer(true_replies(done, things))
        for prompt, thing in zip(done.prompts, things, strict=True):
            assert [p.label for p in prompt.points] == [1, 1, 0]
            assert [(int(p.x), int(p.y)) for p in prompt.points] == [(int(p.x), int(p.y)) for p in thing.points]


def test_objects_written_as_one_box_are_taught_as_one() -> None:
    left, right = np.zeros((2, SIDE, SIDE), bool)
    left[10:90, 10:50], right[10:90, 50:90] = True, True
    box = Box(10, 10, 90, 90)
    things = [TrueObject(left, box), TrueObject(right, box._replace(x2=90.2))]
    history = true_dialogue(PQPP.start("both", SIZE, dialect=EMBEDDED), things)
    assert history[0].reply.text == EMBEDDED.write_box(box, SIZE)
    assert [exchange.reply.text for exchange in history[1:]] == ["yes"] * 25, "a point is on it if it is on either"


@pytest.mark.parametrize(
    ("point", "label"),
    [
        pytest.param(Point(2.0, 1.0), 1, id="the pixel's corner"),
        pytest.param(Point(2.99, 1.99), 1, id="its far corner"),
        pytest.param(Point(3.0, 1.0), 0, id="the next pixel"),
        pytest.param(Point(2.5, -7), 0, id="above the picture"),
        pytest.param(Point(99, 99), 1, id="past the last pixel"),
    ],
)
def test_a_point_has_the_label_of_the_pixel_it_falls_in(point: Point, label: int) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[3, 5] = True
    assert label_at(mask, point) == label


def test_questions_about_points_expect_labels() -> None:
    _, text, things = next(case for case in CASES if case[2])
    history = true_dialogue(PQPP.start(text, SIZE, dialect=EMBEDDED), things)
    assert all(exchange.question.answer == Labels(1, ("yes", "no")) for exchange in history[1:])
