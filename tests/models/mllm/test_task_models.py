"""Families without a chat template, which were trained on tasks: PaliGemma and Florence-2."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PILImage
from transformers import AutoModelForImageTextToText, AutoProcessor

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.metadata import find_dialect
from sam4mllm_tool.models.mllm.prompt_inputs import ImageInputs
from sam4mllm_tool.models.mllm.transformers import TransformersMLLM
from sam4mllm_tool.protocol import DIALECTS
from sam4mllm_tool.types import Box, FreeText, Image, Labels, Question, Size, Turn
from tests.checkpoints import save_florence2, save_paligemma
from tests.models.mllm.questions import YES_NO, make_question, score_by_full_passes

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "paligemma": lambda folder: save_paligemma(folder, template=None),
    "florence2": save_florence2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: str(build(tmp_path_factory.mktemp(name))) for name, build in BUILDERS.items()}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_task_alone_is_the_prompt_and_the_answer_is_what_the_model_generates(
    folders: dict[str, str], image: Image, name: str
) -> None:
    dialect = find_dialect(folders[name])
    assert dialect == DIALECTS[name]
    question = dialect.ask_boxes("the red ring")
    (reply,) = TransformersMLLM.load(folders[name]).reply(image, [Question(question.turns, FreeText(6))])
    processor = AutoProcessor.from_pretrained(folders[name])
    model = AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    prompt = {"paligemma": "<image>detect the red ring", "florence2": "Locate the red ring in the image."}[name]
    inputs = processor(text=[prompt], images=[image], return_tensors="pt")
    inputs.pop("labels", None)
    model.generation_config.forced_eos_token_id = None  # at most, six tokens: their last is no forced end
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)[0]
    start = 1 if name == "florence2" else inputs["input_ids"].shape[1]
    expected = processor.tokenizer.decode(output[start:])
    for special in ("<s>", "</s>", "<pad>"):
        expected = expected.replace(special, "")
    assert reply.text == expected.strip()
    assert "<loc" in reply.text, "locations are added tokens, and stay in the text"


def test_paligemma_is_asked_about_points_in_location_tokens(folders: dict[str, str], image: Image) -> None:
    mllm, dialect, size = TransformersMLLM.load(folders["paligemma"]), DIALECTS["paligemma"], Size(*image.size)
    first = dialect.ask_boxes("the red ring")
    box = Box(0, 0, size.width, size.height)
    (question,) = dialect.ask_points((*first.turns, Turn("assistant", "none")), box, [box.center], size)
    prompt = mllm._renderer.tokenize(ImageInputs(image), question.turns)
    read = mllm._renderer.tokenizer.decode([i for i in prompt.ids if i != mllm._renderer.processor.image_token_id])
    assert read == "<s>answer en is the object in <loc0000><loc0000><loc1023><loc1023> at the point <loc0512><loc0512>?\n"
    question = make_question("answer en is it?", Labels(1, YES_NO))
    (reply,) = mllm.reply(image, [question])
    assert reply.label_probabilities is not None
    assert reply.label_probabilities[0] == pytest.approx(score_by_full_passes(mllm, image, question)[0], abs=1e-5)


def test_florence_says_that_it_cannot_choose_between_labels(folders: dict[str, str]) -> None:
    mllm = TransformersMLLM.load(folders["florence2"])
    with pytest.raises(SpecError, match="answers with boxes alone, not with yes or no: use the method 'box'"):
        mllm.reply(PILImage.new("RGB", (40, 30)), [make_question("is it?", Labels(1, YES_NO))])
