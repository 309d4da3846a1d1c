"""Measuring a model's frame and dialect, on scripted models of every frame, with noise, wrong answers and refusals."""

import json
from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.probing.measurement import ProbeReport, probe_mllm
from sam4mllm_tool.models.probing.probe_scenes import draw_probe_scenes
from sam4mllm_tool.protocol import DIALECTS, PLAIN, Dialect
from sam4mllm_tool.protocol.native_replies import find_first_box
from sam4mllm_tool.types import Labels, Question, Reply, Size
from tests.models.probing.grounding_model import UNITS, GroundingModel
from tests.native_answers import NATIVE_ANSWERS, QWEN_RESIZING

CANDIDATES = (PLAIN, DIALECTS["qwen3_vl"])
SAME = {"0..999": {"0..999", "0..1000"}, "0..1000": {"0..999", "0..1000"}}
"""Frames that read the same boxes, within a thousandth of the side."""


def frame_name(report: ProbeReport) -> tuple[str, str]:
    name, _, first = report.trials[0].choice.best.frame.name.partition(", ")
    return name, first


def load_native_model(dialect: Dialect) -> ScriptedMLLM:
    """Return a model that knows the scenes, and writes boxes as the family's own documentation says."""
    bound = dialect.for_model(QWEN_RESIZING)

    def reply(question: Question) -> str:
        if isinstance(question.answer, Labels):
            return question.answer.words[0] * question.answer.count
        text = question.turns[-1].text
        pairs = ((scene, drawn) for scene in draw_probe_scenes() for drawn in scene.objects)
        if (named := next(((scene, drawn) for scene, drawn in pairs if drawn.expression in text), None)) is None:
            return bound.none_text
        scene, drawn = named
        write = NATIVE_ANSWERS.get(dialect.name)
        return write(drawn.box, scene.size) if write else bound.format_boxes([drawn.box], scene.size)

    mllm = ScriptedMLLM(reply)
    mllm.resizing = QWEN_RESIZING  # type: ignore[attr-defined]
    return mllm


@pytest.mark.parametrize("order", ["xy", "yx"])
@pytest.mark.parametrize("frame", UNITS)
def test_the_frame_of_a_noisy_model_is_found_and_its_dialect_reads_it(frame: str, order: str) -> None:
    report = probe_mllm(GroundingModel(frame, order, noise=0.02).load(), CANDIDATES)
    name, first = frame_name(report)
    assert name in SAME.get(frame, {frame})
    assert first == f"{order[0]} first"
    assert report.doubt == ""
    best = report.trials[0]
    assert best.iou > 0.85
    assert best.choice.next is not None
    assert best.choice.best.iou > best.choice.next.iou + 0.05
    assert report.points is not None
    assert report.points.right == report.points.count == 24, "points are written in the frame that was measured"


@pytest.mark.parametrize("frame", UNITS)
@pytest.mark.parametrize("noise", [0.05, 0.12])
def test_noise_and_wrong_answers_lead_to_doubt_but_never_to_a_wrong_frame(frame: str, noise: float) -> None:
    reports = [
        probe_mllm(GroundingModel(frame, "xy", noise=noise, wrong=0.2, random=Random(seed)).load(), (PLAIN,))
        for seed in range(8)
    ]
    for report in reports:
        assert report.doubt or frame_name(report)[0] in SAME.get(frame, {frame})
    if "pixels" not in frame:  # pixels of the image and of the processed one differ by no more than this noise
        assert not any(report.doubt for report in reports)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param('```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "object"}}]\n```', id="JSON"),
        pytest.param("({0},{1}),({2},{3})", id="two corners"),
        pytest.param("It is at ({0}, {1}, {2}, {3}).", id="round brackets"),
        pytest.param("<box>[[{0}, {1}, {2}, {3}]]</box>", id="tags"),
    ],
)
@pytest.mark.parametrize("frame", ["0..1", "pixels of the image"])
def test_any_native_format_is_read(frame: str, form: str) -> None:
    report = probe_mllm(GroundingModel(frame, form=form).load(), (PLAIN,))
    assert report.require_dialect().name == f"plain ({frame}, x first)"
    assert report.trials[0].iou > 0.9


@pytest.mark.parametrize("name", DIALECTS)
def test_a_model_that_answers_as_its_family_writes_gets_its_family_s_dialect(name: str) -> None:
    dialect = DIALECTS[name]
    report = probe_mllm(load_native_model(dialect), tuple(dict.fromkeys((dialect, PLAIN))))
    assert report.require_dialect() == dialect
    assert report.trials[0].giou > 0.95


