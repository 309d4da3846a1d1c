"""Say in one line why a checkpoint can't be loaded, and what to do: transformers' own messages are long and name no cure.

Weights are read from safetensors only and no code of a checkpoint runs, so some checkpoints can't be used as they are.
"""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import transformers
from huggingface_hub import constants, model_info

from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.models.segmenter import SEGMENT_ANYTHING
from sam4mllm_tool.optional_dependencies import root_message
from sam4mllm_tool.text import first_line

__all__ = ["custom_code_error", "explain_file", "explain_load_error", "explain_weights", "list_files"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LFS_POINTER = b"version https://git-lfs"
_LIBRARY = re.compile(
    r"requires the (?P<name>.+?) library,? but it was not found(.*?pip\s+install (-U )?(?P<package>[\w.-]+))?", re.S
)
_UNKNOWN_TYPE = re.compile(r"model type `(?P<type>[^`]*)` but Transformers does not recognize")
_CONVERTED = {
    "llava_llama": "llava-hf's, as llava-hf/llama3-llava-next-8b-hf for lmms-lab/llama3-llava-next-8b",
    "llava_mistral": "llava-hf's, as llava-hf/llava-v1.6-mistral-7b-hf",
    "llava_qwen": "llava-hf's, as llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "internvl_chat": "OpenGVLab's own whose names end in -hf",
}
"""Model types of original releases, and who converted them to architectures of transformers."""


def explain_load_error(spec: str, error: Exception, *, extra: str) -> Sam4MllmError:
    """Return the one-line error for what transformers raised while it opened a checkpoint.

    Args:
        spec: Named in the message.
        error: What was raised.
        extra: Extra of this package that installs torchvision, which some image processors need.
    """
    text = "\n".join(map(str, _causes(error)))
    if "torchvision" in text.lower() and find_spec("torchvision") is None:
        return MissingExtraError(f"torchvision, which {spec!r} needs,", extra)
    if "trust_remote_code" in text:
        return custom_code_error(spec)
    if library := _LIBRARY.search(text):
        package = library["package"] or library["name"].lower()
        return SpecError(f"the checkpoint {spec!r} needs {library['name']}, which is not installed: pip install {package}")
    if unknown := _UNKNOWN_TYPE.search(text):
        return _unknown_type_error(spec, unknown["type"])
    if "no file named" in text or "not appear to have a file named" in text:
        return SpecError(explain_weights(spec, list_files(spec)))
    if "preprocessor_config.json" in text:
        return SpecError(
            f"the checkpoint {spec!r} has no preprocessor_config.json: copy the processor's files from the model that it was "
            "made from"
        )
    if "backend tokenizer" in text:
        return SpecError(
            f"the checkpoint {spec!r} has no tokenizer.json that can be read: copy it from the model that it was made from"
        )
    if pointer := _find_lfs_pointer(spec):
        return SpecError(f"{pointer} is a Git LFS pointer, not the weights themselves: run 'git lfs pull' in its folder")
    reason = root_message(error) if isinstance(error, ImportError) else first_line(error)
    return SpecError(f"the checkpoint {spec!r} can't be loaded: {reason}")


def custom_code_error(spec: str) -> SpecError:
    """Return the error for a checkpoint that can't be loaded without its own Python code."""
    return SpecError(
        f"the checkpoint {spec!r} needs its own code, which is never run: "
        "choose or convert it to an architecture that transformers supports"
    )


def explain_weights(spec: str, names: tuple[str, ...]) -> str:
    """Return why a checkpoint has no weights that are opened.

    Args:
        spec: Named in the message.
        names: Of its files.
    """
    if gguf := next((name for name in names if name.endswith(".gguf")), None):
        return f"{quote_text(spec)} has GGUF weights ({gguf}): {_SERVE_GGUF}"
    if pickled := next((name for name in names if name.endswith(_PICKLES)), None):
        return (
            f"{quote_text(spec)} has pickled weights alone ({pickled}), which are never opened because they can run code: "
            "choose a copy with safetensors, or convert it where you trust it (save_pretrained writes safetensors)"
        )
    return f"{quote_text(spec)} has no weights: expected model.safetensors beside its config.json"


def explain_file(spec: str, marker: str) -> str:
    """Return what to write in place of a file; `marker` is the file that makes a folder what was expected."""
    suffix = Path(spec).suffix.lower()
    if suffix == ".gguf":
        return f"{quote_text(spec)} is a GGUF file: {_SERVE_GGUF}"
    if suffix in _PICKLES:
        return (
            f"{quote_text(spec)} is a file of pickled weights, which are never opened because they can run code: name the "
            "folder of a checkpoint with safetensors; Meta's own SAM files are segmenters, "
            f"{SEGMENT_ANYTHING}{_architecture(spec)}@{spec}"
        )
    if suffix in (".safetensors", ".json"):
        return (
            f"{quote_text(spec)} is a file: name its folder {quote_text(str(Path(spec).parent))}, which has to contain {marker}"
        )
    return f"{quote_text(spec)} is a file: expected the folder of a checkpoint that contains {marker}"


def _architecture(spec: str) -> str:
    """Return the architecture that a released file's name says, as in sam_vit_b_01ec64.pth; else the largest one."""
    name = Path(spec).name.lower()
    return "vit_t" if name.startswith("mobile_sam") else next((each for each in ("vit_b", "vit_l") if each in name), "vit_h")


_SERVE_GGUF = "serve it, for example with llama.cpp or Ollama, and name the server's model as openai:MODEL@URL"


def list_files(spec: str) -> tuple[str, ...]:
    """Return the names of a checkpoint's files, none where that can't be known."""
    folder = Path(spec).expanduser()
    if folder.is_dir():
        return tuple(sorted(path.name for path in folder.iterdir()))
    if constants.HF_HUB_OFFLINE:
        return ()
    try:
        return tuple(file.rfilename for file in model_info(spec, timeout=10).siblings or ())
    except Exception:  # noqa: BLE001 - the message then says less
        return ()


def _unknown_type_error(spec: str, model_type: str) -> SpecError:
    if cure := _CONVERTED.get(model_type):
        return SpecError(
            f"the checkpoint {spec!r} is of type {model_type!r}, an original release that transformers doesn't know: "
            f"choose a converted one, {cure}"
        )
    return SpecError(
        f"the checkpoint {spec!r} is of type {model_type!r}, which transformers {transformers.__version__} doesn't know: "
        "upgrade it (pip install -U transformers), or choose another model"
    )


def _find_lfs_pointer(spec: str) -> Path | None:
    folder = Path(spec).expanduser()
    for path in folder.glob("*.safetensors") if folder.is_dir() else ():
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return path
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
