"""How much a query computes, counted by hooks instead of a clock: passes of the language model, its tokens, and encodings.

Each token about an image is read once: the trie of all prompts is the measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from sam4mllm_tool import Sam4Mllm
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.requests import MLLMRequest, Request, Response, RunHook
from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.types import Box, Image, Segmentation, Segmenter, Size, Turn
from tests.benchmarks.families import load_tiny_checkpoint
from tests.benchmarks.forced_replies import force_reply
from tests.benchmarks.forward_counter import Work, count_trie_tokens, count_work
from tests.benchmarks.reference_loop import ReferenceLoop, find_difference
from tests.video_checkpoints import needs_torchvision

WORDS = [f"{color} {shape}" for color in ("red", "green", "blue", "yellow", "purple") for shape in ("ring", "star")]
EXPRESSIONS = [f"the {words}" for words in WORDS]


@dataclass(frozen=True)
class Bound:
    """The most that a query may compute.

    Attributes:
        trie: Tokens of all passes, as a multiple of the trie of all prompts.
        decodes: Passes over one token.
        processed: Runs of the image processor.
    """

    trie: float
    decodes: int
    processed: int = 1


BOUNDS = {
    ("embedded", "embedded"): Bound(trie=1.0, decodes=6),
    ("llava_next", "plain"): Bound(trie=1.0, decodes=18),
    ("llava_next", "released"): Bound(trie=1.2, decodes=20),
    ("gemma3", "plain"): Bound(trie=1.05, decodes=17),
    ("mllama", "released"): Bound(trie=1.05, decodes=44, processed=2),
    ("qwen2_5_vl", "plain"): Bound(trie=1.0, decodes=17),
    ("qwen2_5_vl", "released"): Bound(trie=1.4, decodes=20),
}
"""By checkpoint and dialect. Where a question is about all points, a guess of all answers is read at once, and again from the
first wrong one on: random weights make wrong guesses. Where guesses can't be taken back, answers are read one by one."""
TEN_EXPRESSIONS = Bound(trie=1.0, decodes=0)
"""Of the embedded pair, all decoded together."""
FAMILIES = [pytest.param(*key, id="-".join(key), marks=[needs_torchvision] if key[0] == "qwen2_5_vl" else []) for key in BOUNDS]


class PromptHook(RunHook):
    """Keeps what was asked."""

    def __init__(self, prompts: list[Sequence[Turn]]) -> None:
        self._prompts = prompts

    def after_request(self, request: Request, response: Response) -> None:  # noqa: ARG002
        if isinstance(request, MLLMRequest):
            self._prompts += [question.turns for question in request.questions]


def count_query(models: Sam4Mllm, image: Image, expressions: Sequence[str]) -> tuple[Work, int, list[Segmentation]]:
    """Segment several expressions; return what that computes, the tokens of the trie of all prompts, and the results."""
    prompts: list[Sequence[Turn]] = []
    watched = models.with_run_hooks(lambda _, __: PromptHook(prompts))
    with count_work(models) as work:
        results = watched.segment_many([(image, expression) for expression in expressions])
    return work, count_trie_tokens(models.mllm._renderer, image, prompts), results  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter("embedded")


@pytest.fixture
def image() -> Image:
    return PILImage.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))


def load_models(family: str, dialect: str, segmenter: Segmenter, folder: Path) -> Sam4Mllm:
    torch.set_num_threads(1)
    return Sam4Mllm(load_tiny_checkpoint(family, folder), segmenter, dialect=DIALECTS[dialect])


@pytest.mark.parametrize(("family", "dialect"), FAMILIES)
def test_a_query_computes_no_more_than_its_bound(
    family: str, dialect: str, image: Image, segmenter: Segmenter, tmp_path: Path
) -> None:
    models = load_models(family, dialect, segmenter, tmp_path)
    text = models.dialect.format_boxes([Box(20, 20, 70, 80)], Size(*image.size))
    with force_reply(models, image, EXPRESSIONS[:1], text):
        work, trie, (result,) = count_query(models, image, EXPRESSIONS[:1])
        reference = ReferenceLoop(models).segment(image, EXPRESSIONS[0]) if models.dialect.points == "joint" else None
    assert len(result.point_answers) == 25
    assert reference is None or find_difference(result, reference) is None
    bound = BOUNDS[family, dialect]
    assert work.computed <= bound.trie * trie
    assert work.starts == 1, "the second round computes no token of the image"
    assert work.decodes <= bound.decodes
    assert work.runs["vision tower"] == 1
    assert work.runs["image processor"] <= bound.processed
    assert work.runs["SAM encoder"] <= 1
    assert work.runs["mask decoder"] == 1


def test_ten_expressions_about_an_image_share_its_encodings(image: Image) -> None:
    models = Sam4Mllm.load("embedded", "embedded")
    text = models.dialect.format_boxes([Box(20, 20, 70, 80)], Size(*image.size))
    with force_reply(models, image, EXPRESSIONS, text):
        work, trie, results = count_query(models, image, EXPRESSIONS)
    assert [len(result.point_answers) for result in results] == [25] * 10
    assert work.computed <= TEN_EXPRESSIONS.trie * trie
    assert work.starts == 1
    assert work.decodes <= TEN_EXPRESSIONS.decodes
    assert len(work.passes) <= 9, "the image, six tokens of ten answers at once, the end of the answers, and all points"
    assert work.runs["vision tower"] == work.runs["image processor"] == work.runs["SAM encoder"] == 1
    assert work.runs["mask decoder"] <= 10
