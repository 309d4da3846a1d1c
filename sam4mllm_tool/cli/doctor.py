"""What `sam4mllm doctor` says: versions, extras, devices, and whether the embedded pair really segments.

Each backend's classes and processors are really imported. Whatever breaks stays in its own line, so that the others are
told too: here alone every error is caught.
"""

import platform
import time
from importlib import import_module, metadata
from importlib.util import find_spec

from sam4mllm_tool import __version__
from sam4mllm_tool.optional_dependencies import root_message

_BASE = (
    *("torch", "transformers", "peft", "safetensors", "tokenizers", "huggingface-hub"),
    *("langchain-core", "pillow", "numpy", "pydantic"),
)
EXTRAS = {
    "sam": ("torchvision",),
    "train": ("accelerate", "pycocotools", "tensorboard"),
    "agents": ("langchain", "langgraph", "langgraph-checkpoint-sqlite"),
}
"""The optional packages by extra, without those for working on this project."""

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
"""What can be loaded: our file that does it, and the classes of transformers behind it."""


def report() -> tuple[list[str], bool]:
    """The lines to print, and whether everything that is always needed works."""
    lines = [f"sam4mllm-tool {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    missing = [name for name in _BASE if _version(name) is None]
    lines += [f"  {name:15} {_version(name) or 'MISSING: install sam4mllm-tool again'}" for name in _BASE]
    lines += ["extras:", *(_extra(extra, name) for extra, names in EXTRAS.items() for name in names)]
    if missing:
        return lines, False
    lines += ["backends:", *(f"  {_backend(what, module, names)}" for what, (module, names) in _BACKENDS.items())]
    lines.append(f"device: {_devices()}")
    works, sentence = _try_embedded()
    return [*lines, f"embedded pair: {sentence}"], works


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra(extra: str, name: str) -> str:
    version = _version(name)
    return f"  {name:15} {version} ({extra})" if version else f'  {name:15} not installed: pip install "sam4mllm-tool[{extra}]"'


def _backend(what: str, module: str, names: str) -> str:
    try:
        import_module(module)
        transformers = import_module("transformers")
        for name in names.split():
            _ = getattr(transformers, name).from_pretrained  # the stand-in for a class that lacks a library raises here
    except Exception as error:  # noqa: BLE001 - this line says it
        if isinstance(error, ImportError) and "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            return f'lacking  {what} (needs torchvision: pip install "sam4mllm-tool[sam]")'
        return f"FAILS    {what}: {root_message(error)}"
    return f"ready    {what}"


def _devices() -> str:
    try:
        import torch

        from sam4mllm_tool.models.checkpoints import choose_device, choose_dtype

        device = choose_device(None)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        return f"{device} ({name}), precision {str(choose_dtype(None, device)).removeprefix('torch.')}"
    except Exception as error:  # noqa: BLE001 - this line says it
        return f"FAILS: {root_message(error)}"


def _try_embedded() -> tuple[bool, str]:
    """Segments one drawn scene and compares with its truth."""
    from sam4mllm_tool.embedded.expressions import expressions
    from sam4mllm_tool.embedded.scenes import TEST_SEEDS, draw_scene
    from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

    scene = draw_scene(TEST_SEEDS)
    asked = next(e for e in expressions(scene) if e.kind == "attribute")
    try:
        models = Sam4Mllm.load("embedded", "embedded")
        began = time.perf_counter()
        found = models.segment(scene.image, asked.text).mask
    except Exception as error:  # noqa: BLE001 - this line says it
        return False, f"FAILS: {' '.join(str(error).split()) or type(error).__name__}"
    seconds, truth = time.perf_counter() - began, scene.mask(asked.targets[0])
    overlap = (found & truth).sum() / (found | truth).sum()
    result = f'"{asked.text}" on a drawn scene in {seconds:.2f} s, IoU with the truth {overlap:.2f}'
    return bool(overlap > 0.5), f"{'works' if overlap > 0.5 else 'FAILS'}: {result}"
