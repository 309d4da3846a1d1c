"""A training dialogue, replayed through inference, reproduces every user turn, byte for byte."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from sam4mllm_tool.errors import EmptyMaskError
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
    build_true_dialogue,
    build_true_replies,
)
from sam4mllm_tool.protocol.oracle import label_point
from sam4mllm_tool.types import Box, Labels, Point, PointPrompt, Size
from tests.embedded_world import EverydayScene, draw_scene, list_expressions

EVERY_DIALECT = pytest.mark.parametrize("dialect", [RELEASED, EMBEDDED, PLAIN, JOINT], ids=lambda d: d.name)
SIDE = 160
SIZE = Size(SIDE, SIDE)


def annotate(scene: EverydayScene, targets: tuple[int, ...]) -> list[TrueObject]:
    """Return the objects with two points on and one off, as PPG is taught to write them."""
    objects = []
    for target in targets:
        mask = scene.mask(target)
        (y1, x1), (y2, x2) = np.argwhere(mask)[[0, -1]]
        y3, x3 = np.argwhere(~mask)[0]
        points = (PointPrompt(x1 + 0.5, y1 + 0.5, 1), PointPrompt(x2 + 0.5, y2 + 0.5, 1), PointPrompt(x3 + 0.5, y3 + 0.5, 0))
        objects.append(TrueObject(mask, scene.regions[target].box, points))
    return objects


def draw_cases() -> Iterator[tuple[EverydayScene, str, list[TrueObject]]]:
    """Yield expressions for one object, several and none."""
    for seed in range(4):
        scene = draw_scene(seed, SIDE)
        by_count = {min(2, len(e.targets)): e for e in list_expressions(scene)}
        for expression in by_count.values():
            yield scene, expression.text, annotate(scene, expression.targets)


CASES = list(draw_cases())


def test_the_cases_have_one_object_several_and_none() -> None:
    assert {min(2, len(objects)) for _, _, objects in CASES} == {0, 1, 2}


def check_replay(scene: EverydayScene, text: str, history, method: Method, dialect: Dialect, sampler: Sampler) -> None:
    """Check that the pipeline, given the replies alone, asks what the training dialogue asked."""
    mllm = ScriptedMLLM([exchange.reply for exchange in history])
    with suppress(EmptyMaskError):  # the stand-in finds nothing where all points are off the object
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
    for scene, text, objects in CASES:
        history = build_true_dialogue(PQPP.start(text, SIZE, dialect=dialect, sampler=sampler), objects)
        check_replay(scene, text, history, "pqpp", dialect, sampler)


@EVERY_DIALECT
def test_training_ppg_and_box_only_replay_through_inference(dialect: Dialect) -> None:
    for scene, text, objects in CASES:
        for method, start in (("ppg", PPG.start), ("box", BoxOnly.start)):
            history = build_true_dialogue(start(text, SIZE, dialect=dialect), objects)
            assert len(history) == 1
            check_replay(scene, text, history, method, dialect, Grid())


@EVERY_DIALECT
def test_true_labels_are_the_mask_at_each_point(dialect: Dialect) -> None:
    """The pixel is looked up by hand at the coordinates that the model was asked about."""
    for _, text, objects in CASES:
        done = PQPP.start(text, SIZE, dialect=dialect, thresholds=Thresholds(0, 0))
        while done.pending:
            done = done.answer(build_true_replies(done, objects))
        assert len(done.prompts) == len(objects)
        for prompt, annotated in zip(done.prompts, objects, strict=True):
            assert len(prompt.points) == 25
            assert [p.label for p in prompt.points] == [int(annotated.mask[int(p.y), int(p.x)]) for p in prompt.points]
            assert np.abs(np.subtract(prompt.box, annotated.box)).max() <= 1.5 * SIDE / dialect.scale


def test_true_ppg_replies_hold_the_annotated_points() -> None:
    for _, text, objects in CASES:
        done = PPG.start(text, SIZE, dialect=RELEASED)
        done = done.answer(build_true_replies(done, objects))
        for prompt, annotated in zip(done.prompts, objects, strict=True):
            assert [p.label for p in prompt.points] == [1, 1, 0]
            assert [(int(p.x), int(p.y)) for p in prompt.points] == [(int(p.x), int(p.y)) for p in annotated.points]


def test_objects_whose_boxes_are_written_the_same_are_taught_as_one() -> None:
    left, right = np.zeros((2, SIDE, SIDE), bool)
    left[10:90, 10:50], right[10:90, 50:90] = True, True
    box = Box(10, 10, 90, 90)
    objects = [TrueObject(left, box), TrueObject(right, box._replace(x2=90.2))]
    history = build_true_dialogue(PQPP.start("both", SIZE, dialect=EMBEDDED), objects)
    assert history[0].reply.text == EMBEDDED.encode_box(box, SIZE)
    assert [exchange.reply.text for exchange in history[1:]] == ["yes"] * 25, "a point is on it if it is on either"


@pytest.mark.parametrize(
    ("point", "label"),
    [
        pytest.param(Point(2.0, 1.0), 1, id="the pixel's corner"),
        pytest.param(Point(2.99, 1.99), 1, id="its far corner"),
        pytest.param(Point(3.0, 1.0), 0, id="the next pixel"),
        pytest.param(Point(2.5, -7), 0, id="above the image"),
        pytest.param(Point(99, 99), 1, id="past the last pixel"),
    ],
)
def test_a_point_has_the_label_of_its_pixel(point: Point, label: int) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[3, 5] = True
    assert label_point(mask, point) == label


def test_questions_about_points_expect_labels() -> None:
    _, text, objects = next(case for case in CASES if case[2])
    history = build_true_dialogue(PQPP.start(text, SIZE, dialect=EMBEDDED), objects)
    assert all(exchange.question.answer == Labels(1, ("yes", "no")) for exchange in history[1:])
