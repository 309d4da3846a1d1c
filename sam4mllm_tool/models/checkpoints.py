"""Find a checkpoint (a folder in Hugging Face format, or a hub id), and load it quietly.

Shared by every backend that opens a checkpoint. Imports torch and transformers, so packages import this module on first use.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from torch import Tensor
from torch.nn import init
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from sam4mllm_tool.errors import Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.models.load_errors import custom_code_error, explain_file, explain_load_error, explain_weights, list_files
from sam4mllm_tool.models.segmenter import SEGMENT_ANYTHING
from sam4mllm_tool.text import first_line, parse_json, suggest_name

__all__ = [
    "custom_code_error",
    "embedded_folder",
    "find_adapter_base",
    "find_file",
    "fingerprint",
    "quiet_loading",
    "require_complete",
    "resolve_folder_or_hub_id",
    "wrap_load_errors",
]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_MAX_BASE_NAME = 150
"""Characters of an adapter's base model in a message."""
_HASHED_BLOCKS, _BLOCK_BYTES = 64, 16_384
"""A fingerprint reads this many blocks of this size from each weight file."""
_MODEL_MARKER, _ADAPTER_MARKER = "config.json", "adapter_config.json"
_OWN_SPECS = ("embedded",)
_REMOTE = ("openai:", "langchain:")


def resolve_folder_or_hub_id(spec: str, *, marker: str = _MODEL_MARKER) -> str:
    """Return the absolute path of the folder that a spec names, or the hub id unchanged.

    An existing folder wins over a hub id of the same name; a spec that starts with `.`, `/` or `~` is never a hub id. If the
    model is not in the local cache, the hub is queried, so that a misspelled id fails at once.

    Args:
        spec: Folder or hub id.
        marker: File that makes a folder a checkpoint; `adapter_config.json` for a LoRA adapter.

    Raises:
        SpecError: The spec names neither.
    """
    _require_not_empty(spec)
    if spec.startswith(_REMOTE):
        raise SpecError(f"{quote_text(spec)} runs elsewhere, and its weights are needed here: expected a folder or a hub id")
    folder = _as_folder(spec)
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise _wrong_folder_error(spec, folder, marker)
        return str(folder.resolve())
    if folder.exists():
        raise SpecError(explain_file(spec, marker))
    if not _may_be_hub_id(spec):
        raise SpecError(
            f"there is no folder {quote_text(spec)}, and it can't be a hub id (NAME or OWNER/NAME): check the spelling"
        )
    _require_on_hub(spec, marker)
    if marker == _MODEL_MARKER and find_file(spec, marker) is None and (file := find_file(spec, _ADAPTER_MARKER)):
        raise _adapter_alone_error(spec, file)
    return spec


def _wrong_folder_error(spec: str, folder: Path, marker: str) -> SpecError:
    """Return the error for a folder without the file that makes it what was expected."""
    if marker == _MODEL_MARKER and (folder / _ADAPTER_MARKER).is_file():
        return _adapter_alone_error(spec, folder / _ADAPTER_MARKER)
    if marker == _ADAPTER_MARKER and (folder / _MODEL_MARKER).is_file():
        return SpecError(f"{spec!r} is a whole model, not a LoRA adapter: write it alone, without BASE+")
    names = list_files(str(folder))
    if marker == _MODEL_MARKER and any(name.endswith((".gguf", *_WEIGHT_SUFFIXES[1:])) for name in names):
        return SpecError(explain_weights(spec, names))
    kind = "a checkpoint" if marker == _MODEL_MARKER else "a LoRA adapter"
    return SpecError(f"the folder {spec!r} has no {marker}: expected {kind} in Hugging Face format")


def find_adapter_base(spec: str) -> str | None:
    """Return the spec of the base that an adapter names; None where the spec is no adapter or names no base.

    Args:
        spec: Folder or hub id, of an adapter alone or of a whole model.

    Raises:
        SpecError: As in `find_file`.
    """
    if find_file(spec, _MODEL_MARKER) is not None or (file := find_file(spec, _ADAPTER_MARKER)) is None:
        return None
    return _read_base(file)


