"""Options of loading: one value for the library, the command and evaluation."""

import shutil
from dataclasses import fields

import pytest

from sam4mllm_tool.cli.options import LOADING_OPTIONS
from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.evaluation import ModelSpec
from sam4mllm_tool.geometry.boxes import mask_iou
from sam4mllm_tool.models.load_options import LoadOptions, LoadOverrides
from sam4mllm_tool.models.mllm import TransformersMLLM, load_mllm
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm
from tests.checkpoints import save_llava
from tests.embedded_world import iter_cases

OWN_WARNING = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # of torch.compile itself


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"quantize": "2bit"}, "unknown quantization '2bit': expected 4bit or 8bit"),
        ({"device_map": "balanced"}, "unknown device map 'balanced': expected auto"),
        ({"device_map": "auto", "device": "cpu"}, "over all devices: leave out the device 'cpu'"),
        ({"max_pixels": 0}, "max_pixels, a number of pixels, of at least 1, got 0"),
    ],
)
def test_an_option_out_of_its_range_is_refused_before_anything_is_loaded(options, match):
    with pytest.raises(SpecError, match=match):
        LoadOptions(**options)
    with pytest.raises(SpecError, match=match):
        Sam4Mllm.load("owner/never-opened", "owner/never-opened", dialect="plain", **options)


def test_the_command_and_the_keyword_arguments_have_every_option():
    names = {field.name for field in fields(LoadOptions)}
    assert {option.name for option in LOADING_OPTIONS} == names
    assert set(LoadOverrides.__annotations__) == names


def test_a_segmenter_gets_its_own_device_or_else_that_of_both():
    assert LoadOptions(device="cuda:0", segmenter_device="cpu", quantize="4bit").for_segmenter == LoadOptions(device="cpu")
    assert LoadOptions(device="cuda:0", dtype="float16").for_segmenter == LoadOptions(device="cuda:0", dtype="float16")


def test_overrides_win_over_the_options_and_none_leaves_them():
    options = LoadOptions(dtype="float16").override(dtype=None, max_pixels=9)
    assert options == LoadOptions(dtype="float16", max_pixels=9)
    assert options.to_dict() == options.result_settings() == {"dtype": "float16", "max_pixels": 9}
    assert LoadOptions(device="cpu").result_settings() == {}


def test_loading_takes_options_as_one_value_and_singly(tmp_path):
    folder = str(save_llava(tmp_path))
    models = Sam4Mllm.load(
        folder, "embedded", options=LoadOptions(dtype="bfloat16", device="cpu"), attention="eager", retries=0
    )
    assert isinstance(models.mllm, TransformersMLLM)
    model = models.mllm._runner.model
    assert (str(model.dtype), model.config.text_config._attn_implementation) == ("torch.bfloat16", "eager")
    assert models.config.retries == 0


def test_an_evaluations_order_names_the_options_that_are_given():
    assert ModelSpec(device="cpu", dtype="bfloat16") == ModelSpec(options=LoadOptions(device="cpu", dtype="bfloat16"))
    described = ModelSpec(device="cpu", options=LoadOptions(max_pixels=500_000)).describe()
    assert (described["device"], described["dtype"], described["max_pixels"]) == ("cpu", None, 500_000)
    assert not {"max_pixels", "quantize", "attention"} & ModelSpec().describe().keys()


def test_each_model_is_loaded_on_its_own_device():
    """The meta device is refused by name, so it shows which model was sent where."""
    with pytest.raises(SpecError, match="the device 'meta' can't be used"):
        load_segmenter("embedded", device="cpu", segmenter_device="meta")
    with pytest.raises(SpecError, match="the device 'meta' can't be used"):
        load_mllm("embedded", device="meta", segmenter_device="cpu")
    assert str(load_segmenter("embedded", device="meta", segmenter_device="cpu").device) == "cpu"


@OWN_WARNING
def test_compiling_is_for_the_image_encoders_of_both_models():
    models = Sam4Mllm.load("embedded", "embedded", compile=True)
    for model in (models.mllm._runner.model, models.segmenter._model):
        compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
        assert len(compiled) == 1
        assert compiled <= {"model.vision_tower", "vision_encoder"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@OWN_WARNING
def test_a_compiled_pair_gives_the_same_results():
    scene, several = next(iter_cases("plural"))
    expected = Sam4Mllm.load("embedded", "embedded").segment(scene.image, several.text)
    result = Sam4Mllm.load("embedded", "embedded", compile=True).segment(scene.image, several.text)
    assert len(result.objects) == len(expected.objects) > 1
    assert [o.prompt.box for o in result.objects] == [o.prompt.box for o in expected.objects]
    assert min(mask_iou(o.mask, e.mask) for o, e in zip(result.objects, expected.objects, strict=True)) > 0.999
