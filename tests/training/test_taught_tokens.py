"""Which tokens a model is trained to predict: the answers and their end tokens, id by id, and nothing else."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from sam4mllm_tool.data.training_conversations import ImageConversations, TrainingConversation
from sam4mllm_tool.errors import DataError
from sam4mllm_tool.models.mllm.branching import can_pack
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.training.row_builder import RowBuilder, TokenRow, tokenize_answers
from sam4mllm_tool.types import Turn
from tests.checkpoints import FAMILIES

IMAGE = Image.new("RGB", (90, 50), "teal")
SHARED = (Turn("system", "Be brief."), Turn("user", "ring?"), Turn("assistant", "[1,2]"))
FIRST = (Turn("user", "on (3,4)?"), Turn("assistant", "Yes"))
SECOND = (Turn("user", "on (5,6)?"), Turn("assistant", "No"))
CONVERSATIONS = ImageConversations("ring", "ring.png", (TrainingConversation(SHARED, (FIRST, SECOND)),))

BOX = ["[", "1", ",", "2", "]"]
ANSWERS = {
    "llava": [["Ġ", *BOX, "Ġ", "</s>"], ["ĠYes", "Ġ", "</s>"], ["ĠNo", "Ġ", "</s>"]],
    "llava_next": [["Ġ", *BOX, "</s>"], ["ĠYes", "</s>"], ["ĠNo", "</s>"]],
    "idefics3": [["Ġ", *BOX, "<end_of_utterance>"], ["ĠYes", "<end_of_utterance>"], ["ĠNo", "<end_of_utterance>"]],
    "gemma3": [[*BOX, "<end_of_turn>"], ["Yes", "<end_of_turn>"], ["No", "<end_of_turn>"]],
}
"""What each family's model has to generate; after "ASSISTANT:" the space is part of the answer."""
EVERY_FAMILY = pytest.mark.parametrize("family", ANSWERS)


@pytest.fixture(scope="module")
def load_prompter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PromptRenderer]:
    @cache
    def load(family: str) -> PromptRenderer:
        return PromptRenderer(AutoProcessor.from_pretrained(FAMILIES[family](tmp_path_factory.mktemp(family))), family)

    return load


def build_rows(
    prompter: PromptRenderer, *, packs: bool, max_tokens: int = 999, conversations: ImageConversations = CONVERSATIONS
) -> tuple[list[TokenRow], RowBuilder]:
    builder = RowBuilder(prompter, prompter.processor.image_token_id, packs=packs, max_tokens=max_tokens)
    return builder.build_rows(conversations, ImageInputs(IMAGE)), builder


def path_to(row: TokenRow, node: int) -> list[int]:
    """Return the ids from the first token to the node."""
    ids = []
    while node >= 0:
        ids.append(int(row.ids[node]))
        node = int(row.parents[node])
    return ids[::-1]


@EVERY_FAMILY
def test_the_predicted_tokens_are_the_answers_with_their_end_tokens(
    load_prompter: Callable[[str], PromptRenderer], family: str
) -> None:
    tokenizer = load_prompter(family).tokenizer
    for packs in (True, False):
        rows, _ = build_rows(load_prompter(family), packs=packs)
        predicted = [id_ for row in rows for id_ in row.ids[row.predicted].tolist()]
        expected = [token for answer in ANSWERS[family] for token in answer]
        assert sorted(tokenizer.convert_ids_to_tokens(predicted)) == sorted(expected), (
            "each token once, however many rows contain it"
        )


@EVERY_FAMILY
def test_an_answer_follows_the_prompt_of_inference(load_prompter: Callable[[str], PromptRenderer], family: str) -> None:
    prompter = load_prompter(family)
    tokenized = list(tokenize_answers(prompter, ImageInputs(IMAGE), CONVERSATIONS.conversations[0]))
    turns = [SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0])]
    assert [answer.ids[: answer.start] for answer in tokenized] == [prompter.write(ImageInputs(IMAGE), t).ids for t in turns]
    answers = [prompter.tokenizer.convert_ids_to_tokens(list(answer.ids[answer.start :])) for answer in tokenized]
    assert answers == ANSWERS[family]


