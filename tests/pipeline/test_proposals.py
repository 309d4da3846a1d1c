"""Objects that a segmenter proposes by words, as SAM 3 does: the MLLM decides which of them are meant."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from sam4mllm_tool.errors import BackendError
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.mllm import ScriptedMLLM, load_mllm
from sam4mllm_tool.models.segmenter import BoxSegmenter, load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.protocol.references import concept
from sam4mllm_tool.trace import Recorder, load, replay, save
from sam4mllm_tool.trace.schema import SegmentStep
from sam4mllm_tool.trace.step_cards import build_step_cards
from sam4mllm_tool.types import Box, FreeText, Image, Proposal, Question, Reply, Segmentation, Segmenter, Size
from tests.embedded_world import EverydayScene, iter_cases
from tests.pipeline.test_adaptive import IMAGE, LEFT, LOW, RIGHT, Script

BOXES = {LEFT: Box(20, 20, 80, 80), RIGHT: Box(120, 20, 180, 80), LOW: Box(20, 120, 80, 180)}


class ProposingSegmenter(BoxSegmenter):
    """Draws its prompts, and proposes known boxes for any phrase."""

    def __init__(self, boxes: Sequence[Box]) -> None:
        super().__init__(name="proposer")
        self.boxes, self.phrases = boxes, list[str]()

    def propose(self, image: Image, phrase: str) -> list[Proposal]:
        self.phrases.append(phrase)
        mask = np.ones((image.height, image.width), np.bool_)
        return [Proposal(box, mask, 0.9) for box in self.boxes]


def run_adaptive(
    named: str | Reply, proposed: Sequence[str], meant: Mapping[str, float], expression: str
) -> tuple[Segmentation, ProposingSegmenter]:
    segmenter = ProposingSegmenter([BOXES[box] for box in proposed])
    models = Sam4Mllm(ScriptedMLLM(Script(named, meant)), segmenter)
    return models.segment(IMAGE, expression, method="adaptive"), segmenter


def corners(result: Segmentation) -> list[tuple[int, int]]:
    return [(round(segmented.prompt.box.x1, -1), round(segmented.prompt.box.y1, -1)) for segmented in result.objects]


@pytest.mark.parametrize(
    ("named", "proposed", "meant", "expression", "expected"),
    [
        pytest.param(
            LEFT, [LEFT, RIGHT], {LEFT: 0.9, RIGHT: 0.9}, "all mugs", [(20, 20), (120, 20)], id="a missed object is added"
        ),
        pytest.param(
            LEFT,
            [RIGHT, LOW],
            {LEFT: 0.9, RIGHT: 0.1, LOW: 0.95},
            "all mugs",
            [(20, 20), (20, 120)],
            id="a false one is refused",
        ),
        pytest.param(LEFT, [RIGHT], {LEFT: 0.9, RIGHT: 0.7}, "all mugs", [(20, 20)], id="one in doubt is refused"),
        pytest.param(LEFT, [RIGHT], {LEFT: 0.9}, "the mug", [(20, 20)], id="a single one that is believed stays alone"),
        pytest.param(LEFT, [RIGHT], {LEFT: 0.3, RIGHT: 0.9}, "the mug", [(120, 20)], id="a single one in doubt is replaced"),
        pytest.param("none", [RIGHT, LOW], {RIGHT: 0.85, LOW: 0.95}, "the mug", [(20, 120)], id="of none named, the surest"),
        pytest.param("none", [RIGHT, LOW], {RIGHT: 0.85, LOW: 0.95}, "mugs", [(120, 20), (20, 120)], id="of none named, all"),
        pytest.param("none", [RIGHT], {RIGHT: 0.2}, "the mug", [], id="none named and none believed"),
    ],
)
def test_the_mllm_decides_which_proposals_are_meant(
    named: str, proposed: Sequence[str], meant: Mapping[str, float], expression: str, expected: list[tuple[int, int]]
) -> None:
    result, _ = run_adaptive(named, proposed, meant, expression)
    assert corners(result) == expected


def test_an_added_object_has_a_confidence_and_a_note_and_the_phrase_is_the_concept() -> None:
    result, segmenter = run_adaptive(LEFT, [RIGHT], {LEFT: 0.9, RIGHT: 0.85}, "all the blue mugs left of the plate")
    assert [segmented.confidence for segmented in result.objects] == [pytest.approx(0.9), pytest.approx(0.85)]
    assert result.notes == ("added the object at (120, 20) to (180, 80), which proposer proposed",)
    assert segmenter.phrases == ["blue mug"]


@pytest.mark.parametrize(
    ("expression", "phrase"),
    [
        ("the second small red ring left of the star", "small red ring"),
        ("all dogs", "dog"),
        ("people on the left", "person"),
        ("the leftmost fire hydrant", "fire hydrant"),
        ("the", ""),
    ],
)
def test_the_concept_is_the_noun_with_its_looks(expression: str, phrase: str) -> None:
    assert concept(expression) == phrase


@pytest.mark.parametrize("expression", ["all mugs", "the mug"])
def test_a_segmenter_without_proposals_gives_the_same_result(expression: str) -> None:
    meant = {LEFT: 0.9, RIGHT: 0.9}
    with_none, _ = run_adaptive(LEFT, [], meant, expression)
    without = Sam4Mllm(ScriptedMLLM(Script(LEFT, meant)), BoxSegmenter(name="proposer"))
    plain = without.segment(IMAGE, expression, method="adaptive")
    assert with_none.to_dict() | {"seconds": {}} == plain.to_dict() | {"seconds": {}}


async def test_async_and_group_runs_give_the_same() -> None:
    models = Sam4Mllm(ScriptedMLLM(Script(LEFT, {LEFT: 0.9, RIGHT: 0.9})), ProposingSegmenter([BOXES[RIGHT]]))
    expected = models.segment(IMAGE, "all mugs", method="adaptive")
    alone = await models.asegment(IMAGE, "all mugs", method="adaptive")
    group = models.segment_group(IMAGE, ["all mugs", "all mugs", "the mug"], method="adaptive")
    assert corners(expected) == corners(alone) == [(20, 20), (120, 20)]
    assert [corners(result) for result in group if isinstance(result, Segmentation)] == [corners(expected)] * 2 + [[(20, 20)]]


def test_a_run_with_proposals_is_recorded_shown_and_replayed(tmp_path: Path) -> None:
    models = Sam4Mllm(ScriptedMLLM(Script(LEFT, {LEFT: 0.9, RIGHT: 0.9})), ProposingSegmenter([BOXES[RIGHT]]))
    recorder = Recorder(models)
    recorder.models.segment(IMAGE, "all mugs", method="adaptive")
    save(recorder.traces[-1], tmp_path / "trace.json")
    trace = load(tmp_path / "trace.json")
    assert replay(trace).difference == ""
    titles = [card.title for card in build_step_cards(trace, {})]
    assert [title for title in titles if "propose" in title] == ["5. Segment Anything proposes 1 object for 'mug'"]
    other = [replace(step, phrase="cup") if isinstance(step, SegmentStep) and step.phrase else step for step in trace.steps]
    expected = "nothing was proposed for the phrase 'mug' when this was recorded; the nearest that was recorded is 'cup'"
    assert replay(replace(trace, steps=tuple(other))).difference == expected, "a replay invents no answer"


def test_a_broken_proposal_is_a_backend_error() -> None:
    segmenter = ProposingSegmenter([Box(0, 0, float("nan"), 5)])
    models = Sam4Mllm(ScriptedMLLM(Script(LEFT, {LEFT: 0.9})), segmenter)
    with pytest.raises(BackendError, match="proposer gave object 1 a prompt with the coordinate nan"):
        models.segment(IMAGE, "all mugs", method="adaptive")


class ForgetfulMLLM:
    """The embedded MLLM, of whose boxes only the first is left."""

    name, greedy = "forgetful", True

    def __init__(self) -> None:
        self.mllm = load_mllm("embedded")

    def reply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        replies = self.mllm.reply(image, questions)
        return [self._forget(image, *pair) for pair in zip(questions, replies, strict=True)]

    def _forget(self, image: Image, question: Question, reply: Reply) -> Reply:
        if not isinstance(question.answer, FreeText):
            return reply
        boxes = EMBEDDED.parse_boxes(question, reply, Size(*image.size))
        return replace(reply, text=EMBEDDED.format_boxes(boxes[:1], Size(*image.size)))

    async def areply(self, image: Image, questions: Sequence[Question]) -> list[Reply]:
        return self.reply(image, questions)


class SceneProposer:
    """The embedded segmenter, which also proposes every object of a scene, whatever the phrase."""

    def __init__(self, scene: EverydayScene, segmenter: Segmenter) -> None:
        self.scene = scene
        self.name, self.segment, self.asegment = "proposer", segmenter.segment, segmenter.asegment

    def propose(self, image: Image, phrase: str) -> list[Proposal]:  # noqa: ARG002
        numbered = enumerate(self.scene.objects)
        return [Proposal(Box(*shape.box), self.scene.mask(index), 0.9) for index, shape in numbered]


@pytest.mark.slow
def test_proposals_bring_back_what_the_embedded_mllm_forgot_and_nothing_else() -> None:
    ious: dict[bool, list[float]] = {False: [], True: []}
    mllm, segmenter = ForgetfulMLLM(), load_segmenter("embedded")
    for scene, expression in islice(iter_cases("plural", 300_000), 2):
        truth = np.logical_or.reduce([scene.mask(index) for index in expression.targets])
        for proposes in (False, True):
            models = Sam4Mllm(
                mllm, SceneProposer(scene, segmenter) if proposes else segmenter, dialect=EMBEDDED, refine_crops=False
            )
            result = models.segment(PILImage.fromarray(scene.image), expression.text, method="adaptive")
            ious[proposes].append(mask_iou(result.mask, truth))
    assert np.mean(ious[False]) < 0.7 < 0.9 < np.mean(ious[True])
