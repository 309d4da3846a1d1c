"""The training of the embedded pair: what is supervised, what attends to what, and what must never be trained on."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.embedded import sam_stage
from recipes.embedded.__main__ import STEPS, run_stages, save_mllm, save_sam
from recipes.embedded.architecture import GRID, TOWER_WIDTH, build_mllm, build_processor
from recipes.embedded.curriculum import base_examples
from recipes.embedded.dialogue_curriculum import dialogue_examples
from recipes.embedded.feature_model import CachedFeatureModel, collate
from recipes.embedded.packing import (
    BOX_LENGTH,
    NOWHERE,
    PREFIX_LENGTH,
    TrainingExample,
    build_example,
    encode_cell,
    encode_text,
    pack_examples,
)
from recipes.embedded.patch_targets import MAX_OBJECTS
from recipes.embedded.point_placement import compute_depth, select_informative_points
from recipes.embedded.scene_cache import SceneCache
from sam4mllm_tool.embedded.everyday import (
    TEST_SEEDS,
    EverydayObject,
    EverydayScene,
    ObjectPart,
    draw_scene,
    list_expressions,
    list_vocabulary,
)
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import EMBEDDED, PPG, PQPP, TrueObject, build_true_dialogue
from sam4mllm_tool.types import Box, ObjectPrompt, Point, PointPrompt, Size, Turn

UNKNOWN = encode_text("xylophone")[0]
CURRICULA = pytest.mark.parametrize("curriculum", [base_examples, dialogue_examples], ids=["base", "dialogue"])


@pytest.fixture(scope="module")
def scene() -> EverydayScene:
    return draw_scene(3)


def test_the_test_split_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test split"):
        SceneCache(tmp_path, 1000, TEST_SEEDS)
    with pytest.raises(ValueError, match="test split"):
        SceneCache(tmp_path, 2000, TEST_SEEDS - 1000)


def test_every_expression_is_in_the_vocabulary() -> None:
    texts = {expression.text for seed in range(12) for expression in list_expressions(draw_scene(seed, 160), held_out=True)}
    assert not {text for text in (*texts, *list_vocabulary()) if UNKNOWN in encode_text(text)}


def test_the_wording_of_the_dialect_is_in_the_vocabulary() -> None:
    turns = (Turn("user", EMBEDDED.ask_prompts("the mug", 2, 1).turns[-1].text), Turn("user", EMBEDDED.none_text))
    points = EMBEDDED.ask_points(turns, draw_scene(1).objects[0].box, [Point(3, 4)], Size(256, 256))
    texts = [turn.text for question in points for turn in question.turns] + [EMBEDDED.yes, EMBEDDED.no]
    assert not [word for text in texts for word in re.findall(r"\w+|[^\w\s]", text) if encode_text(word) == [UNKNOWN]]


def test_examples_are_encoded_as_the_processor_encodes_the_chat(scene: EverydayScene) -> None:
    processor = build_processor()
    question = EMBEDDED.ask_boxes("the red mug")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question.turns[-1].text}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    ids = processor(text=text, images=[scene.image], return_tensors="np")["input_ids"][0]
    example = build_example(question.turns, "", "boxes")
    assert example.ids[: example.answer_start] == ids.tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "turn_counts"),
    [
        pytest.param(PQPP, {1, 3}, id="PQPP: boxes, then points after them"),
        pytest.param(PPG, {1}, id="PPG: everything in the first question"),
    ],
)
def test_every_round_is_trained_in_the_tokens_of_inference(
    scene: EverydayScene, method: type[PQPP] | type[PPG], turn_counts: set[int]
) -> None:
    prompter = PromptRenderer(build_processor(), "embedded")
    size, image = Size(*scene.image.shape[1::-1]), ImageInputs(Image.fromarray(scene.image))
    rounds: Counter[int] = Counter()
    expressions = list_expressions(scene)[:30]
    for expression in expressions:
        masks = [(scene.mask(i), scene.regions[i].box) for i in expression.targets]
        truth = [TrueObject(mask, box, select_informative_points(mask, box)) for mask, box in masks]
        for exchange in build_true_dialogue(method.start(expression.text, size, dialect=EMBEDDED), truth):
            turns, reply = exchange.question.turns, exchange.reply.text
            example = build_example(turns, reply, "")
            assert example.ids[: example.answer_start] == list(prompter.write(image, turns).ids)
            assert example.ids[example.answer_start :] == list(prompter.answer((*turns, Turn("assistant", reply))))
            rounds[len(turns)] += 1
    assert set(rounds) == turn_counts
    assert rounds[1] == len(expressions) > 10
    assert rounds[3] == 0 or rounds[3] > 8 * rounds[1]


@CURRICULA
def test_a_scene_of_a_single_object_has_examples_too(curriculum) -> None:
    single = draw_scene(4977)
    assert len(single.objects) == 1
    assert len(list(curriculum(single, Random(1)))) > 5


@CURRICULA
def test_only_answers_are_supervised_each_token_once(scene: EverydayScene, curriculum) -> None:
    examples = list(curriculum(scene, Random(1)))
    (row,) = pack_examples(examples, width=10_000, max_rows=1)
    assert row.targets == [token for example in examples for token in example.ids[example.answer_start :]]
    before = [example.ids[i - 1] for example in examples for i in range(example.answer_start, len(example.ids))]
    assert [row.tree.ids[node] for node in row.nodes] == before


@CURRICULA
def test_rows_keep_their_width_and_drop_only_the_last_examples(scene: EverydayScene, curriculum) -> None:
    examples = list(curriculum(scene, Random(1)))
    rows = pack_examples(examples, width=96, max_rows=100)
    assert max(len(row.tree.ids) for row in rows) <= 96
    fitting = [example for example in examples if len(example.ids) - PREFIX_LENGTH <= 96]
    assert sum(len(row.targets) for row in rows) == sum(len(example.ids) - example.answer_start for example in fitting)
    assert [row.targets for row in pack_examples(examples, width=96, max_rows=2)] == [row.targets for row in rows[:2]]


def test_image_targets_are_the_objects_whose_boxes_are_answered(scene: EverydayScene) -> None:
    size = Size(256, 256)
    located = [e for e in base_examples(scene, Random(2)) if e.task == "locate" and e.image_targets]
    assert located
    for example in located:
        assert NOWHERE not in example.image_targets
        for number, box in zip(example.image_targets[::BOX_LENGTH], split_boxes(example), strict=True):
            assert box == encode_text(EMBEDDED.encode_box(decode_region(scene, number).box, size))


def decode_region(scene: EverydayScene, number: int) -> EverydayObject | ObjectPart:
    return scene.objects[number] if number < MAX_OBJECTS else scene.object_parts[number - MAX_OBJECTS]


def split_boxes(example: TrainingExample) -> list[list[int]]:
    answer = example.ids[example.answer_start : -1]
    return [answer[start : start + BOX_LENGTH] for start in range(0, len(answer), BOX_LENGTH)]


@pytest.mark.parametrize(
    ("point", "cell"),
    [(Point(0, 0), 0), (Point(255, 0), 55), (Point(0, 255), 55 * 56), (Point(256, 256), 56 * 56 - 1)],
    ids=["first", "end of the first row", "start of the last row", "beyond the edge"],
)
def test_cells_are_counted_row_by_row(point: Point, cell: int) -> None:
    assert encode_cell(point, Size(256, 256)) == -2 - cell


def test_depth_counts_the_erosions_that_a_pixel_survives() -> None:
    mask = np.zeros((7, 7), np.bool_)
    mask[1:6, 1:6] = True
    assert compute_depth(mask)[3].tolist() == [0, 1, 2, 3, 2, 1, 0]
    assert (compute_depth(np.ones((3, 3), np.bool_)) == 1).all()


def test_informative_points_are_two_on_the_object_and_one_off_it() -> None:
    for seed in range(4):
        scene = draw_scene(seed)
        for index, region in enumerate(scene.regions):
            points = select_informative_points(scene.mask(index), region.box)
            assert [point.label for point in points] == [1, 1, 0]
            assert [int(scene.mask(index)[int(p.y), int(p.x)]) for p in points] == [1, 1, 0]


@pytest.mark.slow
@CURRICULA
def test_a_packed_batch_gives_the_logits_of_each_example_alone(curriculum) -> None:
    torch.manual_seed(0)
    mllm = build_mllm().eval()
    mllm.set_attn_implementation("eager")  # as in training
    model = CachedFeatureModel(mllm, torch.randn(2, GRID**2, TOWER_WIDTH).to(torch.bfloat16))
    examples = [list(curriculum(draw_scene(seed), Random(seed)))[:6] for seed in (3, 4)]
    with torch.no_grad():
        rows = [pack_examples(group, width=96, max_rows=7) for group in examples]
        together = model.forward(collate(torch.tensor([0, 1]), rows)).logits
        alone = torch.cat([run_alone(model, owner, example) for owner, group in enumerate(examples) for example in group])
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)


def run_alone(model: CachedFeatureModel, scene: int, example: TrainingExample) -> torch.Tensor:
    """Return the logits of the answer's tokens from one plain causal pass."""
    words = model.model.get_input_embeddings()(torch.tensor([example.ids[PREFIX_LENGTH:]]))
    embedded = torch.cat([model.embed_image(torch.tensor([scene])), words], 1)
    hidden = model.model.model.language_model(inputs_embeds=embedded).last_hidden_state[0]
    return model.model.lm_head(hidden[example.answer_start - 1 : len(example.ids) - 1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft reads it
@pytest.mark.filterwarnings("ignore:.*was trained on 'embedded'")  # its base is saved elsewhere here
def test_a_recipe_of_one_step_a_stage_gives_a_pair_that_answers(
    tmp_path: Path, scene: EverydayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_stage, "BALANCED_STEPS", 1)
    monkeypatch.setattr(sam_stage, "DECODER_STEPS", 1)
    cache = SceneCache(tmp_path / "world", 8, chunk=8)

    def load_encoder(stage: str, prefix: str) -> torch.Tensor:
        weights = torch.load(tmp_path / f"{stage}.pt")["model"]
        return weights[f"{prefix}.layers.0.mlp.lin1.weight"]

    run_stages(list(STEPS), cache, tmp_path, dict.fromkeys(STEPS, 1))
    encoder = load_encoder("sam-encoder", "encoder")
    assert torch.equal(load_encoder("sam", "sam.vision_encoder"), encoder), "the decoder learns alone at first"
    run_stages(["eyes", "sam-encoder", "sam"], cache, tmp_path, dict.fromkeys(STEPS, 2))  # goes on from the checkpoints
    assert not torch.equal(load_encoder("sam", "sam.vision_encoder"), encoder)
    steps = {stage: torch.load(tmp_path / f"{stage}.pt")["step"] for stage in STEPS}
    assert steps == {"eyes": 2, "base": 1, "adapter": 1, "sam-encoder": 2, "sam": 2}
    save_mllm(tmp_path, tmp_path / "out", len(cache))
    save_sam(tmp_path, tmp_path / "out")
    pair = Sam4Mllm.load(f"{tmp_path / 'out' / 'mllm'}+{tmp_path / 'out' / 'adapter'}", str(tmp_path / "out" / "sam"))
    prompt = ObjectPrompt(Box(40, 40, 200, 160), (PointPrompt(100, 100, 1, 1.0),))
    (segmented,) = pair.segmenter.segment(Image.fromarray(scene.image), [prompt])
    assert segmented.mask.shape == scene.instances.shape
    (reply,) = pair.mllm.reply(Image.fromarray(scene.image), [EMBEDDED.ask_boxes("the mug")])
    assert isinstance(reply.text, str)