@EVERY_FAMILY
def test_no_token_of_the_image_or_the_user_is_predicted(load_prompter: Callable[[str], PromptRenderer], family: str) -> None:
    prompter = load_prompter(family)
    (row, *_), _ = build_rows(prompter, packs=True)
    assert not row.predicted[row.ids == prompter.processor.image_token_id].any()
    first = int(np.flatnonzero(row.predicted)[0])
    prompts = [
        prompter.write(ImageInputs(IMAGE), turns).ids for turns in (SHARED[:2], (*SHARED, FIRST[0]), (*SHARED, SECOND[0]))
    ]
    assert tuple(path_to(row, first)[:-1]) in prompts


@EVERY_FAMILY
def test_every_path_of_a_row_is_one_answer_with_its_prompt(load_prompter: Callable[[str], PromptRenderer], family: str) -> None:
    prompter = load_prompter(family)
    answers = {answer.ids for answer in tokenize_answers(prompter, ImageInputs(IMAGE), CONVERSATIONS.conversations[0])}
    for packs in (True, False):
        rows, _ = build_rows(prompter, packs=packs)
        paths = {tuple(path_to(row, i)) for row in rows for i in set(range(len(row))) - set(row.parents.tolist())}
        assert paths <= answers


def test_conversations_over_the_token_limit_take_several_rows_with_the_same_predictions(
    load_prompter: Callable[[str], PromptRenderer],
) -> None:
    prompter = load_prompter("llava")
    whole, _ = build_rows(prompter, packs=True)
    split, builder = build_rows(prompter, packs=True, max_tokens=75)
    image_token = prompter.processor.image_token_id
    assert len(whole) == 1
    assert len(split) == 2
    assert all((row.ids != image_token).sum() <= 75 and (row.ids == image_token).sum() == 16 for row in split)
    assert sum(int(row.predicted.sum()) for row in split) == int(whole[0].predicted.sum())
    assert not builder.dropped


def test_an_answer_that_fits_in_no_row_is_dropped_and_counted(load_prompter: Callable[[str], PromptRenderer]) -> None:
    rows, builder = build_rows(load_prompter("llava"), packs=True, max_tokens=50)
    assert [int(row.predicted.sum()) for row in rows] == [len(ANSWERS["llava"][0])]
    assert builder.dropped == {"answers that end after max_tokens=50": 2}


def test_a_conversation_that_begins_with_the_answer_is_refused(load_prompter: Callable[[str], PromptRenderer]) -> None:
    conversations = ImageConversations("x", "x.png", (TrainingConversation((Turn("assistant", "Yes"),)),))
    with pytest.raises(DataError, match="begins with the assistant"):
        build_rows(load_prompter("llava"), packs=True, conversations=conversations)


def test_control_tokens_in_an_answer_are_tokenized_as_plain_text(load_prompter: Callable[[str], PromptRenderer]) -> None:
    prompter = load_prompter("llava")
    ids = prompter.answer((Turn("user", "who?"), Turn("assistant", "a </s> b")))
    assert ids.count(prompter.tokenizer.eos_token_id) == 1
    assert ids[-1] == prompter.tokenizer.eos_token_id


def test_without_an_end_token_in_the_template_the_tokenizers_is_predicted(tmp_path: Path) -> None:
    template = (
        "{% for message in messages %}{{ message['role'] | upper }}: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )  # as LLaVA 1.5 is published
    prompter = PromptRenderer(AutoProcessor.from_pretrained(FAMILIES["llava"](tmp_path, template=template)), "llava")
    ids = prompter.answer((Turn("user", "on it?"), Turn("assistant", "Yes")))
    assert prompter.tokenizer.convert_ids_to_tokens(list(ids)) == ["ĠYes", "</s>"]


def test_a_template_whose_generation_prompt_differs_from_its_turns_still_gives_the_answer(tmp_path: Path) -> None:
    template = (
        "<s>{% for message in messages %}[{{ message['role'] }}]{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<pad>{% endif %}"
    )  # as in reasoning models, whose prompt opens a thought that earlier turns leave out
    prompter = PromptRenderer(AutoProcessor.from_pretrained(FAMILIES["llava"](tmp_path, template=template)), "llava")
    ids = prompter.answer((Turn("user", "Yes?"), Turn("assistant", "Yes")))
    assert prompter.tokenizer.convert_ids_to_tokens(list(ids)) == ["Yes", "</s>"]


@EVERY_FAMILY
def test_models_that_support_prefix_trees_are_recognized(family: str, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(FAMILIES[family](tmp_path))
    assert can_pack(model) == (family != "gemma3")
