"""The backend on every family of checkpoints: replies, caching, concurrency, errors."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.ImageDraw
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sam4mllm_tool.errors import BackendError, ExpressionError
from sam4mllm_tool.models.mllm.image_preparation import ImagePreparation
from sam4mllm_tool.models.mllm.known_images import CACHED_IMAGES
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.types import FreeText, Image, Labels, Question, Turn
from tests.checkpoints import FAMILIES
from tests.models.mllm.questions import BUILDERS, YES_NO, answer_words, assert_same, make_point_questions, make_question

Load = Callable[[str], TransformersMLLM]
EVERY_FAMILY = pytest.mark.parametrize("family", BUILDERS)


def make_all_questions(family: str) -> list[Question]:
    words = answer_words(family)
    return [
        make_question("where is the red ring ?", FreeText(8)),
        *make_point_questions(words, 3),
        make_question("which ?", Labels(3, words)),
        make_question("is there one ?", Labels(1, words)),
    ]


@EVERY_FAMILY
def test_replies_to_mixed_questions_come_in_order(mllm: Load, image: Image, family: str) -> None:
    questions = make_all_questions(family)
    replies = mllm(family).reply(image, questions)
    alone = [mllm(family).reply(image, [question])[0] for question in questions]
    assert_same(replies, alone)
    assert [reply.label_probabilities is None for reply in replies] == [True, False, False, False, False, False]
    assert len(replies[4].label_probabilities or ()) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_free_text_is_what_the_model_generates(
    mllm: Load, checkpoint: Callable[[str], Path], image: Image, family: str
) -> None:
    processor = AutoProcessor.from_pretrained(checkpoint(family))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint(family)).eval()
    content = [{"type": "image"}, {"type": "text", "text": "where is it ?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    prepared = ImagePreparation.for_processor(processor.image_processor, None).apply(image)
    inputs = processor(text=text, images=[prepared], return_tensors="pt", add_special_tokens=not text.startswith("<s>"))
    length = inputs["input_ids"].shape[1]
    whole = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = processor.decode(whole[0, length:], skip_special_tokens=True).strip()
    (reply,) = mllm(family).reply(image, [make_question("where is it ?", FreeText(8))])
    assert reply.text == expected
    assert reply.tokens == (length, whole.shape[1] - length)
    added = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    along = {"token_type_ids", "mm_token_type_ids"} & set(inputs)
    added |= {name: torch.nn.functional.pad(inputs[name], (0, whole.shape[1] - length)) for name in along}
    with torch.inference_mode():
        following = model(**{**inputs, **added}).logits[0, length - 1 : -1].log_softmax(-1)
    probability = following.gather(1, whole[0, length:, None]).sum()
    assert reply.log_probability == pytest.approx(float(probability), abs=1e-3)


@pytest.mark.parametrize("family", sorted(BUILDERS.keys() - {"mllama"}))  # its vision tower gives no features by layer
def test_the_features_of_an_image_come_from_the_pass_that_replies_share(mllm: Load, image: Image, family: str) -> None:
    model, question = mllm(family), make_question("is there one ?", Labels(1, answer_words(family)))
    expected = model.reply(image, [question])
    features = model.image_features(image, 1)
    assert features is not None
    assert features.ndim == 1
    assert np.isfinite(features).all()
    assert not np.allclose(features, model.image_features(image.rotate(90), 1)), "they are the image's"
    assert_same(model.reply(image, [question]), expected)
    assert model.image_features(image, 99) is None, "a layer that the tower doesn't have"
    assert model.check_image(image) is None, "nothing is known of its training"


@EVERY_FAMILY
def test_the_reply_depends_on_the_content_of_the_image(mllm: Load, image: Image, family: str) -> None:
    question = make_question("is there one ?", Labels(1, answer_words(family)))
    before = mllm(family).reply(image, [question])
    assert_same(mllm(family).reply(image.copy(), [question]), before)
    PIL.ImageDraw.Draw(image).rectangle((0, 0, 60, 40), fill="red")
    with pytest.raises(AssertionError):
        assert_same(mllm(family).reply(image, [question]), before)


def test_an_image_is_encoded_once_per_dialogue(mllm: Load, image: Image) -> None:
    backend, calls = mllm("llava"), []
    hook = backend._runner.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    backend.reply(image.transpose(PIL.Image.Transpose.ROTATE_180), make_all_questions("llava"))
    backend.reply(image.transpose(PIL.Image.Transpose.ROTATE_180), make_point_questions(YES_NO))
    hook.remove()
    assert len(calls) == 1
    for shade in range(CACHED_IMAGES + 1):
        backend.reply(PIL.Image.new("RGB", (30, 30), (shade, 0, 0)), [make_question("on it ?", Labels(1, YES_NO))])
    assert len(backend._images) == CACHED_IMAGES


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_modes_are_converted_to_rgb(mllm: Load, image: Image, mode: str) -> None:
    question = make_question("on it ?", Labels(1, YES_NO))
    converted = image.convert(mode)
    assert_same(mllm("llava").reply(converted, [question]), mllm("llava").reply(converted.convert("RGB"), [question]))


@EVERY_FAMILY
async def test_async_equals_sync(mllm: Load, image: Image, family: str) -> None:
    questions = make_all_questions(family)
    assert_same(await mllm(family).areply(image, questions), mllm(family).reply(image, questions))


async def test_concurrent_calls_equal_sequential_calls(mllm: Load, image: Image) -> None:
    backend = mllm("llava_next")
    images = [image, image.rotate(90, expand=True), image.crop((0, 0, 40, 40))]
    dialogues = [(image, make_all_questions("llava_next")[3 * k : 3 * k + 3]) for k in range(2) for image in images]
    serial = [backend.reply(*dialogue) for dialogue in dialogues]
    concurrent = await asyncio.gather(*(backend.areply(*dialogue) for dialogue in dialogues))
    with ThreadPoolExecutor(4) as threads:
        threaded = list(threads.map(lambda dialogue: backend.reply(*dialogue), dialogues))
    for expected, *others in zip(serial, concurrent, threaded, strict=True):
        for replies in others:
            assert_same(replies, expected)


def test_a_repeated_question_gets_the_same_reply_as_greedy_promises(mllm: Load, image: Image) -> None:
    backend, question = mllm("llava"), make_question("where ?", FreeText(12))
    assert backend.greedy
    assert_same(backend.reply(image, [question]), backend.reply(image, [question]))


def test_no_questions_no_replies(mllm: Load, image: Image) -> None:
    assert mllm("llava").reply(image, []) == []


def test_a_reply_has_no_control_tokens_and_no_gradient(mllm: Load, image: Image) -> None:
    backend = mllm("embedded")
    reply = backend.reply(image, [make_question("where ?", FreeText(30))])[0]
    assert "<" not in reply.text
    assert not any(weight.requires_grad for weight in backend._runner.model.parameters())
    assert not backend._runner.model.training


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(Question((), FreeText(1)), id="no turns"),
        pytest.param(Question((Turn("assistant", "hello"),), FreeText(1)), id="ends with the assistant"),
        pytest.param(make_question("?", FreeText(0)), id="no tokens"),
        pytest.param(make_question("?", Labels(0, YES_NO)), id="no labels"),
        pytest.param(make_question("?", Labels(1, ("Yes",))), id="one word"),
        pytest.param(make_question("?", Labels(1, ("Yes", "Yes"))), id="the same word twice"),
    ],
)
def test_an_unanswerable_question_is_a_value_error(mllm: Load, image: Image, question: Question) -> None:
    with pytest.raises(ValueError, match=r"needs? |must end"):
        mllm("llava").reply(image, [question])


@pytest.mark.parametrize("words", [pytest.param(3000, id="as text"), pytest.param(2000, id="with the image")])
def test_an_expression_too_long_for_the_model_is_refused(
    mllm: Load, image: Image, capfd: pytest.CaptureFixture[str], words: int
) -> None:
    with pytest.raises(ExpressionError, match=r"tokens, .* reads 2048: shorten it"):
        mllm("embedded").reply(image, [make_question("red " * words, FreeText(8))])
    assert capfd.readouterr() == ("", "")


def test_a_failing_model_is_a_backend_error(checkpoint: Callable[[str], Path], image: Image) -> None:
    backend = TransformersMLLM.load(str(checkpoint("llava")))
    backend._runner.model.model.multi_modal_projector.linear_2 = torch.nn.Linear(32, 7)
    with pytest.raises(BackendError, match="failed to answer") as caught:
        backend.reply(image, [make_question("on it ?", Labels(1, YES_NO))])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("answer", [FreeText(4), Labels(1, YES_NO), Labels(3, YES_NO)], ids=["text", "a label", "labels"])
@pytest.mark.parametrize(("dtype", "cure"), [("float16", "load it in float32"), ("float32", "its weights are broken")])
def test_a_model_that_overflows_says_so_instead_of_answering(
    checkpoint: Callable[[str], Path], image: Image, answer: FreeText | Labels, dtype: str, cure: str
) -> None:
    mllm = TransformersMLLM.load(str(checkpoint("llava")), dtype=dtype, device="cpu")
    mllm._runner.model.model.multi_modal_projector.linear_1.weight.data.fill_(float("inf"))
    with pytest.raises(BackendError, match=f"computes values that are not numbers in {dtype}: {cure}"):
        mllm.reply(image, [make_question("on it ?", answer)])
