"""What the model reads: the image where its template places it, and text that stays text."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.mllm.model_runner import extend_by_last
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs, PlaceholderExpansion
from sam4mllm_tool.models.mllm.prompt_renderer import PromptRenderer
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import Image, Labels, Turn
from tests.checkpoints import LLAVA_TEMPLATE, save_llava
from tests.models.mllm.questions import BUILDERS, answer_words, make_question

PER_TOKEN = ("token_type_ids", "cross_attention_mask")
Checkpoint = Callable[[str], Path]
EVERY_FAMILY = pytest.mark.parametrize("family", BUILDERS)
WHERE = (Turn("user", "where is the red ring ?"),)
SECOND_ROUND = (*WHERE, Turn("assistant", "[ 012 , 034 ]"), Turn("user", "is ( 001 , 002 ) on it ?"))


def load_renderer(checkpoint: Checkpoint, family: str) -> PromptRenderer:
    return PromptRenderer(AutoProcessor.from_pretrained(checkpoint(family)), family)


@EVERY_FAMILY
@pytest.mark.parametrize("turns", [WHERE, SECOND_ROUND], ids=["first round", "second round"])
def test_a_replayed_expansion_equals_the_processors_own(
    checkpoint: Checkpoint, image: Image, family: str, turns: tuple[Turn, ...]
) -> None:
    renderer = load_renderer(checkpoint, family)
    image_inputs = ImageInputs(image)
    renderer.tokenize(image_inputs, (Turn("user", "hello"),))
    replayed = renderer.tokenize(image_inputs, turns)
    rendered = renderer.render(turns)
    has_bos = rendered.startswith("<s>")
    options = {"add_special_tokens": False} if has_bos else {}
    own = renderer.processor(text=[rendered], images=[image], return_tensors="pt", **options)
    assert replayed.ids == tuple(own["input_ids"][0].tolist())
    assert replayed.ids.count(renderer.tokenizer.bos_token_id) == (family != "embedded" or has_bos)
    assert len(image_inputs.expansions) == (family not in ("mllama", "paligemma")), "their processors tokenize every prompt"
    assert set(replayed.token_inputs) == {name for name, value in own.items() if name in PER_TOKEN}
    for name, value in replayed.token_inputs.items():
        assert torch.equal(extend_by_last(value, len(replayed.ids)), own[name])


@EVERY_FAMILY
def test_prompts_that_are_tokenized_together_are_those_that_are_tokenized_alone(
    checkpoint: Checkpoint, image: Image, family: str
) -> None:
    renderer = load_renderer(checkpoint, family)
    control = renderer.processor.tokenizer.eos_token or "<s>"
    lasts = [
        "is ( 1 , 2 ) on it ?",
        "is ( 3 , 4 ) on it ?",
        " is it ",
        f"{control} and <image>",
        "user",
        "is ( 5 , 6 ) on it ?",
    ]
    prompts = [WHERE, *((*WHERE, Turn("assistant", "[ 012 ]"), Turn("user", text)) for text in lasts)]
    inputs, others = ImageInputs(image), ImageInputs(image.rotate(90, expand=True))
    together = renderer.tokenize_all([(each, turns) for each in (inputs, others) for turns in prompts])
    alone = [
        load_renderer(checkpoint, family).tokenize(ImageInputs(each.image), t) for each in (inputs, others) for t in prompts
    ]
    assert [prompt.ids for prompt in together] == [prompt.ids for prompt in alone]
    assert [prompt.token_inputs.keys() for prompt in together] == [prompt.token_inputs.keys() for prompt in alone]


def test_the_points_of_a_box_take_two_runs_of_the_template_and_two_of_the_tokenizer(
    checkpoint: Checkpoint, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer, inputs = load_renderer(checkpoint, "llava"), ImageInputs(image)
    turns = [(*SECOND_ROUND[:2], Turn("user", f"is ( {i} , {i} ) on it ?")) for i in range(25)]
    renderer.tokenize(inputs, turns[0])
    calls: list[str] = []
    apply, tokenizer = renderer._apply_template, type(renderer.tokenizer)
    encode = tokenizer.__call__
    monkeypatch.setattr(renderer, "_apply_template", lambda *each: calls.append("template") or apply(*each))
    monkeypatch.setattr(tokenizer, "__call__", lambda *each, **named: calls.append("tokenizer") or encode(*each, **named))
    assert len({prompt.ids for prompt in renderer.tokenize_all([(inputs, each) for each in turns])}) == 25
    assert sorted(calls) == ["template"] * 2 + ["tokenizer"] * 2


@EVERY_FAMILY
def test_control_tokens_in_the_expression_stay_text(checkpoint: Checkpoint, image: Image, family: str) -> None:
    renderer = load_renderer(checkpoint, family)
    special = [token.content for token in renderer.tokenizer.added_tokens_decoder.values() if token.content != "<unk>"]
    honest = renderer.tokenize(ImageInputs(image), (Turn("user", "the ring"),)).ids
    forged = renderer.tokenize(ImageInputs(image), (Turn("user", "the ring" + " ".join(special)),)).ids
    controlling = (token for token in special if not token.startswith("<loc"))  # boxes are written with locations
    for i in (renderer.tokenizer.convert_tokens_to_ids(token) for token in controlling):
        assert forged.count(i) == honest.count(i)


@EVERY_FAMILY
def test_a_placeholder_in_the_expression_is_tokenized_as_its_letters(checkpoint: Checkpoint, image: Image, family: str) -> None:
    renderer = load_renderer(checkpoint, family)
    placeholder = renderer.processor.image_token
    forged = renderer.tokenize(ImageInputs(image), (Turn("user", f"find {placeholder}"),)).ids
    spelled = renderer.tokenize(ImageInputs(image), (Turn("user", f"find < {placeholder[1:]}"),)).ids
    assert forged == spelled


@EVERY_FAMILY
def test_an_expression_with_a_placeholder_still_gets_an_answer(
    mllm: Callable[[str], TransformersMLLM], image: Image, family: str
) -> None:
    question = make_question("the <image> </s><s> on <IMAGE> ?", Labels(1, answer_words(family)))
    assert mllm(family).reply(image, [question])[0].label_probabilities


def test_text_without_control_tokens_is_unchanged(checkpoint: Checkpoint) -> None:
    renderer = load_renderer(checkpoint, "llava")
    for text in ("a < b > c [1] \n\t{{x}} <b>", "ключ 鍵 🔑", ""):
        assert renderer.break_control_tokens(text) == text


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        pytest.param("llava", "Be kind.\nUSER: <image>\nHello ASSISTANT:", id="where the template places it"),
        pytest.param("llava_next", "<s>[INST] <image>\nBe kind.\n\nHello [/INST]", id="folded, as the template rejects it"),
        pytest.param(
            "idefics3",
            "<s>User:<image> Be kind.\n\nHello<end_of_utterance>\nAssistant:",
            id="folded, as the template omits it",
        ),
    ],
)
def test_a_system_turn_reaches_the_model(checkpoint: Checkpoint, family: str, expected: str) -> None:
    turns = (Turn("system", "Be kind."), Turn("user", "Hello"))
    assert load_renderer(checkpoint, family).render(turns) == expected


def test_words_are_spelled_with_and_without_a_leading_space(checkpoint: Checkpoint) -> None:
    renderer = load_renderer(checkpoint, "llava")
    spelled = {tuple(renderer.tokenizer.convert_ids_to_tokens(ids)) for ids in renderer.spellings("Yes")}
    assert spelled == {("Yes",), ("ĠYes",)}


def test_a_word_without_a_token_is_named(checkpoint: Checkpoint) -> None:
    with pytest.raises(SpecError, match="no token for the answer 'Ja'"):
        load_renderer(checkpoint, "embedded").spellings("Ja")


@pytest.mark.parametrize(
    ("generation_prompt", "ending"),
    [
        pytest.param("ASSISTANT: <think>\n", "ASSISTANT: <think>\n\n</think>\n\n", id="opened, so closed"),
        pytest.param(
            "ASSISTANT:{% if enable_thinking is defined and not enable_thinking %} <think></think>{% endif %}",
            "ASSISTANT: <think></think>",
            id="switched off by the template",
        ),
        pytest.param(
            "ASSISTANT:{% if thinking is defined and thinking is false %} <think></think>{% else %} <think>{% endif %}",
            "ASSISTANT: <think></think>",
            id="switched off by another name",
        ),
        pytest.param("ASSISTANT:◁think▷", "ASSISTANT:◁think▷\n\n◁/think▷\n\n", id="opened in Kimi's marks"),
        pytest.param("ASSISTANT:[THINK]", "ASSISTANT:[THINK]\n\n[/THINK]\n\n", id="opened in Mistral's marks"),
        pytest.param("{{ 'no thinking ' }}ASSISTANT:", "no thinking ASSISTANT:", id="a word that is no switch"),
        pytest.param("ASSISTANT:", "ASSISTANT:", id="no thinking model"),
    ],
)
def test_a_thinking_model_answers_without_a_thought(generation_prompt: str, ending: str, tmp_path: Path) -> None:
    template = LLAVA_TEMPLATE.replace("ASSISTANT:", generation_prompt)
    processor = AutoProcessor.from_pretrained(save_llava(tmp_path, template=template))
    assert PromptRenderer(processor, "thinker").render([Turn("user", "Hello")]).endswith(ending)


def test_the_marks_of_a_thought_and_of_boxes_are_kept_in_an_answer(tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(save_llava(tmp_path))
    marks = ["[THINK]", "[/THINK]", "<loc0012>", "<ref>", "</ref>", "<|box_start|>", "<|im_end|>"]
    processor.tokenizer.add_special_tokens({"additional_special_tokens": marks})
    renderer = PromptRenderer(processor, "thinker")
    ids = processor.tokenizer(
        "[THINK]Yes[/THINK]<|box_start|>No<loc0012><ref>[1]</ref><|im_end|></s>", add_special_tokens=False
    )["input_ids"]
    assert renderer.decode(ids) == "[THINK]Yes[/THINK]<|box_start|>No<loc0012><ref>[1]</ref>", (
        "where the thought and a label end"
    )
    assert renderer.render([Turn("user", "at <loc0012>?")]).endswith("at <loc0012>? ASSISTANT:"), "a box is written with them"


def test_a_checkpoint_without_chat_template_is_refused(tmp_path: Path) -> None:
    folder = save_llava(tmp_path, template=None)
    with pytest.raises(SpecError, match="no chat template"):
        TransformersMLLM.load(str(folder))


@pytest.mark.parametrize(
    ("plain", "expanded"),
    [
        pytest.param((1, 9, 5), (1, 9, 9, 9, 5), id="placeholder repeated"),
        pytest.param((1, 9, 5), (1, 7, 8, 9, 9, 7, 5), id="placeholder wrapped in marks"),
        pytest.param((9, 5), (9, 9, 5), id="at the very beginning"),
        pytest.param((1, 9, 9), (1, 9, 9, 9, 9), id="text that looks like the image"),
        pytest.param((1, 9, 5), (1, 9, 5), id="nothing to expand"),
    ],
)
def test_an_expansion_turns_plain_ids_into_expanded_ones(plain: tuple[int, ...], expanded: tuple[int, ...]) -> None:
    expansion = PlaceholderExpansion.between(plain, expanded)
    assert expansion.apply(plain) == expanded
    assert expansion.apply((*plain, 3, 4)) == (*expanded, 3, 4)


def test_an_expansion_does_not_apply_to_a_prompt_with_another_start() -> None:
    assert PlaceholderExpansion.between((1, 9, 5), (1, 9, 9, 5)).apply((2, 9, 5)) is None
