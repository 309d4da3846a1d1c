"""The command `sam4mllm doctor`: report versions, extras, devices, and whether the embedded pair segments.

Every backend's classes and processors are imported for real. A failure becomes the text of its own line, so that the other
lines are still printed: only here is every exception caught.
"""

import platform
import re
import time
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from sam4mllm_tool import __version__
from sam4mllm_tool.cli.options import LOADING_OPTIONS, refuse_options, with_options
from sam4mllm_tool.models.load_options import LoadOptions
from sam4mllm_tool.optional_dependencies import root_message

__all__ = ["doctor", "list_extras"]

_BASE = (
    *("torch", "transformers", "peft", "safetensors", "tokenizers", "huggingface-hub"),
    *("langchain-core", "pillow", "numpy", "pydantic"),
)
_FOR_DEVELOPMENT = ("all", "dev", "docs", "test")
_REQUIREMENT = re.compile(r'(?P<name>[\w.-]+).*extra == ["\'](?P<extra>[\w-]+)["\']')

_MLLM, _SEGMENTER = "sam4mllm_tool.models.mllm.transformers", "sam4mllm_tool.models.segmenter.transformers"
_BACKENDS = {
    "MLLM: LLaVA, LLaVA-NeXT, Idefics3, Gemma 3, PaliGemma": (
        _MLLM,
        "LlavaForConditionalGeneration LlavaProcessor LlavaNextForConditionalGeneration LlavaNextProcessor "
        "Idefics3ForConditionalGeneration Idefics3Processor Gemma3ForConditionalGeneration Gemma3Processor "
        "PaliGemmaForConditionalGeneration PaliGemmaProcessor",
    ),
    "MLLM: families with a video processor, such as Qwen-VL and InternVL": (
        _MLLM,
        "Qwen2_5_VLForConditionalGeneration Qwen2_5_VLProcessor Qwen2VLVideoProcessor "
        "InternVLForConditionalGeneration InternVLProcessor InternVLVideoProcessor",
    ),
    "segmenter: SAM, SAM-HQ": (_SEGMENTER, "SamModel SamProcessor SamHQModel SamHQProcessor"),
    "segmenter: SAM 2, SAM 3 tracker, EdgeTAM": (
        _SEGMENTER,
        "Sam2Model Sam2Processor Sam2ImageProcessor EdgeTamModel Sam3TrackerModel Sam3TrackerProcessor Sam3ImageProcessor",
    ),
}
"""Title -> the module that loads these models, and the classes of transformers that it uses."""


@with_options(LOADING_OPTIONS)
def doctor(
    ctx: typer.Context,
    mllm: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Load this MLLM, ask it about a drawn scene, and describe it, in place of the rest."),
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Load this segmenter, prompt it with a box, and describe it, likewise.")
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Wording and coordinate format of the questions to --mllm.", show_default="its own"),
    ] = None,
    **loading: Any,
) -> int:
    """Report which packages are installed, which models can be loaded and on which device; or try out given models.

    Exit code 1 if something that is always needed does not work, or a given model's answer is of no use.
    """
    if mllm is None:
        refuse_options(ctx, ("dialect",), "no effect without --mllm")
    if mllm is not None or segmenter is not None:
        return _check_models(mllm, segmenter, dialect, LoadOptions(**loading))
    refuse_options(ctx, [option.name for option in LOADING_OPTIONS], "no effect without --mllm or --segmenter")
    print(f"sam4mllm-tool {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    for name in _BASE:
        print(f"  {name:15} {_version(name) or 'MISSING: install sam4mllm-tool again'}")
    print("extras:")
    for extra, names in list_extras().items():
        for name in names:
            print(_extra_line(extra, name))
    if None in map(_version, _BASE):
        return 1
    print("backends:")
    for title, (module, classes) in _BACKENDS.items():
        print(f"  {_backend_line(title, module, classes.split())}")
    print(f"device: {_describe_device()}")
    works, outcome = _try_embedded()
    print(f"embedded pair: {outcome}")
    return 0 if works else 1


def _check_models(mllm: str | None, segmenter: str | None, dialect: str | None, options: LoadOptions) -> int:
    from sam4mllm_tool.cli.model_check import check_mllm, check_segmenter

    works = [check_mllm(mllm, dialect, options)] if mllm is not None else []
    works += [check_segmenter(segmenter, options)] if segmenter is not None else []
    return 0 if all(works) else 1


def list_extras() -> dict[str, tuple[str, ...]]:
    """Return the packages of each extra that users install, as the installed distribution declares them."""
    extras: dict[str, tuple[str, ...]] = {}
    for match in filter(None, map(_REQUIREMENT.match, metadata.requires("sam4mllm-tool") or ())):
        if match["extra"] not in _FOR_DEVELOPMENT and match["name"] != "sam4mllm-tool":
            extras[match["extra"]] = (*extras.get(match["extra"], ()), match["name"])
    return extras


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra_line(extra: str, name: str) -> str:
    version = _version(name)
    return f"  {name:15} {version} ({extra})" if version else f'  {name:15} not installed: pip install "sam4mllm-tool[{extra}]"'


def _backend_line(title: str, module: str, classes: list[str]) -> str:
    try:
        import_module(module)
        transformers = import_module("transformers")
        for name in classes:
            _ = getattr(transformers, name).from_pretrained  # the stand-in for a class that lacks a library raises here
    except Exception as error:  # noqa: BLE001 - printed in this line
        if isinstance(error, ImportError) and "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            return f'lacking  {title} (needs torchvision: pip install "sam4mllm-tool[sam]")'
        return f"FAILS    {title}: {root_message(error)}"
    return f"ready    {title}"


def _describe_device() -> str:
    try:
        import torch

        from sam4mllm_tool.models.devices import choose_device, choose_dtype

        device = choose_device(None)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{device} ({name}), precision {str(choose_dtype(None, device)).removeprefix('torch.')}"
    except Exception as error:  # noqa: BLE001 - printed in this line
        return f"FAILS: {root_message(error)}"


def _try_embedded() -> tuple[bool, str]:
    """Segment one drawn scene with the embedded pair and compare the mask with the true one."""
    from sam4mllm_tool.embedded import TEST_SEEDS
    from sam4mllm_tool.embedded.everyday import draw_scene, list_expressions
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

    scene = draw_scene(TEST_SEEDS)
    expression = next(e for e in list_expressions(scene) if e.kind == "attribute")
    try:
        models = Sam4Mllm.load("embedded", "embedded")
        began = time.perf_counter()
        mask = models.segment(scene.image, expression.text).mask
    except Exception as error:  # noqa: BLE001 - printed in this line
        return False, f"FAILS: {' '.join(str(error).split()) or type(error).__name__}"
    seconds, true_mask = time.perf_counter() - began, scene.mask(expression.targets[0])
    iou = (mask & true_mask).sum() / (mask | true_mask).sum()
    outcome = f'"{expression.text}" on a drawn scene in {seconds:.2f} s, IoU with the true mask {iou:.2f}'
    return bool(iou > 0.5), f"{'works' if iou > 0.5 else 'FAILS'}: {outcome}"
