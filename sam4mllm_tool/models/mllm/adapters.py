"""Put a peft adapter on a model: only one that is safe to open and was trained on this model.

peft loads an adapter of another base without a word where shapes agree, and one with names of other layers with a warning
and random numbers. Here what can't fit is refused, and what may not fit is warned of. Adapters that were saved before
transformers 4.52 moved the parts of multimodal models are read by the names that these parts have now.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import CONFIG_MAPPING

from sam4mllm_tool.errors import ModelWarning, SpecError
from sam4mllm_tool.models.checkpoints import quiet_loading, resolve_folder_or_hub_id, wrap_load_errors
from sam4mllm_tool.models.mllm.lora_merging import merge_plain_lora

if TYPE_CHECKING:  # peft is imported where it is needed: most adapters are merged without it
    from peft import PeftConfig, PeftModel

__all__ = ["SwitchedAdapters", "attach_adapter", "merge_adapter", "require_safe_adapter"]

TORCHVISION_EXTRA = "sam"

_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_OLD_NAMES = {
    r"^language_model\.model\.": "model.language_model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^(vision_tower|vision_model|multi_modal_projector|visual)\.": r"model.\1.",
    r"^model\.(layers|embed_tokens|norm)\.": r"model.language_model.\1.",  # Qwen2-VL, whose top was its language model
}
"""Names in adapters from before transformers 4.52, and what they are called since."""
_COPY_SUFFIX = re.compile(r"(-hf|(-unsloth)?-bnb-4bit)$")


def merge_adapter(model: Any, path: str, adapter: str, base: str) -> Any:
    """Return the model with the adapter in its weights; a quantized one with the adapter on it, as quantizing again costs.

    Args:
        model: The base.
        path: Folder or hub id that holds the adapter.
        adapter: The adapter's spec, for messages.
        base: The base's spec.

    Raises:
        SpecError: As in `attach_adapter`.

    Warns:
        ModelWarning: The adapter names another base.
    """
    is_quantized = getattr(model, "hf_quantizer", None) is not None
    settings = None if is_quantized or hasattr(model, "hf_device_map") else _read_settings(path)
    if settings is not None:
        _require_same_architecture(model, settings, adapter, base)
        if merge_plain_lora(model, vars(settings), Path(path) / _ADAPTER_WEIGHTS):
            _warn_of_another_base(settings, adapter, base)
            return model
    adapted = attach_adapter(model, path, adapter, base)
    can_merge = not is_quantized and hasattr(adapted.base_model, "merge_and_unload")
    return adapted.merge_and_unload() if can_merge else adapted.get_base_model()


def _read_settings(path: str) -> SimpleNamespace | None:
    """Return the settings of an adapter in a folder, None where peft has to explain what is wrong with them."""
    folder = Path(path)
    try:
        settings = SimpleNamespace(base_model_name_or_path=None, auto_mapping=None)
        vars(settings).update(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    is_safe = getattr(settings, "megatron_core", None) in (None, "megatron.core")
    return settings if is_safe and (folder / _ADAPTER_WEIGHTS).is_file() else None


def attach_adapter(model: Any, path: str, adapter: str, base: str, *, is_trainable: bool = False) -> "PeftModel":
    """Return the model with the adapter on it.

    Args:
        model: The base.
        path: Folder or hub id that holds the adapter.
        adapter: The adapter's spec, for messages.
        base: The base's spec.
        is_trainable: Whether the adapter will be trained further.

    Raises:
        SpecError: The adapter can't be opened safely, or doesn't fit the model.

    Warns:
        ModelWarning: The adapter names another base.
    """
    config = require_safe_adapter(path, adapter)
    _require_same_architecture(model, config, adapter, base)
    from peft import PeftModel

    with _refusing_what_does_not_fit(adapter, base):
        adapted = PeftModel.from_pretrained(model, path, is_trainable=is_trainable, key_mapping=find_renamings(model))
    _warn_of_another_base(config, adapter, base)
    return adapted


class SwitchedAdapters:
    """Adapters that share the weights of one base. One of them, or none, is active at a time. Not safe for threads.

    Args:
        model: The base, as `load_checkpoint` returns it.
        base: Its spec.
    """

    def __init__(self, model: Any, base: str) -> None:
        self.model, self.base = model, base
        self._adapted: PeftModel | None = None
        self._names: dict[str, str] = {}
        self._active: str | None = None

    def add(self, adapter: str) -> None:
        """Load an adapter, unless it is loaded already; the base stays as it was if the adapter doesn't fit.

        Raises:
            SpecError: As in `attach_adapter`.
        """
        if adapter in self._names:
            return
        path, name = resolve_folder_or_hub_id(adapter, marker="adapter_config.json"), f"adapter_{len(self._names)}"
        with quiet_loading(), wrap_load_errors(adapter, extra=TORCHVISION_EXTRA):
            config = require_safe_adapter(path, adapter)
            _require_same_architecture(self.model, config, adapter, self.base)
            config.inference_mode = True
            with _refusing_what_does_not_fit(adapter, self.base):
                self._load(path, name, config)
            _warn_of_another_base(config, adapter, self.base)
        self._names[adapter] = name

    def activate(self, adapter: str | None) -> None:
        """Answer with an adapter that was added, or with the base alone."""
        name = None if adapter is None else self._names[adapter]
        if self._adapted is None or name == self._active:
            return
        tuner: Any = self._adapted.base_model
        if name is None:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self._adapted.set_adapter(name, inference_mode=True)
        self._active = name

    def _load(self, path: str, name: str, config: "PeftConfig") -> None:
        from peft import PeftModel

        adapted = self._adapted
        if adapted is None:
            adapted = PeftModel(self.model, config, adapter_name=name)
        try:
            missing = adapted.load_adapter(
                path, name, torch_device=str(self.model.device), key_mapping=find_renamings(self.model)
            ).missing_keys
            if missing:
                raise ValueError(f"it has no weights for {missing[0]}")
        except Exception:
            if self._adapted is None:
                adapted.unload()
            elif name in adapted.peft_config:
                adapted.delete_adapter(name)
            raise
        if self._adapted is None:
            self._adapted, self._active = adapted, name


@contextmanager
def _refusing_what_does_not_fit(adapter: str, base: str) -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # peft 0.21 uses a deprecated name
        try:
            yield
        except (RuntimeError, ValueError, KeyError, UserWarning) as error:
            reason = " ".join(str(error).split())[:200]
            raise SpecError(f"the adapter {adapter!r} doesn't fit {base!r}: {reason}") from error


def require_safe_adapter(path: str, adapter: str) -> "PeftConfig":
    """Refuse an adapter that peft would load by unpickling weights or by importing a module of the adapter's choice.

    Args:
        path: Folder or hub id that holds the adapter.
        adapter: Named in the message.

    Returns:
        The adapter's settings.

    Raises:
        SpecError: The adapter is refused.
    """
    _import_distributed_tensors()
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(path)
    if config.is_prompt_learning:
        raise SpecError(f"the adapter {adapter!r} learns prompts: expected one that changes weights, such as LoRA")
    module = getattr(config, "megatron_core", None)
    if module not in (None, "megatron.core"):  # peft imports the module of this name
        raise SpecError(f"the adapter {adapter!r} sets megatron_core to {module!r}: expected null or 'megatron.core'")
    if not _has_safetensors(path):
        raise SpecError(f"the adapter {adapter!r} has no {_ADAPTER_WEIGHTS}: pickled weights are not opened, save it again")
    return config


def _import_distributed_tensors() -> None:
    """Import what peft relies on transformers to have imported: `deferred_imports` prevents that."""
    if torch.distributed.is_available():
        import_module("torch.distributed.tensor")


def _require_same_architecture(model: Any, config: "PeftConfig | SimpleNamespace", adapter: str, base: str) -> None:
    trained_on = str(config.base_model_name_or_path or "")
    mapping = config.auto_mapping or {}
    trained_class = mapping.get("base_model_class") if str(mapping.get("parent_library")).startswith("transformers.") else None
    trained_type, own_type = _read_model_type(trained_on), model.config.model_type
    if trained_class not in (None, type(model).__name__) or trained_type not in (None, own_type):
        kind = trained_type or trained_class
        raise SpecError(
            f"the adapter {adapter!r} was trained on {trained_on!r} of type {kind!r}, not on {base!r} of type {own_type!r}"
        )


def _warn_of_another_base(config: "PeftConfig | SimpleNamespace", adapter: str, base: str) -> None:
    """Warn where the adapter names another base: that weights differ isn't proven, as checkpoints are copied and renamed."""
    trained_on = str(config.base_model_name_or_path or "")
    if trained_on and _normalize_name(trained_on) != _normalize_name(base) and not _is_same_folder(trained_on, base):
        message = (
            f"the adapter {adapter!r} was trained on {trained_on!r}; on {base!r} it answers at random if its weights differ"
        )
        warnings.warn(message, ModelWarning, stacklevel=2)


