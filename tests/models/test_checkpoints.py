"""Finding checkpoints, choosing device and precision, and loading quietly."""

import contextlib
import json
import logging
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.utils import logging as transformers_logging

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models import checkpoints
from sam4mllm_tool.models.devices import choose_device, choose_dtype
from sam4mllm_tool.models.metadata import find_fingerprints


@pytest.mark.parametrize("marker", ["config.json", "adapter_config.json"])
def test_a_folder_wins_over_a_hub_id_of_its_name(tmp_path, monkeypatch, marker):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "owner" / "model" / marker).touch()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.resolve_folder_or_hub_id("owner/model", marker=marker) == str(tmp_path / "owner" / "model")


def test_an_empty_folder_is_not_a_model(tmp_path):
    with pytest.raises(SpecError, match=r"has no config\.json: expected a checkpoint"):
        checkpoints.resolve_folder_or_hub_id(str(tmp_path))


@pytest.mark.parametrize(
    ("base", "advice"),
    [
        pytest.param("owner/model", "of 'owner/model', not a whole model: write 'owner/model+{0}' as the MLLM", id="a hub id"),
        pytest.param("/pkg/embedded/weights/mllm", "of 'embedded', not a whole model: write 'embedded+{0}'", id="embedded"),
        pytest.param(None, "of 'BASE', not a whole model: write 'BASE+{0}'", id="unknown"),
        pytest.param("x" * 5000, "of 'BASE', not a whole model", id="too long"),
    ],
)
def test_an_adapter_alone_is_answered_with_the_spec_to_write(tmp_path, base, advice):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base} if base else {}))
    with pytest.raises(SpecError, match=re.escape(advice.format(tmp_path))):
        checkpoints.resolve_folder_or_hub_id(str(tmp_path))


def test_a_model_in_the_place_of_an_adapter_is_named(tmp_path):
    (tmp_path / "config.json").touch()
    with pytest.raises(SpecError, match="is a whole model, not a LoRA adapter: write it alone"):
        checkpoints.resolve_folder_or_hub_id(str(tmp_path), marker="adapter_config.json")


def test_a_misspelt_embedded_gets_a_suggestion(monkeypatch):
    monkeypatch.setattr(checkpoints, "model_info", lambda *_, **__: (_ for _ in ()).throw(OSError(-2, "Name not known")))
    with pytest.raises(SpecError, match=r"can't be reached \(Name not known\).*; did you mean 'embedded'\?"):
        checkpoints.resolve_folder_or_hub_id("embeded")


@pytest.mark.parametrize(
    ("device", "advice"),
    [
        ("gpu", "; did you mean 'cuda'?"),
        ("GPU:1", "; did you mean 'cuda'?"),
        ("cudaa", "; did you mean 'cuda'?"),
        ("", "expected a device such as cpu, cuda, cuda:1 or mps"),
        ("cuda:x", "expected a device such as cpu"),
        ("meta", "it holds no weights"),
    ],
)
def test_a_device_that_does_not_exist_gets_advice(device, advice):
    with pytest.raises(SpecError, match=f"the device {device!r} can't be used: .*{re.escape(advice)}") as caught:
        choose_device(device)
    assert len(str(caught.value)) < 150


def test_a_missing_embedded_part_is_named():
    with pytest.raises(SpecError, match="lacks the embedded 'nothing'"):
        checkpoints.embedded_folder("nothing")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(None, torch.float32), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16)],
)
def test_precision_on_a_cpu_is_float32_by_default(dtype, expected):
    assert choose_dtype(dtype, torch.device("cpu")) == expected


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        pytest.param("cuda", (7, 5), torch.float16, id="a T4 emulates bfloat16"),
        pytest.param("cuda", (8, 0), torch.bfloat16, id="an A100 has bfloat16"),
        pytest.param("cuda", (12, 0), torch.bfloat16, id="and what came later"),
        pytest.param("mps", None, torch.float16, id="Apple's GPUs"),
    ],
)
def test_precision_on_a_gpu_is_16_bits_by_default(monkeypatch, device, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert choose_dtype(None, torch.device(device)) is expected
    assert choose_dtype("float32", torch.device(device)) is torch.float32


@pytest.mark.parametrize(
    ("available", "expected"),
    [(("cuda", "mps"), "cuda"), (("mps",), "mps"), ((), "cpu")],
)
def test_the_default_device_is_the_best_that_there_is(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in available)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in available)
    assert choose_device() == torch.device(expected)


