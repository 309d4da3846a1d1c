"""What every backend that opens a checkpoint shares: where it is, on which device, in which precision, and how quietly.

A checkpoint is a folder in Hugging Face format, or a hub id of one. This module imports torch and transformers, so the
face of a package opens it on first use.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import RemoteEntryNotFoundError, RepositoryNotFoundError
from transformers import dynamic_module_utils
from transformers.utils import logging as transformers_logging

from sam4mllm_tool.errors import MissingExtraError, Sam4MllmError, SpecError, quote_text
from sam4mllm_tool.optional_dependencies import root_reason

__all__ = [
    "choose_device",
    "choose_dtype",
    "embedded_folder",
    "find_file",
    "fingerprint",
    "load_errors",
    "quiet_loading",
    "require_complete",
    "resolve_folder_or_hub_id",
]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_SAMPLES, _SAMPLE = 64, 16_384
"""Of each weight file: how many, of how many bytes."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_folder_or_hub_id(spec: str, *, marker: str = "config.json") -> str:
    """The folder that a spec names, absolute, or the hub id as it was given.

    A folder that exists wins over a hub id of the same name; what starts like a path (`.`, `/`, `~`) is never a hub id.
    The hub is asked about an id that was not downloaded yet, so that a spelling mistake shows at once.
    marker: the file that makes a folder a checkpoint; `adapter_config.json` for a LoRA adapter.
    Raises SpecError where the spec names neither.
    """
    _require_some(spec)
    folder = _as_folder(spec)
    if folder.is_dir():
        if not (folder / marker).is_file():
            raise SpecError(f"the folder {spec!r} has no {marker}: expected a checkpoint in Hugging Face format")
        return str(folder.resolve())
    if folder.exists():
        raise SpecError(f"{spec!r} is a file: expected the folder of a checkpoint, with {marker} in it")
    if spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec):
        raise SpecError(
            f"there is no folder {quote_text(spec)}, nor can it be a hub id (NAME or OWNER/NAME): check the spelling"
        )
    _ask_hub(spec, marker)
    return spec


def find_file(spec: str, name: str) -> Path | None:
    """A file of the folder or of the hub repository that a spec names; None where it has no such file, or is neither.

    A file that the hub has is downloaded. Offline, what was not downloaded isn't there.
    Raises SpecError for an empty spec, a name that no folder can have, and where the hub can't be asked.
    """
    _require_some(spec)
    folder = _as_folder(spec)
    if folder.exists() or spec.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(spec):
        return folder / name if (folder / name).is_file() else None
    try:
        known = try_to_load_from_cache(spec, name)
        if isinstance(known, str):
            return Path(known)
        if known is not None or constants.HF_HUB_OFFLINE:  # known not to be there
            return None
        _ask_hub(spec, name)
        return Path(hf_hub_download(spec, name))
    except RemoteEntryNotFoundError:
        return None
    except Sam4MllmError:
        raise
    except Exception as error:  # as in _ask_hub
        raise SpecError(f"the hub can't be asked for {name} of {quote_text(spec)}: {_first_line(error)}") from error


