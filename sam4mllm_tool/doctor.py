"""What `sam4mllm doctor` says: versions, extras, devices, and whether the embedded pair really segments."""

import platform
import time
from importlib import metadata

from sam4mllm_tool import __version__

_BASE = ("torch", "transformers", "peft", "safetensors", "langchain-core", "pillow", "numpy", "pydantic")
_BACKENDS = {
    "MLLM: LLaVA, LLaVA-NeXT, Idefics3, Gemma 3, PaliGemma": None,
    "MLLM: families with a video processor, such as Qwen-VL and InternVL": "torchvision",
    "segmenter: SAM, SAM-HQ": None,
    "segmenter: SAM 2, SAM 3 tracker, EdgeTAM": "torchvision",
}
"""What can be loaded, and the package that it needs beyond the base."""


def report() -> tuple[list[str], bool]:
    """The lines to print, and whether everything that is always needed works."""
    lines = [f"sam4mllm-tool {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    missing = [name for name in _BASE if _version(name) is None]
    lines += [f"  {name:15} {_version(name) or 'MISSING: install sam4mllm-tool again'}" for name in _BASE]
    if missing:
        return lines, False
    lines += [
        "backends:",
        *(f"  {'ready  ' if _ready(needs) else 'lacking'}  {what}{_cure(needs)}" for what, needs in _BACKENDS.items()),
    ]
    lines.append(f"device: {_devices()}")
    works, sentence = _try_embedded()
    return [*lines, f"embedded pair: {sentence}"], works


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _ready(needs: str | None) -> bool:
    return needs is None or _version(needs) is not None


def _cure(needs: str | None) -> str:
    return "" if _ready(needs) else f' (needs {needs}: pip install "sam4mllm-tool[sam]")'


def _devices() -> str:
    import torch

    from sam4mllm_tool.checkpoints import choose_device, choose_dtype

    device = choose_device(None)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return f"{device} ({name}), precision {str(choose_dtype(None, device)).removeprefix('torch.')}"


def _try_embedded() -> tuple[bool, str]:
    """Segments one drawn scene and compares with its truth."""
    from sam4mllm_tool.embedded.expressions import expressions
    from sam4mllm_tool.embedded.scenes import TEST_SEEDS, draw_scene
    from sam4mllm_tool.errors import Sam4MllmError
    from sam4mllm_tool.pipeline import Sam4Mllm

    scene = draw_scene(TEST_SEEDS)
    asked = next(e for e in expressions(scene) if e.kind == "attribute")
    try:
        models = Sam4Mllm.load("embedded", "embedded")
        began = time.perf_counter()
        found = models.segment(scene.image, asked.text).mask
    except Sam4MllmError as error:
        return False, f"FAILS: {error}"
    seconds, truth = time.perf_counter() - began, scene.mask(asked.targets[0])
    overlap = (found & truth).sum() / (found | truth).sum()
    result = f'"{asked.text}" on a drawn scene in {seconds:.2f} s, IoU with the truth {overlap:.2f}'
    return bool(overlap > 0.5), f"{'works' if overlap > 0.5 else 'FAILS'}: {result}"