def test_quiet_loading_restores_logs_and_progress_bars():
    transformers, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    level = transformers.level
    with contextlib.suppress(KeyError), checkpoints.quiet_loading():
        assert not transformers.isEnabledFor(logging.WARNING)
        assert not transformers_logging.is_progress_bar_enabled()
        raise KeyError
    assert (transformers.level, transformers_logging.is_progress_bar_enabled()) == (level, bars)


def test_threads_that_load_at_once_restore_logs_and_progress_bars():
    transformers, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    level, barrier = transformers.level, threading.Barrier(2)

    def load(seconds):
        barrier.wait()
        with checkpoints.quiet_loading():
            time.sleep(seconds)  # so that either thread may end first
            return transformers.level

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(load, (0.05, 0.1))) == [logging.ERROR] * 2
    assert (transformers.level, transformers_logging.is_progress_bar_enabled()) == (level, bars)


def test_load_errors_are_wrapped_into_one_line_unless_they_are_our_own():
    with (
        pytest.raises(SpecError, match=r"^the checkpoint 'x' can't be loaded: first$"),
        checkpoints.wrap_load_errors("x", extra="sam"),
    ):
        raise OSError("first\nsecond")
    with pytest.raises(MissingExtraError), checkpoints.wrap_load_errors("x", extra="sam"):
        raise MissingExtraError("peft", "train")


def test_missing_weights_are_refused():
    checkpoints.require_complete("x", {"missing_keys": set(), "unexpected_keys": {"old.weight"}})
    with pytest.raises(SpecError, match=r"lacks 2 of the model's weights .*a\.weight first"):
        checkpoints.require_complete("x", {"missing_keys": {"b.weight", "a.weight"}, "mismatched_keys": set()})


def test_a_fingerprint_depends_on_the_weights_alone(tmp_path):
    def fingerprint_of(name, *weights):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        for number, content in enumerate(weights):
            (tmp_path / name / f"model-{number}.safetensors").write_bytes(content)
        return checkpoints.fingerprint(str(tmp_path / name))

    zeros = bytes(2_000_000)
    last = zeros[:-1] + b"\1"
    scattered = b"".join(b"\1" + bytes(999) for _ in range(2000))
    original = fingerprint_of("a", zeros, zeros)
    assert original == fingerprint_of("copy", zeros, zeros)
    others = [(zeros,), (zeros, scattered), (zeros, last), (zeros, zeros[:-1])]
    assert len({original, *(fingerprint_of(f"other-{i}", *weights) for i, weights in enumerate(others))}) == 5
    (tmp_path / "a" / "README.md").write_text("a note")
    assert checkpoints.fingerprint(str(tmp_path / "a")) == original
    assert checkpoints.fingerprint(str(tmp_path / "nowhere")) is None


def test_fingerprints_are_listed_by_part():
    fingerprints = find_fingerprints("embedded", "embedded")
    assert sorted(fingerprints) == ["adapter", "base", "segmenter"]
    assert len(set(fingerprints.values())) == 3
    assert None not in fingerprints.values()
    mllm, adapter, sam = (checkpoints.embedded_folder(part) for part in ("mllm", "adapter", "sam"))
    assert find_fingerprints(f"{mllm}+{adapter}", sam) == fingerprints
    assert find_fingerprints(mllm, sam) == fingerprints | {"adapter": None}
