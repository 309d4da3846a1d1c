"""Probabilities of words, against the same read from the model by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from sam4mllm_tool.models.mllm import runner
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Reply, Turn
from tests.checkpoints import FAMILIES
from tests.models.mllm.asking import BUILDERS, PACKED, YES_NO, ask, ask_points, words_of

Load = Callable[[str], TransformersMLLM]
EVERY_FAMILY = pytest.mark.parametrize("family", BUILDERS)


def rows(replies: list[Reply]) -> torch.Tensor:
    """(questions, labels, words) from replies of equal length."""
    return torch.tensor([reply.label_probabilities for reply in replies])


def ask_after(first: str, then: str, words: tuple[str, ...]) -> Question:
    return Question((Turn("user", first), Turn("assistant", "[ 012 ]"), Turn("user", then)), Labels(1, words))


def one_by_one(folder: Path) -> TransformersMLLM:
    mllm = TransformersMLLM.load(str(folder))
    mllm._runner.packs = False
    return mllm


@pytest.mark.parametrize("family", PACKED)
def test_packed_answers_equal_answers_one_by_one(
    mllm: Load, checkpoint: Callable[[str], Path], image: Image, family: str
) -> None:
    questions = ask_points(words_of(family))
    assert mllm(family)._runner.packs
    packed = rows(mllm(family).reply(image, questions))
    alone = rows([one_by_one(checkpoint(family)).reply(image, [question])[0] for question in questions[:5]])
    torch.testing.assert_close(packed[:5], alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(packed, rows(one_by_one(checkpoint(family)).reply(image, questions)), atol=1e-4, rtol=0)
    torch.testing.assert_close(packed.sum(-1), torch.ones(25, 1))
    assert packed[:, 0, 0].std() > 0, "25 points, one answer: the test says nothing"


def test_a_family_that_can_not_be_packed_is_asked_one_by_one(mllm: Load, image: Image) -> None:
    assert not mllm("gemma3")._runner.packs
    questions = ask_points(YES_NO, 4)
    alone = [mllm("gemma3").reply(image, [question])[0] for question in questions]
    torch.testing.assert_close(rows(mllm("gemma3").reply(image, questions)), rows(alone))


def test_a_long_pack_is_cut_without_changing_an_answer(mllm: Load, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = ask_points(YES_NO, 7)
    whole = rows(mllm("llava").reply(image, questions))
    monkeypatch.setattr(runner, "PACKED_TOKENS", 150)
    torch.testing.assert_close(rows(mllm("llava").reply(image, questions)), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", PACKED)
def test_what_others_are_asked_beside_does_not_change_a_digit(mllm: Load, image: Image, family: str) -> None:
    """Dialogues are asked in lock-step, and one must be answered as it is alone."""
    words = words_of(family)
    dialogues = [
        [ask_after(f"where is thing {k} ?", f"is ( {i} , {i} ) on it ?", words) for i in range(9 - k)] for k in range(3)
    ]
    together = mllm(family).reply(image, [question for asked in dialogues for question in asked])
    assert together == [reply for asked in dialogues for reply in mllm(family).reply(image, asked)]
    mixed = mllm(family).reply(image, [ask("where ?", FreeText(3)), *dialogues[2], *dialogues[0]])
    assert mixed[1:] == together[-7:] + together[:9]


def test_questions_with_different_beginnings_are_not_packed_over_one_picture(mllm: Load, image: Image) -> None:
    questions = [ask("on it ?", Labels(1, YES_NO), system=system) for system in ("", "Be kind.", "Be brief.")]
    together = rows(mllm("llava").reply(image, questions))
    alone = rows([mllm("llava").reply(image, [question])[0] for question in questions])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_are_the_models_own(mllm: Load, checkpoint: Callable[[str], Path], image: Image, family: str) -> None:
    """Softmax at the answer's position, both spellings of a word added up, as one would compute it by hand."""
    processor = AutoProcessor.from_pretrained(checkpoint(family))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(family)).eval()
    content = [{"type": "image"}, {"type": "text", "text": "on it ?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    options = {"add_special_tokens": not text.startswith("<s>")}
    with torch.no_grad():
        logits = model(**processor(text=text, images=[image], return_tensors="pt", **options)).logits[0, -1]
    vocabulary = processor.tokenizer.get_vocab()
    spelled = torch.tensor([[vocabulary[word], vocabulary["Ġ" + word]] for word in YES_NO])
    both = logits.softmax(0)[spelled].sum(1)
    found = rows(mllm(family).reply(image, [ask("on it ?", Labels(1, YES_NO))]))
    torch.testing.assert_close(found[0, 0], both / both.sum(), atol=1e-4, rtol=0)


@EVERY_FAMILY
def test_joint_labels_are_exactly_as_many_as_asked(mllm: Load, image: Image, family: str) -> None:
    words = words_of(family)
    reply = mllm(family).reply(image, [ask("which are on it ?", Labels(6, words))])[0]
    assert reply.label_probabilities is not None
    assert reply.text == "".join(words[row.index(max(row))] for row in reply.label_probabilities)
    torch.testing.assert_close(rows([reply]).sum(-1), torch.ones(1, 6))


@EVERY_FAMILY
def test_the_first_joint_label_is_the_one_asked_alone(mllm: Load, image: Image, family: str) -> None:
    words = words_of(family)
    joint, alone = mllm(family).reply(image, [ask("on it ?", Labels(count, words)) for count in (3, 1)])
    assert joint.label_probabilities is not None
    assert alone.label_probabilities is not None
    assert joint.label_probabilities[0] == pytest.approx(alone.label_probabilities[0], abs=1e-4)


def test_joint_labels_see_the_labels_before_them(mllm: Load, checkpoint: Callable[[str], Path], image: Image) -> None:
    """The second label against a forward pass over the prompt with the first one written out."""
    backend = mllm("llava")
    first, second = rows(backend.reply(image, [ask("on it ?", Labels(2, YES_NO))]))[0]
    processor = AutoProcessor.from_pretrained(checkpoint("llava"))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint("llava")).eval()
    inputs = processor(text="USER: <image>\non it ? ASSISTANT:", images=[image], return_tensors="pt")
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
        pytest.param(("inside", "insole"), id="two words that begin with one token"),
        pytest.param(("in", "inside"), id="a word that begins another"),
        pytest.param(("on the left", "on the right", "nowhere"), id="several words each"),
    ],
)
def test_whole_words_are_scored_where_first_tokens_do_not_tell(
    mllm: Load, checkpoint: Callable[[str], Path], image: Image, words: tuple[str, ...]
) -> None:
    questions: list[Question] = [ask("where ?", Labels(count, words)) for count in (1, 2)]
    replies = mllm("llava").reply(image, questions)
    alone = one_by_one(checkpoint("llava")).reply(image, questions)
    for reply, same, count in zip(replies, alone, (1, 2), strict=True):
        torch.testing.assert_close(rows([reply]), rows([same]), atol=1e-4, rtol=0)
        torch.testing.assert_close(rows([reply]).sum(-1), torch.ones(1, count))


@pytest.mark.parametrize(
    ("text", "packs"),
    [
        pytest.param({}, True, id="Llama"),
        pytest.param(
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, False, id="length matters"
        ),
        pytest.param({"model_type": "mistral", "sliding_window": 8}, False, id="sliding window"),
        pytest.param({"model_type": "mistral", "sliding_window": None}, True, id="Mistral without a window"),
        pytest.param({"model_type": "gemma2", "head_dim": 4}, False, id="not of the Llama kind"),
    ],
)
def test_only_plain_causal_decoders_are_packed(text: dict[str, object], packs: bool) -> None:
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    vision = {"model_type": "clip_vision_model", **{key: small[key] for key in list(small)[:4]}}
    known = LlamaConfig(**small).to_dict() if not text.get("model_type") else small
    config = LlavaConfig(text_config={"model_type": "llama", **known, **text}, vision_config=vision, image_token_id=1)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    assert runner.can_pack(model) is packs
