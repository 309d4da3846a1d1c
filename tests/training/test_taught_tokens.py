"""What a model is taught: the answers and their ends, id by id, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sam4mllm_tool.data.training_conversations import ImageConversations, TrainingConversation
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.models.mllm.model_runner import can_pack
from sam4mllm_tool.models.mllm.prompt_renderer import ImageInputs, PromptRenderer
from sam4mllm_tool.training.examples import Maker, Row, examples_of
from sam4mllm_tool.types import Turn
from tests.checkpoints import FAMILIES

IMAGE = Image.new("RGB", (90, 50), "teal")
SHARED = (Turn("system", "Be brief."), Turn("user", "ring?"), Turn("assistant", "[1,2]"))
FIRST = (Turn("user", "on (3,4)?"), Turn("assistant", "Yes"))
SECOND = (Turn("user", "on (5,6)?"), Turn("assistant", "No"))
LESSON = ImageConversations("one", "one.png", (TrainingConversation(SHARED, (FIRST, SECOND)),))

BOX = ["[", "1", ",", "2", "]"]
TAUGHT = {
    "llava": [["Ġ", *BOX, "Ġ", "</s>"], ["ĠYes", "Ġ", "</s>"], ["ĠNo", "Ġ", "</s>"]],
    "llava_next": [["Ġ", *BOX, "</s>"], ["ĠYes", "</s>"], ["ĠNo", "</s>"]],
    "idefics3": [["Ġ", *BOX, "<end_of_utterance>"], ["ĠYes", "<end_of_utterance>"], ["ĠNo", "<end_of_utterance>"]],
    "gemma3": [[*BOX, "<end_of_turn>"], ["Yes", "<end_of_turn>"], ["No", "<end_of_turn>"]],
}
"""What each family's model has to generate, as its template and tokenizer write it: "ASSISTANT:" leaves the blank to it."""
EVERY_FAMILY = pytest.mark.parametrize("family", TAUGHT)


@pytest.fixture(scope="module")
def prompter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PromptRenderer]:
    made: dict[str, PromptRenderer] = {}

    def get(family: str) -> PromptRenderer:
        if family not in made:
            folder: Path = FAMILIES[family](tmp_path_factory.mktemp(family))
            made[family] = PromptRenderer(AutoProcessor.from_pretrained(folder), family)
        return made[family]

    return get


def rows(
    prompter: PromptRenderer, *, packs: bool, max_tokens: int = 999, lesson: ImageConversations = LESSON
) -> tuple[list[Row], Maker]:
    maker = Maker(prompter, prompter.processor.image_token_id, packs=packs, max_tokens=max_tokens)
    return maker.rows(lesson, ImageInputs(IMAGE)), maker


def path_to(row: Row, node: int) -> list[int]:
    found = []
    while node >= 0:
        found.append(int(row.ids[node]))
        node = int(row.parents[node])
    return found[::-1]


@EVERY_FAMILY
def test_the_taught_tokens_are_the_answers_with_their_ends(prompter: Callable[[str], PromptRenderer], family: str) -> None:
    tokenizer = prompter(family).tokenizer
    for packs in (True, False):
        made, _ = rows(prompter(family), packs=packs)
        taught = [id_ for row in made for id_ in row.ids[row.taught].tolist()]
        expected = [token for answer in TAUGHT[family] for token in answer]
        assert sorted(tokenizer.convert_ids_to_tokens(taught)) == sorted(expected), "each once, however many rows it is in"


@EVERY_FAMILY
def test_an_example_is_the_prompt_of_inference_and_then_the_answer(
    prompter: Callable[[str], PromptRenderer], family: str
) -> None:
    write = prompter(family)
    examples = list(examples_of(write, ImageInputs(IMAGE), LESSON.conversations[0]))
    turns = [SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0])]
    assert [example.ids[: example.start] for example in examples] == [write.write(ImageInputs(IMAGE), t).ids for t in turns]
    answers = [write.tokenizer.convert_ids_to_tokens(list(example.ids[example.start :])) for example in examples]
    assert answers == TAUGHT[family]