def _read_base(file: Path) -> str | None:
    """Return the base that an adapter_config.json names, if it is a name that a spec can have."""
    try:
        base = parse_json(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(base, str) or not base.strip() or len(base) > _MAX_BASE_NAME:
        return None
    return "embedded" if Path(base).parts[-3:] == ("embedded", "weights", "mllm") else base


def _adapter_alone_error(spec: str, file: Path) -> SpecError:
    """Return the error for an adapter where a model is expected; it names the base that the adapter was trained on."""
    base = _read_base(file) or "BASE"
    model = f"{base}+{spec}"
    return SpecError(
        f"{quote_text(spec)} is a LoRA adapter of {quote_text(base)}, not a whole model: write {model!r} as the MLLM"
    )


def find_file(spec: str, name: str) -> Path | None:
    """Return the path of a file in the folder or hub repository that a spec names, or None if it has no such file.

    A file on the hub is downloaded. Offline, only files in the local cache exist.

    Raises:
        SpecError: The spec is empty or not a valid path, or the hub can't be reached.
    """
    _require_not_empty(spec)
    folder = _as_folder(spec)
    if folder.exists() or not _may_be_hub_id(spec):
        return folder / name if (folder / name).is_file() else None
    try:
        cached = try_to_load_from_cache(spec, name)
        if isinstance(cached, str):
            return Path(cached)
        if cached is not None or constants.HF_HUB_OFFLINE:  # the cache knows that the repository has no such file
            return None
        _require_on_hub(spec, name)
        return Path(hf_hub_download(spec, name))
    except RemoteEntryNotFoundError:
        return None
    except Sam4MllmError:
        raise
    except Exception as error:  # as in _require_on_hub
        raise SpecError(f"can't query the hub for {name} of {quote_text(spec)}: {first_line(error)}") from error


def fingerprint(spec: str) -> str | None:
    """Return a string that identifies the weights of a folder or hub id; None if the spec names no checkpoint.

    For a folder, and for the file of `segment-anything:NAME@FILE`: a hash of the weight files' names, sizes and evenly spaced
    blocks, which takes milliseconds at any size. For a hub id: the commit.

    Raises:
        SpecError: As in `find_file`.
    """
    if spec.startswith(SEGMENT_ANYTHING):
        file = Path(spec.partition("@")[2]).expanduser()
        return _digest([file]) if file.is_file() else None
    markers = (find_file(spec, marker) for marker in ("adapter_config.json", "config.json"))
    folder = next((marker.parent for marker in markers if marker), None)
    if folder is None:
        return None
    if folder.parent.name == "snapshots":  # the hub's cache names the folder after the commit
        return folder.name
    return _digest(sorted(path for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES))


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for block in range(_HASHED_BLOCKS):  # the first block is at the start, the last at the end
                file.seek(max(0, size - _BLOCK_BYTES) * block // (_HASHED_BLOCKS - 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def embedded_folder(part: str) -> str:
    """Return the folder of a part of the embedded pair: `mllm`, `adapter` or `sam`.

    Raises:
        SpecError: This installation has no such part.
    """
    folder = Path(__file__).parents[1] / "embedded" / "weights" / part
    if not folder.is_dir():
        raise SpecError(f"this installation lacks the embedded {part!r} (expected in {folder}): reinstall the package")
    return str(folder)


def _require_not_empty(spec: str) -> None:
    if not spec.strip():
        raise SpecError("a model spec is empty: expected a folder, a hub id or 'embedded'")


def _may_be_hub_id(spec: str) -> bool:
    return not spec.startswith((".", "/", "~")) and _HUB_ID.fullmatch(spec) is not None


def _as_folder(spec: str) -> Path:
    try:
        folder = Path(spec).expanduser()
        folder.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise SpecError(f"{quote_text(spec)} can't be a folder: {reason}") from error
    return folder


def _require_on_hub(hub_id: str, marker: str) -> None:
    """Raise SpecError if a model is not in the local cache and the hub has no such model or can't be reached.

    Loading would find out too, but only after retrying for half a minute without a network.
    """
    try:
        if not isinstance(try_to_load_from_cache(hub_id, marker), str):
            model_info(hub_id, timeout=10)
    except RepositoryNotFoundError as error:
        raise SpecError(
            f"there is no folder {quote_text(hub_id)}, and the hub has no such model that you may read: "
            f"check the spelling, or run 'hf auth login' if the model is private{suggest_name(hub_id, _OWN_SPECS)}"
        ) from error
    except Exception as error:  # network errors come from whichever HTTP library the hub's client uses
        raise SpecError(
            f"there is no folder {quote_text(hub_id)}, and the hub can't be reached ({first_line(error)}): "
            "check the spelling, go online, or download the model elsewhere and pass its folder"
            f"{suggest_name(hub_id, _OWN_SPECS)}"
        ) from error


_LOADING = threading.RLock()
_INITIALIZERS = ("uniform_", "normal_", "kaiming_uniform_", "xavier_uniform_")
"""Functions of `torch.nn.init` that torch's own layers call and that draw random numbers."""


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide progress bars and log messages below ERROR of transformers and the hub's client, then restore both.

    It also keeps transformers from asking on stdin whether to run a checkpoint's code: some of its loaders don't pass
    `trust_remote_code=False` on to the tokenizer and the image processor. These settings, like others that transformers
    changes while loading, are global, so only one thread loads at a time.
    """
    with _LOADING:
        loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
        levels, bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        answer_timeout_s = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # transformers then raises instead of asking
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            with _cheap_meta_tensors():
                yield
        finally:
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = answer_timeout_s
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _cheap_meta_tensors() -> Iterator[None]:
    """Spare what transformers computes without memory while it builds a model, before it reads the weights.

    torch computes that in Python, through its compiler and SymPy, whose import alone takes longer than loading a small model.
    Initialising tensors without memory has no effect. Those that transformers computes with are made on the CPU instead: it
    replaces all of them. What is made on another device is made as ever.
    """
    initializers = {name: getattr(init, name) for name in _INITIALIZERS}
    makers = {"arange": torch.arange, "randn": torch.randn}

    def skip(initialize: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda tensor, *args, **kwargs: tensor if tensor.is_meta else initialize(tensor, *args, **kwargs)

    def on_cpu(make: Callable[..., Tensor], replacement: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make_tensor(*args: Any, **kwargs: Any) -> Tensor:
            if kwargs.get("device") is None and torch.get_default_device().type == "meta":
                return replacement(*args, **kwargs | {"device": "cpu"})
            return make(*args, **kwargs)

        return make_tensor

    try:
        vars(init).update({name: skip(initialize) for name, initialize in initializers.items()})
        # Random numbers would change the state of the generator.
        vars(torch).update(arange=on_cpu(torch.arange, torch.arange), randn=on_cpu(torch.randn, torch.empty))
        yield
    finally:
        vars(init).update(initializers)
        vars(torch).update(makers)


def require_complete(spec: str, loading_info: Mapping[str, Collection[object]]) -> None:
    """Refuse a model whose checkpoint lacked weights: transformers initialises those randomly.

    Args:
        spec: Named in the SpecError that this raises if weights are missing or have other shapes.
        loading_info: Second result of `from_pretrained(..., output_loading_info=True)`.
    """
    absent = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loading_info.get(kind, ()))
    if absent:
        raise SpecError(
            f"the checkpoint {spec!r} lacks {len(absent)} of the model's weights or has them in other shapes, "
            f"{absent[0]} first: expected all of them"
        )


@contextmanager
def wrap_load_errors(spec: str, *, extra: str) -> Iterator[None]:
    """Wrap what transformers raises while it opens a checkpoint into a one-line error.

    Args:
        spec: Named in the message.
        extra: Extra of this package that installs torchvision, which some image processors need.

    Raises:
        MissingExtraError: torchvision is not installed.
        SpecError: Anything else went wrong.
    """
    try:
        yield
    except Sam4MllmError:
        raise
    except Exception as error:  # a broken file shows in many ways
        raise explain_load_error(spec, error, extra=extra) from error
