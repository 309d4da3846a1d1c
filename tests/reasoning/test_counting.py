"""Ordinals are counted: "the third crescent" of two is absent."""

from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

import pytest
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.mllm import ScriptedMLLM
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.protocol import EMBEDDED
from sam4mllm_tool.reasoning import Budget, Meter, ReasoningConfig, ReasoningResult, ReasoningStrategies
from sam4mllm_tool.reasoning.counting import parse_ordinal
from sam4mllm_tool.reasoning.search import run_reasoning
from sam4mllm_tool.types import Box, Labels, Question, Reply, Size
from tests.embedded_world import EverydayScene, draw_scene, list_expressions
from tests.tool_suites import load_embedded_models

SIZE = Size(192, 192)
IMAGE = PILImage.new("RGB", SIZE, "white")
LEFT, MIDDLE, RIGHT = (Box(x, 60.5, x + 30, 100.5) for x in (10.5, 70.5, 130.5))

ORDINALS = {
    "the third crescent": (3, "all crescents"),
    "third crescent from the left": (3, "all crescents"),
    "the 2nd small red cross from the top": (2, "all small red crosses"),
    "the second largest ring": (2, "all rings"),
    "my fourth mug on the shelf": (4, "all mugs"),
    "the first ring": None,
    "the second hand of the clock": None,
    "the third one": None,
    "the 1st ring": None,
    "second": None,
    "the ring": None,
    "the third from the left": None,
}


@pytest.mark.parametrize(("expression", "expected"), ORDINALS.items(), ids=ORDINALS)
def test_ordinals_are_read_from_the_words(expression: str, expected: tuple[int, str] | None) -> None:
    ordinal = parse_ordinal(expression)
    assert (None if ordinal is None else (ordinal.place, ordinal.everything)) == expected


def models_with(*boxes: Box, others: tuple[Box, ...] = (), likely: bool = True) -> tuple[Sam4Mllm, list[str]]:
    """Return a pair whose MLLM takes LEFT for whatever is meant, and lists `boxes` where asked for all, with what was asked."""
    asked: list[str] = []

    def reply(question: Question) -> Reply:
        text = question.turns[-1].text
        asked.append(text)
        if isinstance(question.answer, Labels):
            return Reply("yes", ((0.99, 0.01),) if likely else None)
        if text.startswith("Not the object"):
            return Reply(EMBEDDED.format_boxes(others, SIZE), log_probability=-0.02)
        listed = boxes if "rings" in text else (LEFT,)
        return Reply(EMBEDDED.format_boxes(listed, SIZE), log_probability=-0.02)

    return Sam4Mllm(ScriptedMLLM(reply), BoxSegmenter(), dialect=EMBEDDED), asked


def reason(models: Sam4Mllm, expression: str, image: PILImage.Image = IMAGE, **limits: int) -> ReasoningResult:
    meter = Meter(Budget(**limits))
    run = models.start_run(Size(*image.size))
    config = ReasoningConfig().without("rephrase").without("verify")
    flow = run_reasoning(ReasoningStrategies(run, expression, config), meter)
    return models.run(image, flow, run, hooks=[meter])


def test_a_third_of_two_is_absent_however_sure_the_model_is_of_a_box() -> None:
    result = reason(models_with(LEFT, RIGHT)[0], "the third ring")
    assert result.segmentation is not None
    assert result.segmentation.objects == ()
    assert (result.ended, [attempt.step for attempt in result.attempts]) == ("confident", ["look", "count"])
    assert result.confidence is not None
    assert result.confidence > 0.9
    assert result.reason.startswith("there are 2 objects in all for 'all rings', so there is no number 3, confidence 9")
    assert result.spent.rounds == 4


def test_a_third_of_three_is_what_the_model_says() -> None:
    result = reason(models_with(LEFT, MIDDLE, RIGHT)[0], "the third ring")
    assert result.segmentation is not None
    assert len(result.segmentation.objects) == 1
    assert result.ended == "confident"
    assert result.confidence is not None
    assert result.confidence > 0.9


def test_a_box_that_is_not_in_the_list_counts_too() -> None:
    """The list leaves out the ring that the first answer is about."""
    result = reason(models_with(MIDDLE, RIGHT)[0], "the third ring")
    assert result.segmentation is not None
    assert len(result.segmentation.objects) == 1


def test_what_the_model_names_when_asked_for_more_counts_too() -> None:
    result = reason(models_with(LEFT, RIGHT, others=(MIDDLE,))[0], "the third ring", rounds=9)
    assert result.attempts[1].count == 3
    assert result.segmentation is not None
    assert len(result.segmentation.objects) == 1


def test_without_probabilities_too_few_are_no_object_and_never_verified() -> None:
    result = reason(models_with(LEFT, RIGHT, likely=False)[0], "the third ring")
    assert result.segmentation is not None
    assert result.segmentation.objects == ()
    assert (result.confidence, result.ended) == (None, "unverified")


@pytest.mark.parametrize("rounds", [2, 3])
def test_an_ordinal_that_the_budget_does_not_let_count_ends_with_the_budget(rounds: int) -> None:
    assert reason(models_with(LEFT, RIGHT)[0], "the third ring", rounds=rounds).ended == "budget"


def test_other_expressions_are_not_counted() -> None:
    models, asked = models_with(LEFT, RIGHT)
    assert reason(models, "the ring").ended == "confident"
    assert not any("rings" in text for text in asked)


@pytest.fixture(scope="module")
def embedded() -> Sam4Mllm:
    return load_embedded_models()


def iter_nouns(times: int) -> Iterator[tuple[EverydayScene, str]]:
    """Yield scenes with a noun that so many of their objects have."""
    for scene in map(draw_scene, count(700_000)):
        numbers = Counter(drawn.noun for drawn in scene.objects)
        if times in numbers.values():
            yield scene, next(noun for noun, number in numbers.items() if number == times)


@pytest.mark.slow
def test_the_embedded_pair_says_that_a_third_of_two_is_absent(embedded: Sam4Mllm) -> None:
    results = [
        reason(embedded, f"the third {noun} from the left", PILImage.fromarray(scene.image))
        for scene, noun in islice(iter_nouns(2), 8)
    ]
    absent = [result.segmentation is not None and not result.segmentation.objects for result in results]
    assert sum(absent) >= 7


@pytest.mark.slow
def test_a_count_by_the_embedded_pair_denies_hardly_any_third_that_is_there(embedded: Sam4Mllm) -> None:
    """It denies one, which the pair doesn't name in any words."""
    denied = []
    for scene, noun in islice(iter_nouns(3), 12):
        for expression in list_expressions(scene):
            if expression.text == f"the third {noun} from the left":
                result = reason(embedded, expression.text, PILImage.fromarray(scene.image))
                denied.append(any(attempt.is_too_few for attempt in result.attempts))
    assert len(denied) > 7
    assert sum(denied) <= 1
