"""What `sam4mllm doctor` says: versions, extras, devices, and whether the embedded pair really segments."""

import platform
import time
from importlib import metadata

from sam4mllm_tool import __version__

_BASE = ("torch", "transformers", "peft", "safetensors", "langchain-core", "pillow", "numpy", "pydantic")
_OPTIONAL = {
    "torchvision": "model families whose image or video processor needs it",
    "pycocotools": "reading COCO annotations",
}


def report() -> tuple[list[str], bool]:
    """The lines to print, and whether everything that is always needed works."""
    lines = [f"sam4mllm-tool {__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    missing = [name for name in _BASE if _version(name) is None]
    lines += [f"  {name:15} {_version(name) or 'MISSING: install sam4mllm-tool again'}" for name in _BASE]
    lines += [f"  {name:15} {_version(name) or 'not installed'} ({use})" for name, use in _OPTIONAL.items()]
    if missing:
        return lines, False
    lines.append(f"device: {_devices()}")
    works, sentence = _try_embedded()
    return [*lines, f"embedded pair: {sentence}"], works


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
    return True, f'works; "{asked.text}" on a drawn scene in {seconds:.2f} s, IoU with the truth {overlap:.2f}'
