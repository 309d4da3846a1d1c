"""Where a checkpoint is found, and how it is opened."""

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.utils import logging as transformers_logging

from sam4mllm_tool.errors import MissingExtraError, SpecError
from sam4mllm_tool.models import checkpoints
from sam4mllm_tool.models.metadata import find_fingerprints


@pytest.mark.parametrize("marker", ["config.json", "adapter_config.json"])
def test_a_folder_wins_over_a_hub_id_of_its_name(tmp_path, monkeypatch, marker):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    (tmp_path / "owner" / "model" / marker).touch()
    monkeypatch.chdir(tmp_path)
    assert checkpoints.resolve_folder_or_hub_id("owner/model", marker=marker) == str(tmp_path / "owner" / "model")


def test_an_adapter_is_no_model(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(SpecError, match=r"has no config\.json"):
        checkpoints.resolve_folder_or_hub_id(str(tmp_path))


def test_a_part_that_the_installation_lacks():
    with pytest.raises(SpecError, match="lacks the embedded 'nothing'"):
        checkpoints.embedded_folder("nothing")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(None, torch.float32), ("bfloat16", torch.bfloat16), (torch.float16, torch.float16)],
)
def test_on_a_cpu_precision_is_float32_unless_asked_for(dtype, expected):
    assert checkpoints.choose_dtype(dtype, torch.device("cpu")) == expected


def test_quiet_loading_leaves_logs_and_bars_as_they_were():
    transformers, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    level = transformers.level
    with contextlib.suppress(KeyError), checkpoints.quiet_loading():
        assert not transformers.isEnabledFor(logging.WARNING)
        assert not transformers_logging.is_progress_bar_enabled()
        raise KeyError
    assert (transformers.level, transformers_logging.is_progress_bar_enabled()) == (level, bars)


def test_threads_that_load_at_once_leave_logs_and_bars_as_they_were():
    transformers, bars = logging.getLogger("transformers"), transformers_logging.is_progress_bar_enabled()
    level, both = transformers.level, threading.Barrier(2)

    def load(seconds):
        both.wait()
        with checkpoints.quiet_loading():
            time.sleep(seconds)  # the one that began first ends last, or the other way round
            return transformers.level

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(load, (0.05, 0.1))) == [logging.ERROR] * 2
    assert (transformers.level, transformers_logging.is_progress_bar_enabled()) == (level, bars)


def test_load_errors_are_one_line_and_our_own_pass():
    with (
        pytest.raises(SpecError, match=r"^the checkpoint 'x' can't be loaded: first$"),
        checkpoints.load_errors("x", extra="sam"),
    ):
        raise OSError("first\nsecond")
    with pytest.raises(MissingExtraError), checkpoints.load_errors("x", extra="sam"):
        raise MissingExtraError("peft", "train")


def test_weights_that_would_be_random_are_refused():
    checkpoints.require_complete("x", {"missing_keys": set(), "unexpected_keys": {"old.weight"}})
    with pytest.raises(SpecError, match=r"lacks 2 of the model's weights .*a\.weight first"):
        checkpoints.require_complete("x", {"missing_keys": {"b.weight", "a.weight"}, "mismatched_keys": set()})


def test_a_fingerprint_tells_weights_from_others_wherever_they_lie(tmp_path):
    def folder(name, *weights):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        for number, content in enumerate(weights):
            (tmp_path / name / f"model-{number}.safetensors").write_bytes(content)
        return checkpoints.fingerprint(str(tmp_path / name))

    ones = bytes(2_000_000)
    last = ones[:-1] + b"\1"
    scattered = b"".join(b"\1" + bytes(999) for _ in range(2000))
    known = folder("a", ones, ones)
    assert known == folder("copy", ones, ones)
    assert (
        len({known, folder("b", ones), folder("c", ones, scattered), folder("d", ones, last), folder("e", ones, ones[:-1])})
        == 5
    )
    (tmp_path / "a" / "README.md").write_text("a note")
    assert checkpoints.fingerprint(str(tmp_path / "a")) == known
    assert checkpoints.fingerprint(str(tmp_path / "nowhere")) is None


def test_the_weights_behind_specs_are_told_part_by_part():
    own = find_fingerprints("embedded", "embedded")
    assert sorted(own) == ["adapter", "base", "segmenter"]
    assert len(set(own.values())) == 3
    assert None not in own.values()
    folders = (checkpoints.embedded_folder(part) for part in ("mllm", "adapter", "sam"))
    mllm, adapter, sam = folders
    assert find_fingerprints(f"{mllm}+{adapter}", sam) == own
    assert find_fingerprints(mllm, sam) == own | {"adapter": None}