@pytest.mark.parametrize("name", ["molmo", "molmo2"])
@pytest.mark.parametrize("frame", ["0..1", "0..1000"])
def test_points_in_another_frame_than_the_family_s_are_read_in_it(name: str, frame: str) -> None:
    form = '<points x1="{0}" y1="{1}" x2="{2}" y2="{3}" alt="object">object</points>'
    report = probe_mllm(GroundingModel(frame, form=form).load(), (DIALECTS[name],))
    assert frame_name(report)[0] in SAME.get(frame, {frame})
    assert report.require_dialect().replies == "points"
    assert report.trials[0].iou > 0.95


def test_a_dialect_that_reads_the_answers_as_they_are_stays_as_it_is() -> None:
    report = probe_mllm(GroundingModel("0..1000").load(), CANDIDATES)
    assert report.dialect == PLAIN
    assert [trial.dialect.name for trial in report.trials] == ["plain", "qwen3_vl"]


def test_the_dialect_of_the_best_score_is_chosen() -> None:
    def reply(question: Question) -> Reply:
        if "bbox_2d" in question.turns[-1].text or isinstance(question.answer, Labels):
            return GroundingModel("0..1000").reply(question)
        return Reply("It is in the upper left.")

    report = probe_mllm(ScriptedMLLM(reply), CANDIDATES)
    assert report.dialect == DIALECTS["qwen3_vl"]
    assert report.trials[1].giou == 0
    assert "none of the questions" in report.trials[1].choice.reason


def test_a_model_that_never_says_none_is_measured_so() -> None:
    report = probe_mllm(GroundingModel("0..1", says_none=False).load(), (PLAIN,))
    honest = probe_mllm(GroundingModel("0..1").load(), (PLAIN,))
    assert (report.trials[0].absent_right, honest.trials[0].absent_right) == (0, 4)
    assert report.trials[0].giou == pytest.approx(honest.trials[0].giou - 0.25)
    assert report.doubt == ""


@pytest.mark.parametrize("has_probabilities", [False, True])
def test_whether_answers_have_probabilities_is_reported(has_probabilities: bool) -> None:
    report = probe_mllm(GroundingModel("0..1000", probabilities=has_probabilities).load(), (PLAIN,))
    assert report.points is not None
    assert (report.points.has_probabilities, report.points.right) == (has_probabilities, 24)


def test_a_model_that_always_says_yes_gets_half_of_the_points_right() -> None:
    model = GroundingModel("0..1000")
    report = probe_mllm(
        ScriptedMLLM(lambda question: "Yes" if isinstance(question.answer, Labels) else model.reply(question)), (PLAIN,)
    )
    assert report.points is not None
    assert (report.points.right, report.points.count) == (12, 24)


# Refusals to guess ----------------------------------------------------------------------------------------------------


def answer_at_random(seed: int) -> Callable[[Question], str]:
    random = Random(seed)

    def reply(_: Question) -> str:
        (x1, x2), (y1, y2) = (sorted(random.sample(range(1000), 2)) for _ in range(2))
        return f"[{x1},{y1},{x2},{y2}]"

    return reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        pytest.param(lambda _: "I'm sorry, I can't see where things are.", "none of the questions with a box", id="prose"),
        pytest.param(lambda _: "", "none of the questions with a box", id="nothing"),
        pytest.param(lambda _: "[0,0,999,999]", "miss the objects in every frame", id="always the whole image"),
        pytest.param(lambda _: "[400,400,600,600]", "miss the objects in every frame", id="always the middle"),
        *(pytest.param(answer_at_random(seed), "miss the objects", id=f"at random {seed}") for seed in range(3)),
    ],
)
def test_a_model_that_cannot_ground_gets_no_dialect(reply: Callable[[Question], str], reason: str) -> None:
    report = probe_mllm(ScriptedMLLM(reply), CANDIDATES)
    assert report.dialect is None
    assert report.points is None
    assert reason in report.doubt
    with pytest.raises(BackendError, match="no dialect can be chosen for scripted"):
        report.require_dialect()
    assert json.loads(json.dumps(report.to_dict()))["dialect"] is None


