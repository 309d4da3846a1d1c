"""The training of the embedded pair: what is supervised, what sees what, and what must never be trained on."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.embedded.architecture import GRID, WIDTH, build_mllm, build_processor
from recipes.embedded.examples import (
    NOWHERE,
    PICTURE,
    Example,
    at_cell,
    base_examples,
    depth,
    dialogue_examples,
    encode,
    example,
    rows,
    telling_points,
)
from recipes.embedded.language import Student, collate
from recipes.embedded.world import World
from sam4mllm_tool.embedded.expressions import expressions
from sam4mllm_tool.embedded.scenes import TEST_SEEDS, Scene, draw_scene
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PromptRenderer
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, TrueObject, build_true_dialogue
from sam4mllm_tool.types import Point, Size, Turn

UNKNOWN = encode("xylophone")[0]
CURRICULA = pytest.mark.parametrize("curriculum", [base_examples, dialogue_examples], ids=["base", "dialogue"])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(3)


def test_the_test_split_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test split"):
        World(tmp_path, 1000, TEST_SEEDS)
    with pytest.raises(ValueError, match="test split"):
        World(tmp_path, 2000, TEST_SEEDS - 1000)


def test_every_expression_is_in_the_vocabulary() -> None:
    told = {one.text for seed in range(150) for one in expressions(draw_scene(seed, 64))}
    assert not {text for text in told if UNKNOWN in encode(text)}


def test_examples_are_encoded_as_the_processor_encodes_the_chat(scene: Scene) -> None:
    processor = build_processor()
    question = EMBEDDED.ask_boxes("the red ring")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.turns[-1].text}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    ids = processor(text=text, images=[scene.image], return_tensors="np")["input_ids"][0]
    asked = example(question.turns, "", "boxes")
    assert asked.ids[: asked.answer] == ids.tolist()


@pytest.mark.parametrize("method", [PQPP, PPG], ids=lambda method: method.__name__)
def test_every_round_is_taught_in_the_tokens_that_are_read_and_written_later(method: type[PQPP] | type[PPG]) -> None:
    """Prompts as the backend writes them, the second round's too, and answers as it hears them end."""
    prompter = PromptRenderer(build_processor(), "embedded")
    rounds: Counter[int] = Counter()
    for drawn in map(draw_scene, (3, 4, 5)):
        size, picture = Size(*drawn.image.shape[1::-1]), ImageInputs(Image.fromarray(drawn.image))
        for asked in expressions(drawn):
            truth = [
                TrueObject(mask, drawn.objects[i].box, telling_points(mask, tuple(int(v) for v in drawn.objects[i].box)))
                for i, mask in ((i, drawn.mask(i)) for i in asked.targets)
            ]
            for exchange in build_true_dialogue(method.start(asked.text, size, dialect=EMBEDDED), truth):
                turns, reply = exchange.question.turns, exchange.reply.text
                taught = example(turns, reply, "")
                assert taught.ids[: taught.answer] == list(prompter.write(picture, turns).ids)
                assert taught.ids[taught.answer :] == list(prompter.answer((*turns, Turn("assistant", reply))))
                rounds[len(turns)] += 1
    assert rounds[1] > 50
    assert method is PPG or rounds[3] > 1000


@CURRICULA
def test_only_answers_are_supervised_each_token_once(scene: Scene, curriculum) -> None:
    told = list(curriculum(scene, Random(1)))
    packed = rows(told, width=10_000, most=1)[0]
    supervised = [token for one in told for token in one.ids[one.answer :]]
    assert packed.targets == supervised
    before = [one.ids[position - 1] for one in told for position in range(one.answer, len(one.ids))]
    assert [packed.packed.ids[node] for node in packed.nodes] == before


