"""`TransformersMLLM.use`: adapters that share the weights of one base and are switched per call."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import Gemma3ForConditionalGeneration, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration

from sam4mllm_tool.errors import ModelWarning, SpecError
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm import ScriptedMLLM, TransformersMLLM, load_mllm
from sam4mllm_tool.models.segmenter import BoxSegmenter
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from sam4mllm_tool.protocol import JOINT
from sam4mllm_tool.types import FreeText, Image, Labels
from tests.checkpoints import PROJECTORS, save_adapter
from tests.models.mllm.questions import YES_NO, assert_same, make_question

Checkpoint = Callable[[str], Path]
CLASSES = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "gemma3": Gemma3ForConditionalGeneration,
}
QUESTIONS = [make_question("on it ?", Labels(1, YES_NO)), make_question("where ?", FreeText(6))]
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapters(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return two adapters of LLaVA: the second adds the opposite."""
    first = save_adapter(
        CLASSES["llava"], checkpoint("llava"), tmp_path_factory.mktemp("adapters") / "first", PROJECTORS["llava"]
    )
    second = Path(shutil.copytree(first, first.parent / "second"))
    changed = {key: -value if "lora_B" in key else value for key, value in load_file(first / WEIGHTS).items()}
    save_file(changed, second / WEIGHTS, metadata={"format": "pt"})
    return str(first), str(second)


def load(spec: str) -> TransformersMLLM:
    mllm = load_mllm(spec)
    assert isinstance(mllm, TransformersMLLM)
    return mllm


@pytest.mark.parametrize("family", CLASSES)
def test_a_used_adapter_answers_as_a_merged_one(checkpoint: Checkpoint, image: Image, tmp_path: Path, family: str) -> None:
    adapter = str(save_adapter(CLASSES[family], checkpoint(family), tmp_path / "lora", PROJECTORS[family]))
    base, merged = load(str(checkpoint(family))), load(f"{checkpoint(family)}+{adapter}")
    plain = base.reply(image, QUESTIONS)
    used = base.use(adapter)
    assert used.name == merged.name
    assert_same(used.reply(image, QUESTIONS), merged.reply(image, QUESTIONS))
    assert_same(base.reply(image, QUESTIONS), plain)
    assert used.reply(image, QUESTIONS) != plain


def test_adapters_and_their_base_take_turns_on_the_same_weights(
    checkpoint: Checkpoint, image: Image, adapters: tuple[str, str]
) -> None:
    base = load(str(checkpoint("llava")))
    models = [base, *(base.use(adapter) for adapter in adapters), base.use(adapters[0])]
    expected = {name: load(name).reply(image, QUESTIONS) for name in {model.name for model in models}}
    assert len({repr(replies) for replies in expected.values()}) == 3
    for model in (models[turn] for turn in (0, 1, 2, 0, 2, 1, 3, 1)):
        assert_same(model.reply(image, QUESTIONS), expected[model.name])
    assert len({id(model._runner.model) for model in models}) == 1


def test_calls_from_several_threads_each_get_their_own_adapters_answer(
    checkpoint: Checkpoint, image: Image, adapters: tuple[str, str]
) -> None:
    base = load(str(checkpoint("llava")))
    models = [base, *(base.use(adapter) for adapter in adapters)]
    expected = [model.reply(image, QUESTIONS) for model in models]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda turn: models[turn % 3].reply(image, QUESTIONS), range(18)))
    for replies, same in zip(answers, expected * 6, strict=True):
        assert_same(replies, same)


def test_an_adapter_that_does_not_fit_leaves_the_model_as_it_was(
    checkpoint: Checkpoint, image: Image, adapters: tuple[str, str], tmp_path: Path
) -> None:
    unfit = Path(shutil.copytree(adapters[0], tmp_path / "unfit"))
    weights = {key.replace("layers.0", "blocks.0"): value for key, value in load_file(unfit / WEIGHTS).items()}
    save_file(weights, unfit / WEIGHTS, metadata={"format": "pt"})
    base = load(str(checkpoint("llava")))
    plain = base.reply(image, QUESTIONS)
    with pytest.raises(SpecError, match=r"'.*unfit' doesn't fit '.*llava[0-9]+': it has no weights for"):
        base.use(str(unfit))
    assert_same(base.reply(image, QUESTIONS), plain)
    used = base.use(adapters[0])
    expected = used.reply(image, QUESTIONS)
    with pytest.raises(SpecError, match="doesn't fit"):
        base.use(str(unfit))
    assert_same(used.reply(image, QUESTIONS), expected)


def test_a_model_with_an_adapter_in_its_weights_takes_no_other(checkpoint: Checkpoint, adapters: tuple[str, str]) -> None:
    merged = load(f"{checkpoint('llava')}+{adapters[0]}")
    with pytest.raises(SpecError, match="has an adapter in its weights: load its base alone to use"):
        merged.use(adapters[1])


def test_both_models_use_an_adapter_as_its_own_files_say(
    checkpoint: Checkpoint, adapters: tuple[str, str], tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(adapters[0], tmp_path / "lora"))
    (adapter / "dialect.json").write_text(JOINT.to_json())
    (adapter / "calibration.json").write_bytes(Path(embedded_folder("adapter"), "calibration.json").read_bytes())
    models = Sam4Mllm.load(str(checkpoint("llava")), "embedded", retries=0)
    used = models.use(str(adapter))
    assert (used.dialect, used.calibration) == (JOINT, find_calibration("embedded"))
    assert (models.dialect.name, models.calibration) == ("llava", Calibration())
    assert (used.segmenter, used.config) == (models.segmenter, models.config)
    with pytest.warns(ModelWarning, match=r"has no dialect\.json, and is asked in the dialect 'llava', .* with --dialect or"):
        assert models.use(adapters[1]).dialect == models.dialect, "an adapter without a dialect.json is asked as its family"


def test_what_has_no_adapters_says_so() -> None:
    models = Sam4Mllm(ScriptedMLLM([]), BoxSegmenter())
    with pytest.raises(SpecError, match="can't switch adapters"):
        models.use("lora")