def test_a_model_that_changes_its_frame_from_answer_to_answer_gets_no_dialect() -> None:
    models = (GroundingModel("0..1000"), GroundingModel("0..1000", "yx"))
    count = iter(range(10_000))
    report = probe_mllm(ScriptedMLLM(lambda question: models[next(count) % 2].reply(question)), (PLAIN,))
    assert report.doubt.startswith("two frames fit its boxes about equally well: 0..999, x first (mean IoU 0.")
    assert "y first" in report.doubt


def test_pixels_are_the_image_s_where_the_model_s_resizing_is_unknown() -> None:
    mllm = GroundingModel("pixels of the image").load()
    del mllm.resizing  # type: ignore[attr-defined]
    report = probe_mllm(mllm, (DIALECTS["qwen2_5_vl"],))
    best = report.require_dialect()
    assert best.name == "qwen2_5_vl (pixels of the image, x first)"
    assert best.for_model((28, 3136, 10**6)) == best, "a resizing that was measured is not replaced by loading"


@pytest.mark.parametrize("frame", ["0..1", "0..1000"])
@pytest.mark.parametrize("counts_square", [True, False])
def test_whether_numbers_count_the_padded_square_is_measured_too(frame: str, counts_square: bool) -> None:
    mllm = GroundingModel(frame, counts_square=counts_square).load()
    mllm.pads_images = True  # type: ignore[attr-defined]
    report = probe_mllm(mllm, (DIALECTS["llava"], PLAIN))
    best = report.require_dialect().for_model(pads_images=True)
    assert best.padded is counts_square
    assert report.trials[0].choice.best.frame.name.endswith("in the padded square") is counts_square
    assert report.trials[0].iou > 0.98
    assert report.points is not None
    assert report.points.right == 24


def test_what_is_kept_leaves_the_resizing_to_the_load() -> None:
    report = probe_mllm(GroundingModel("pixels of the processed image").load(), (DIALECTS["qwen2_5_vl"],))
    assert report.dialect == DIALECTS["qwen2_5_vl"]
    adapted = probe_mllm(GroundingModel("pixels of the processed image").load(), (PLAIN,)).require_dialect()
    assert (adapted.frame, adapted.resizing) == ("processed", None)


# What is shown --------------------------------------------------------------------------------------------------------


def test_the_drawn_objects_are_where_the_scenes_say() -> None:
    expressions = [drawn.expression for scene in draw_probe_scenes() for drawn in scene.objects]
    assert len(set(expressions)) == len(expressions) == 12
    for scene in draw_probe_scenes():
        assert scene.absent not in expressions
        pixels = np.asarray(scene.image).astype(int)
        for drawn in scene.objects:
            on, off = (pixels[drawn.mask], pixels[~drawn.mask])
            colour = np.median(on, axis=0)
            assert (np.abs(on - colour).max(1) < 60).mean() > 0.6
            elsewhere = np.abs(off - colour).max(1) > 20
            assert elsewhere.mean() > 0.97, "another object may have some of its colour"
            for point, label in drawn.points:
                assert drawn.mask[int(point.y), int(point.x)] == label
                assert drawn.box.contains(*point)


def test_sizes_tell_pixels_of_the_image_from_those_of_a_resized_one() -> None:
    for scene in draw_probe_scenes():
        for multiple in (28, 32):
            resized = Size(*(round(side / multiple) * multiple for side in scene.size))
            assert all(abs(side / new - 1) > 0.02 for side, new in zip(scene.size, resized, strict=True))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("<think>[1,2,3,4]</think> [012 034 101 150]", (12, 34, 101, 150)),
        ("(10,20),(30,40) and [1,2,3,4]", (10, 20, 30, 40)),
        ('{"label": "sign [9, 9, 9, 9]", "box_2d": [0.1, 0.2, 0.5, 0.75]}', (0.1, 0.2, 0.5, 0.75)),
        ("<loc0010><loc0020><loc0300><loc0400>", (10, 20, 300, 400)),
        ('<points x1="10.5" y1="20.0" x2="50" y2="60.5" alt="ring">ring</points>', (10.5, 20, 50, 60.5)),
        ('<points coords="1 1 105 200 2 500 605">ring</points> or [1,2,3,4]', (105, 200, 500, 605)),
        ('<point x="10.5" y="20.0" alt="ring">ring</point>', None),
        ("<think>[1,2,3,4]", None),
        ("none", None),
    ],
)
def test_the_numbers_of_the_first_box_are_found_whatever_they_count(text: str, numbers: tuple[float, ...] | None) -> None:
    assert find_first_box(text) == numbers
