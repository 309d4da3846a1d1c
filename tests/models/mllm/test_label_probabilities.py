"""Word probabilities, against those computed by hand from the model's logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sam4mllm_tool.models.mllm import tree_reader
from sam4mllm_tool.models.mllm.branching import can_branch, can_pack
from sam4mllm_tool.models.mllm.copying_reader import CopyingReader
from sam4mllm_tool.models.mllm.image_preparation import ImagePreparation
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.models.mllm.tree_reader import TreeReader
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Turn
from tests.checkpoints import FAMILIES
from tests.models.mllm.questions import (
    BUILDERS,
    PACKED,
    YES_NO,
    answer_words,
    count_prefills,
    make_point_questions,
    make_question,
    score_by_full_passes,
)

Load = Callable[[str], TransformersMLLM]
EVERY_FAMILY = pytest.mark.parametrize("family", BUILDERS)


def rows(replies: list[Reply]) -> torch.Tensor:
    """Return (questions, labels, words) probabilities of replies of equal length."""
    return torch.tensor([reply.label_probabilities for reply in replies])


def prepare(processor: Any, image: Image) -> Image:
    """Return the image as the backend hands it to the processor: LLaVA 1.5 gets a square."""
    return ImagePreparation.for_processor(processor.image_processor, None).apply(image)


def make_second_round(first: str, then: str, words: tuple[str, ...]) -> Question:
    return Question((Turn("user", first), Turn("assistant", "[ 012 ]"), Turn("user", then)), Labels(1, words))


@pytest.mark.parametrize("family", sorted(BUILDERS.keys() - {"mllama", "paligemma"}))
def test_labels_of_many_points_equal_those_of_full_passes(mllm: Load, image: Image, family: str) -> None:
    questions = make_point_questions(answer_words(family), 6)
    assert isinstance(mllm(family)._reader, TreeReader)
    together = rows(mllm(family).reply(image, questions))
    alone = torch.tensor([score_by_full_passes(mllm(family), image, question) for question in questions])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert together[:, 0, 0].std() > 0, "equal answers for all points would prove nothing"


@EVERY_FAMILY
def test_the_image_is_prefilled_once_for_all_points(mllm: Load, image: Image, family: str) -> None:
    words = answer_words(family)
    expected = 25 if family == "paligemma" else 1  # it reads a prompt in both directions, so that none of it can be shared
    assert count_prefills(mllm(family), image, make_point_questions(words)) == expected
    assert count_prefills(mllm(family), image, [make_question("is it inside ?", Labels(25, words))]) == 1


@pytest.mark.parametrize(
    "family", sorted(BUILDERS.keys() - {"paligemma"})
)  # in a full pass it reads answers as its two-way prompt
def test_a_sequence_of_labels_over_the_cache_equals_full_passes(mllm: Load, image: Image, family: str) -> None:
    question = make_question("is it inside ?", Labels(5, answer_words(family)))
    expected = torch.tensor([score_by_full_passes(mllm(family), image, question)])
    torch.testing.assert_close(rows(mllm(family).reply(image, [question])), expected, atol=1e-4, rtol=0)


def test_reading_in_several_passes_changes_no_answer(mllm: Load, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = make_point_questions(YES_NO, 7)
    whole = rows(mllm("llava").reply(image, questions))
    monkeypatch.setattr(tree_reader, "TOKENS_PER_PASS", 40)
    mllm("llava")._images.clear()
    torch.testing.assert_close(rows(mllm("llava").reply(image, questions)), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", PACKED)
def test_questions_of_other_dialogues_change_no_answer(mllm: Load, image: Image, family: str) -> None:
    """Dialogues run in lock-step, and each must get the answers that it would get alone."""
    words = answer_words(family)
    dialogues = [
        [make_second_round(f"where is ring {k} ?", f"is ( {i} , {i} ) on it ?", words) for i in range(5 - k)] for k in range(3)
    ]
    together = mllm(family).reply(image, [question for dialogue in dialogues for question in dialogue])
    alone = [reply for dialogue in dialogues for reply in mllm(family).reply(image, dialogue)]
    torch.testing.assert_close(rows(together), rows(alone), atol=1e-4, rtol=0)
    mixed = mllm(family).reply(image, [make_question("where ?", FreeText(3)), *dialogues[2], *dialogues[0]])
    torch.testing.assert_close(rows(mixed[1:]), rows(together[-3:] + together[:5]), atol=1e-4, rtol=0)


def test_questions_with_different_system_turns_are_not_packed_over_one_image(mllm: Load, image: Image) -> None:
    questions = [make_question("on it ?", Labels(1, YES_NO), system=system) for system in ("", "Be kind.", "Be brief.")]
    together = rows(mllm("llava").reply(image, questions))
    alone = rows([mllm("llava").reply(image, [question])[0] for question in questions])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_the_softmax_of_the_models_logits(
    mllm: Load, checkpoint: Callable[[str], Path], image: Image, family: str
) -> None:
    """At the answer's position, summed over both spellings of a word."""
    processor = AutoProcessor.from_pretrained(checkpoint(family))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(family)).eval()
    content = [{"type": "image"}, {"type": "text", "text": "on it ?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    options = {"add_special_tokens": not text.startswith("<s>")}
    with torch.no_grad():
        logits = model(**processor(text=text, images=[prepare(processor, image)], return_tensors="pt", **options)).logits[0, -1]
    vocabulary = processor.tokenizer.get_vocab()
    spelled = torch.tensor([[vocabulary[word], vocabulary["Ġ" + word]] for word in YES_NO])
    both = logits.softmax(0)[spelled].sum(1)
    probabilities = rows(mllm(family).reply(image, [make_question("on it ?", Labels(1, YES_NO))]))
    torch.testing.assert_close(probabilities[0, 0], both / both.sum(), atol=1e-4, rtol=0)


@EVERY_FAMILY
def test_a_reply_has_exactly_as_many_labels_as_requested(mllm: Load, image: Image, family: str) -> None:
    words = answer_words(family)
    reply = mllm(family).reply(image, [make_question("which are on it ?", Labels(6, words))])[0]
    assert reply.label_probabilities is not None
    assert reply.text == "".join(words[row.index(max(row))] for row in reply.label_probabilities)
    torch.testing.assert_close(rows([reply]).sum(-1), torch.ones(1, 6))


@EVERY_FAMILY
def test_the_first_of_several_labels_equals_a_single_label(mllm: Load, image: Image, family: str) -> None:
    words = answer_words(family)
    joint, alone = mllm(family).reply(image, [make_question("on it ?", Labels(count, words)) for count in (3, 1)])
    assert joint.label_probabilities is not None
    assert alone.label_probabilities is not None
    assert joint.label_probabilities[0] == pytest.approx(alone.label_probabilities[0], abs=1e-4)


def test_a_label_depends_on_the_labels_before_it(mllm: Load, checkpoint: Callable[[str], Path], image: Image) -> None:
    """The second label, against a forward pass over the prompt and the first label."""
    backend = mllm("llava")
    first, second = rows(backend.reply(image, [make_question("on it ?", Labels(2, YES_NO))]))[0]
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint("llava")).eval()
    prepared = prepare(processor, image)
    inputs = processor(text="USER: <image>\non it ? ASSISTANT:", images=[prepared], return_tensors="pt")
    vocabulary = processor.tokenizer.get_vocab()
    word = YES_NO[int(first.argmax())]
    groups = torch.tensor([[vocabulary[w], vocabulary["Ġ" + w]] for w in YES_NO])
    with torch.no_grad():
        likelier = max((vocabulary[word], vocabulary["Ġ" + word]), key=lambda i: model(**inputs).logits[0, -1, i])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[likelier]])], 1)
        del inputs["attention_mask"]
        both = model(**inputs).logits[0, -1].softmax(0)[groups].sum(1)
    torch.testing.assert_close(second, both / both.sum(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("inside", "insole"), id="two words that share the first token"),
        pytest.param(("in", "inside"), id="a word that is a prefix of the other"),
        pytest.param(("on the left", "on the right", "nowhere"), id="phrases"),
    ],
)
def test_whole_words_are_scored_if_first_tokens_are_equal(
    checkpoint: Callable[[str], Path], mllm: Load, image: Image, words: tuple[str, ...]
) -> None:
    questions: list[Question] = [make_question("where ?", Labels(count, words)) for count in (1, 2)]
    replies = mllm("llava").reply(image, questions)
    copying = TransformersMLLM.load(str(checkpoint("llava")))
    copying._reader = CopyingReader(copying._runner)
    for reply, other, count in zip(replies, copying.reply(image, questions), (1, 2), strict=True):
        torch.testing.assert_close(rows([reply]), rows([other]), atol=1e-4, rtol=0)
        torch.testing.assert_close(rows([reply]).sum(-1), torch.ones(1, count))


@pytest.mark.parametrize(
    ("text", "packs", "branches"),
    [
        pytest.param({}, True, True, id="Llama"),
        pytest.param(
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False, False, id="dynamic rotation"
        ),
        pytest.param({"model_type": "mistral", "sliding_window": 8}, False, True, id="sliding window"),
        pytest.param({"model_type": "mistral", "sliding_window": None}, True, True, id="Mistral without a window"),
        pytest.param({"model_type": "gemma2", "head_dim": 4}, False, False, id="another kind of decoder"),
    ],
)
def test_only_causal_decoders_can_branch(text: dict[str, object], packs: bool, branches: bool) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    vision = {"model_type": "clip_vision_model", **{key: small[key] for key in list(small)[:4]}}
    known = LlamaConfig(**small).to_dict() if not text.get("model_type") else small
    config = LlavaConfig(text_config={"model_type": "llama", **known, **text}, vision_config=vision, image_token_id=1)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    assert (can_pack(model), can_branch(model)) == (packs, branches)
