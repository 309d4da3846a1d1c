"""Specs of remote models: what they name, and that nothing is looked up for them."""

import subprocess
import sys
from pathlib import Path

import pytest

from sam4mllm_tool.errors import SpecError
from sam4mllm_tool.models.domain import find_domain
from sam4mllm_tool.models.metadata import find_dialect, find_fingerprints
from sam4mllm_tool.models.mllm import load_mllm, parse_remote_spec, split_spec
from sam4mllm_tool.models.mllm.remote_specs import RemoteSpec
from sam4mllm_tool.models.segmenter import load_segmenter
from sam4mllm_tool.pipeline.calibration import Calibration, find_calibration
from sam4mllm_tool.training.merge_adapter import export

LOCAL = "http://localhost:8000/v1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (f"openai:Qwen/Qwen3-VL-8B@{LOCAL}", RemoteSpec("openai", "Qwen/Qwen3-VL-8B", url=LOCAL)),
        (f"openai:qwen2.5vl:7b@{LOCAL}/", RemoteSpec("openai", "qwen2.5vl:7b", url=LOCAL)),
        (f"openai:base+lora@{LOCAL}", RemoteSpec("openai", "base+lora", url=LOCAL)),
        ("openai:@cf/llava@https://host/v1", RemoteSpec("openai", "@cf/llava", url="https://host/v1")),
        ("openai:m@http://[::1]:8000/v1", RemoteSpec("openai", "m", url="http://[::1]:8000/v1")),
        ("langchain:openai:gpt-5", RemoteSpec("langchain", "gpt-5", provider="openai")),
        ("langchain:ollama:qwen3-vl:8b", RemoteSpec("langchain", "qwen3-vl:8b", provider="ollama")),
        ("embedded", None),
        ("owner/model+owner/lora", None),
        ("C:/models/llava", None),
    ],
    ids=[
        "hub id",
        "colon and slash at the end",
        "plus",
        "at sign in the name",
        "IPv6",
        "langchain",
        "tag",
        "own",
        "hub",
        "drive",
    ],
)
def test_what_a_spec_names(spec: str, expected: RemoteSpec | None) -> None:
    assert parse_remote_spec(spec) == expected
    if expected is not None:
        assert split_spec(spec) == (spec, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("openai:", "expected openai:MODEL@URL, as in openai:Qwen"),
        ("openai:gpt-5", "expected openai:MODEL@URL"),
        (f"openai:@{LOCAL}", "expected openai:MODEL@URL"),
        ("openai:m@localhost:8000/v1", "must begin with http:// or https://: write openai:m@http://localhost:8000/v1"),
        ("openai:m@ftp://localhost", "expected openai:MODEL@URL"),
        ("openai:m@http://", "URL of the server is malformed"),
        ("openai:m@http://host:port/v1", "URL of the server is malformed"),
        ("openai:m@http://ho st/v1", "URL of the server is malformed"),
        ("openai:m@http://user:sk-secret@host/v1", "must not contain a key.*SAM4MLLM_API_KEY or OPENAI_API_KEY"),
        ("openai:m@http://host/v1?key=sk-secret", "must not contain a key"),
        ("langchain:", "expected langchain:PROVIDER:MODEL"),
        ("langchain:gpt-5", "expected langchain:PROVIDER:MODEL"),
        ("langchain:openai:", "expected langchain:PROVIDER:MODEL"),
    ],
)
def test_a_malformed_spec_is_one_line_with_the_cure_and_without_the_key(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        load_mllm(spec)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "dialect"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        ("qwen2.5vl:7b", "qwen2_5_vl"),
        ("Qwen2-VL-2B", "qwen2_vl"),
        ("qwen/qwen3-vl-8b", "qwen3_vl"),
        ("google/gemma-3-4b-it", "gemma"),
        ("gemini-3.5-flash", "gemma"),
        ("OpenGVLab/InternVL3_5-8B", "internvl"),
        ("zai-org/GLM-4.5V", "glm4v"),
        ("moonshotai/Kimi-VL-A3B", "kimi_vl"),
        ("my-lora", "plain"),
    ],
)
@pytest.mark.parametrize("spec", [f"openai:{{}}@{LOCAL}", "langchain:openai:{}"])
def test_the_dialect_comes_by_the_models_name(spec: str, model: str, dialect: str) -> None:
    assert find_dialect(spec.format(model)).name == dialect
    assert find_dialect(spec.format(model), "joint").name == "joint"


@pytest.mark.usefixtures("socket_disabled")
@pytest.mark.parametrize("spec", [f"openai:owner/model@{LOCAL}", f"openai:base+lora@{LOCAL}", "langchain:openai:gpt-5"])
def test_nothing_is_looked_up_for_a_remote_model(spec: str) -> None:
    assert find_calibration(spec) == Calibration()
    assert find_domain(spec) is None
    assert find_fingerprints(spec, "embedded")["base"] is None


@pytest.mark.parametrize("spec", [f"openai:m@{LOCAL}", "langchain:openai:gpt-5"])
def test_where_weights_are_needed_a_remote_model_is_refused_without_asking_a_hub(spec: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="runs elsewhere, and its weights are needed here"):
        load_segmenter(spec)
    with pytest.raises(SpecError, match="runs elsewhere, and its weights are needed here"):
        export(spec, tmp_path / "merged")


def test_reading_a_remote_spec_loads_no_model_library() -> None:
    program = (
        "import sys; from sam4mllm_tool.pipeline.sam4mllm import find_dialect, find_calibration; "
        f"find_dialect('openai:m@{LOCAL}'), find_calibration('openai:m@{LOCAL}'); "
        "print(*[name for name in ('torch', 'transformers', 'openai', 'langchain_core') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == ""