def find_renamings(model: Any) -> dict[str, str]:
    """Return how to rename an old adapter's weights: patterns and replacements, none for a model that wasn't changed."""
    names = {name for name, _ in model.named_modules()}
    return _OLD_NAMES if "model.language_model" in names and "language_model" not in names else {}


def _has_safetensors(path: str) -> bool:
    """Whether the weights are safetensors; otherwise peft would unpickle what it finds."""
    folder = Path(path)
    try:
        return (folder / _ADAPTER_WEIGHTS).is_file() if folder.is_dir() else bool(hf_hub_download(path, _ADAPTER_WEIGHTS))
    except EntryNotFoundError:
        return False


def _read_model_type(base: str) -> str | None:
    """Return the type that a base's config names, where it lies in a folder or in the hub's cache; nothing is downloaded.

    Types that transformers doesn't know are those of original releases, whose converted copies have another type: None.
    """
    try:
        folder = Path(base).expanduser()
        file = folder / "config.json" if folder.is_dir() else try_to_load_from_cache(base, "config.json")
        model_type = str(json.loads(Path(str(file)).read_text(encoding="utf-8"))["model_type"])
        return model_type if model_type in CONFIG_MAPPING else None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # no such folder, no hub id, or no config
        return None


def _normalize_name(base: str) -> str:
    """Return what two specs of the same weights have in common: the last part of a name, without marks of a copy."""
    parts = Path(base).parts
    if parts[-3:] == ("embedded", "weights", "mllm"):
        return "embedded"
    cached = next((part.split("--")[-1] for part in parts if part.startswith("models--")), None)
    return _COPY_SUFFIX.sub("", (cached or parts[-1] if parts else "").lower())


def _is_same_folder(first: str, second: str) -> bool:
    try:
        return Path(first).expanduser().samefile(Path(second).expanduser())
    except (OSError, RuntimeError):
        return False