def fingerprint(spec: str) -> str | None:
    """What tells the weights of a folder or hub id from others under the same name; None where there are none.

    Of a folder: a hash of its weight files' names, sizes and samples of their bytes, which takes milliseconds whatever their
    size. Of a hub id: the commit. Raises SpecError as `find_file` does.
    """
    places = (find_file(spec, marker) for marker in ("adapter_config.json", "config.json"))
    folder = next((place.parent for place in places if place), None)
    if folder is None:
        return None
    if folder.parent.name == "snapshots":  # of the hub's cache
        return folder.name
    digest = hashlib.sha256()
    for file in sorted(one for one in folder.iterdir() if one.suffix in _WEIGHTS):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as opened:
            for place in range(_SAMPLES):  # the first at the start, the last at the end
                opened.seek(max(0, size - _SAMPLE) * place // (_SAMPLES - 1))
                digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()[:16]


def embedded_folder(part: str) -> str:
    """The folder of a part of the pair that comes with the package, `sam` for instance.

    Raises SpecError where this installation lacks it.
    """
    folder = Path(__file__).parents[1] / "embedded" / "weights" / part
    if not folder.is_dir():
        raise SpecError(f"this installation lacks the embedded {part!r} (expected in {folder}): install the wheel again")
    return str(folder)


def _require_some(spec: str) -> None:
    if not spec.strip():
        raise SpecError("a model spec is empty: expected a folder, a hub id or 'embedded'")


def _as_folder(spec: str) -> Path:
    try:
        folder = Path(spec).expanduser()
        folder.exists()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise SpecError(f"{quote_text(spec)} can't be a folder: {reason}") from error
    return folder


def _ask_hub(hub_id: str, marker: str) -> None:
    """Raises SpecError where a model was not downloaded before and the hub can't be reached or has no such model.

    Asked once: loading itself would try again for half a minute before it says that there is no network.
    """
    try:
        if not isinstance(try_to_load_from_cache(hub_id, marker), str):
            model_info(hub_id, timeout=10)
    except RepositoryNotFoundError as error:
        raise SpecError(
            f"there is no folder {quote_text(hub_id)}, and the hub has no such model, or none for you: "
            "check the spelling, or log in with 'hf auth login' if it is private"
        ) from error
    except Exception as error:  # its network errors come from a library that changes with its version
        raise SpecError(
            f"there is no folder {quote_text(hub_id)}, and the hub can't be asked for it ({_first_line(error)}): "
            "check the spelling, go online, or download it elsewhere and give its folder"
        ) from error


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; without one, the first CUDA device, or else the CPU.

    Raises SpecError where it isn't there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _first_line(error).partition(". ")[0]
        raise SpecError(f"the device {str(device)!r} can't be used: {reason}") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The precision asked for; without one, bfloat16 on a CUDA device that computes in it natively, or else float32.

    Raises SpecError for a name other than float32, bfloat16 and float16.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise SpecError(f"unknown precision {dtype!r}: expected one of {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8:
        return torch.bfloat16
    return torch.float32


_QUIET = threading.RLock()


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences the log of transformers and of the hub below errors, and their progress bars; then all is as before.

    Nor does transformers ask on stdin whether to run a checkpoint's own code, which it refuses instead: some of its loaders
    don't hand `trust_remote_code=False` on to the tokenizer and the image processor.
    One at a time: other threads wait, as these settings, like others that transformers changes while it loads, are global.
    """
    with _QUIET:
        loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
        levels, bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0  # seconds to wait for an answer: at 0 it raises and doesn't ask
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def require_complete(spec: str, loading_info: Mapping[str, Collection[object]]) -> None:
    """Raises SpecError where weights of the model were not in the checkpoint, and so would be random.

    loading_info: what `from_pretrained(..., output_loading_info=True)` returns beside the model.
    """
    absent = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in loading_info.get(kind, ()))
    if absent:
        raise SpecError(
            f"the checkpoint {spec!r} lacks {len(absent)} of the model's weights or has them in other shapes, "
            f"{absent[0]} first: expected all of them"
        )


@contextmanager
def load_errors(spec: str, *, extra: str) -> Iterator[None]:
    """Turns what transformers raises while it opens a checkpoint into one line that says what was wrong.

    extra: the optional dependencies that hold torchvision, for image processors that need it.
    Raises MissingExtraError where torchvision is missing, SpecError for everything else.
    """
    try:
        yield
    except Sam4MllmError:
        raise
    except Exception as error:  # a broken file shows in many ways
        # Depending on the model, transformers misses torchvision with an ImportError or with a ValueError.
        if "torchvision" in str(error) and find_spec("torchvision") is None:
            raise MissingExtraError(f"torchvision, which {spec!r} needs,", extra) from error
        if _needs_own_code(error):
            raise SpecError(
                f"the checkpoint {spec!r} needs its own code, which is never run: "
                "choose one of an architecture that transformers has, or convert it to one"
            ) from error
        reason = root_reason(error) if isinstance(error, ImportError) else _first_line(error)
        raise SpecError(f"the checkpoint {spec!r} can't be loaded: {reason}") from error


def _needs_own_code(error: BaseException | None) -> bool:
    """Whether transformers, or what it wrapped, asks for leave to run code."""
    while error is not None:
        if "trust_remote_code" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