@EVERY_FAMILY
def test_nothing_of_the_picture_or_the_user_is_taught(prompter: Callable[[str], PromptRenderer], family: str) -> None:
    write = prompter(family)
    (row, *_), _ = rows(write, packs=True)
    assert not row.taught[row.ids == write.processor.image_token_id].any()
    first = int(np.flatnonzero(row.taught)[0])
    ids = path_to(row, first)[:-1]
    asked = [write.write(ImageInputs(IMAGE), turns).ids for turns in (SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0]))]
    assert tuple(ids) in asked


@EVERY_FAMILY
def test_no_token_of_a_row_comes_after_one_of_another_branch(prompter: Callable[[str], PromptRenderer], family: str) -> None:
    write = prompter(family)
    examples = {example.ids for example in examples_of(write, ImageInputs(IMAGE), LESSON.conversations[0])}
    for packs in (True, False):
        made, _ = rows(write, packs=packs)
        ends = [tuple(path_to(row, i)) for row in made for i in set(range(len(row))) - set(row.parents.tolist())]
        assert set(ends) <= examples


def test_a_lesson_over_the_limit_takes_several_rows_and_teaches_the_same(prompter: Callable[[str], PromptRenderer]) -> None:
    write = prompter("llava")
    whole, _ = rows(write, packs=True)
    split, maker = rows(write, packs=True, max_tokens=75)
    picture = write.processor.image_token_id
    assert len(whole) == 1
    assert len(split) == 2
    assert all((row.ids != picture).sum() <= 75 and (row.ids == picture).sum() == 16 for row in split)
    assert sum(int(row.taught.sum()) for row in split) == int(whole[0].taught.sum())
    assert not maker.dropped


def test_an_answer_that_fits_in_no_row_is_dropped_and_counted(prompter: Callable[[str], PromptRenderer]) -> None:
    made, maker = rows(prompter("llava"), packs=True, max_tokens=50)
    assert [int(row.taught.sum()) for row in made] == [len(TAUGHT["llava"][0])]
    assert maker.dropped == {"answers that end after max_tokens=50": 2}


def test_a_conversation_that_begins_with_the_answer_is_refused(prompter: Callable[[str], PromptRenderer]) -> None:
    lesson = ImageConversations("x", "x.png", (TrainingConversation((Turn("assistant", "Yes"),)),))
    with pytest.raises(DataError, match="begins with the assistant"):
        rows(prompter("llava"), packs=True, lesson=lesson)


def test_control_tokens_in_an_answer_are_taught_as_they_are_spelled(prompter: Callable[[str], PromptRenderer]) -> None:
    write = prompter("llava")
    ids = write.answer((Turn("user", "who?"), Turn("assistant", "a </s> b")))
    assert ids.count(write.tokenizer.eos_token_id) == 1
    assert ids[-1] == write.tokenizer.eos_token_id


def test_where_a_template_writes_no_end_the_tokenizers_is_taught(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )  # as LLaVA 1.5 is published
    write = PromptRenderer(AutoProcessor.from_pretrained(FAMILIES["llava"](tmp_path, template=template)), "llava")
    ids = write.answer((Turn("user", "on it?"), Turn("assistant", "Yes")))
    assert write.tokenizer.convert_ids_to_tokens(list(ids)) == ["ĠYes", "</s>"]


def test_where_a_template_asks_otherwise_than_it_tells_the_answer_is_still_found(tmp_path: Path) -> None:
    template = (
        "<s>{% for message in messages %}[{{ message['role'] }}]{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<pad>{% endif %}"
    )  # as thinking models, whose prompt opens a thought that is left out of what was said
    write = PromptRenderer(AutoProcessor.from_pretrained(FAMILIES["llava"](tmp_path, template=template)), "llava")
    ids = write.answer((Turn("user", "Yes?"), Turn("assistant", "Yes")))
    assert write.tokenizer.convert_ids_to_tokens(list(ids)) == ["Yes", "</s>"]


@EVERY_FAMILY
def test_rows_branch_only_where_the_model_can_run_tries(family: str, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(FAMILIES[family](tmp_path))
    assert can_pack(model) == (family != "gemma3")