@CURRICULA
def test_rows_keep_to_their_width_and_drop_nothing_but_the_end(scene: Scene, curriculum) -> None:
    told = list(curriculum(scene, Random(1)))
    packed = rows(told, width=96, most=100)
    assert max(len(row.packed.ids) for row in packed) <= 96
    short = [one for one in told if len(one.ids) - PICTURE <= 96]
    assert sum(len(row.targets) for row in packed) == sum(len(one.ids) - one.answer for one in short)
    assert [row.targets for row in rows(told, width=96, most=2)] == [row.targets for row in packed[:2]]


def test_looks_name_the_object_whose_box_is_told(scene: Scene) -> None:
    size = Size(256, 256)
    for one in base_examples(scene, Random(2)):
        if one.task != "locate" or NOWHERE in one.looks or not one.looks:
            continue
        for number, told in zip(one.looks[::6], _boxes(one), strict=True):
            assert told == encode(EMBEDDED.encode_box(scene.objects[number].box, size))


def _boxes(one: Example) -> list[list[int]]:
    told = one.ids[one.answer : -1]
    return [told[start : start + 6] for start in range(0, len(told), 6)]


@pytest.mark.parametrize(
    ("point", "cell"),
    [(Point(0, 0), 0), (Point(255, 0), 47), (Point(0, 255), 47 * 48), (Point(256, 256), 48 * 48 - 1)],
    ids=["first", "end of the first row", "start of the last", "over the edge"],
)
def test_cells_are_counted_row_by_row(point: Point, cell: int) -> None:
    assert at_cell(point, Size(256, 256)) == -2 - cell


def test_depth_counts_the_erosions_that_a_pixel_survives() -> None:
    mask = np.zeros((7, 7), np.bool_)
    mask[1:6, 1:6] = True
    assert depth(mask)[3].tolist() == [0, 1, 2, 3, 2, 1, 0]
    assert (depth(np.ones((3, 3), np.bool_)) == 1).all()


def test_telling_points_are_labelled_by_the_mask() -> None:
    for seed in range(30):
        drawn = draw_scene(seed)
        for index, thing in enumerate(drawn.objects):
            points = telling_points(drawn.mask(index), tuple(int(v) for v in thing.box))
            assert [point.label for point in points] == [1, 1, 0]
            assert [int(drawn.mask(index)[int(p.y), int(p.x)]) for p in points] == [1, 1, 0]


@CURRICULA
def test_a_packed_batch_scores_as_each_example_alone(curriculum) -> None:
    torch.manual_seed(0)
    model = build_mllm().eval()
    model.set_attn_implementation("eager")  # as in training
    features = torch.randn(2, GRID**2, WIDTH).to(torch.bfloat16)
    student = Student(model, features)
    told = [list(curriculum(draw_scene(seed), Random(seed)))[:12] for seed in (3, 4)]
    with torch.no_grad():
        together = student.logits(collate(torch.tensor([0, 1]), [rows(one, 96, 7) for one in told]))
        alone = torch.cat([_alone(student, owner, one) for owner, group in enumerate(told) for one in group])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)


def _alone(student: Student, owner: int, one: Example) -> torch.Tensor:
    """The logits at the answer's places, from one plain causal pass."""
    words = student.model.get_input_embeddings()(torch.tensor([one.ids[PICTURE:]]))
    embedded = torch.cat([student.picture(torch.tensor([owner])), words], 1)
    hidden = student.model.model.language_model(inputs_embeds=embedded).last_hidden_state[0]
    return student.model.lm_head(hidden[one.answer - 1 : len(one.ids) - 1])


def test_the_dialect_s_wording_is_in_the_vocabulary() -> None:
    turns = (Turn("user", EMBEDDED.ask_prompts("the ring", 2, 1).turns[-1].text), Turn("user", EMBEDDED.none_text))
    points = EMBEDDED.ask_points(turns, draw_scene(1).objects[0].box, [Point(3, 4)], Size(256, 256))
    texts = [turn.text for question in points for turn in question.turns] + [EMBEDDED.yes, EMBEDDED.no]
    assert not [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text) if encode(word) == [UNKNOWN]]
