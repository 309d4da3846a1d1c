"""`sam4mllm doctor --mllm SPEC --segmenter SPEC`: models are loaded, asked and described."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sam4mllm_tool.cli.main import main
from sam4mllm_tool.cli.model_check import describe_frame
from sam4mllm_tool.protocol import DIALECTS, PLAIN
from sam4mllm_tool.types import Size
from tests.checkpoints import save_llava
from tests.openai_servers import Exchange, Response, answer_with_weights, build_completion, serve


def read_rows(text: str) -> list[tuple[str, str]]:
    return [(line[:11].strip(), line[12:]) for line in text.splitlines()]


def test_the_embedded_pair_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--mllm", "embedded", "--segmenter", "embedded", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    rows = read_rows(out)
    names = ["MLLM", "dialect", "frame", "device", "memory", "seconds", "asked for", "read as", "confidence"]
    assert [name for name, _ in rows] == [*names, "segmenter", "device", "memory", "seconds", "mask"]
    values = dict(reversed(rows))
    assert values["MLLM"] == "embedded"
    assert values["dialect"] == "embedded, from the dialect.json beside the weights"
    assert values["frame"] == "0 to 191, x first"
    assert re.fullmatch(r"cpu, float32, \d\d MB of weights", values["device"])
    assert re.fullmatch(r"[\d.]+ [MG]B at most in this process", values["memory"])
    assert re.fullmatch(r"\d+\.\d to load, \d+\.\d for two questions", values["seconds"])
    assert re.fullmatch(r"boxes: 1, best IoU with the true one (0\.[89]\d|1\.00)", values["read as"])
    assert values["confidence"] == "the model's own probabilities of the words, from its logits"
    assert float(re.findall(r"object (\d\.\d\d)", values["mask"])[0]) > 0.8
    assert err == ""


@pytest.mark.slow
def test_a_reply_that_cannot_be_read_is_shown_with_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights: loaded and asked, but of no use."""
    assert main(["doctor", "--mllm", str(save_llava(tmp_path)), "--dtype", "bfloat16", "--device", "cpu"]) == 1
    values = dict(read_rows(capsys.readouterr().out))
    assert values["dialect"] == "llava, that of the model's family"
    assert values["frame"] == "0 to 1, x first, of the square around the image"
    assert values["device"].startswith("cpu, bfloat16, ")
    assert "'sam4mllm probe' measures which dialect fits" in values["read as"]


@pytest.mark.parametrize(
    ("build_answer", "confidence"),
    [
        (answer_with_weights, "the probabilities of tokens that the model's server reports"),
        (lambda: lambda _: build_completion("[ 010 010 020 020 ]"), "none: labels come without probabilities"),
    ],
    ids=["with probabilities", "without"],
)
def test_a_remote_model_is_asked_too(
    build_answer: Callable[[], Callable[[Exchange], Response]],
    confidence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SAM4MLLM_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serve(build_answer(), models=["pair"]) as server:
        assert main(["doctor", "--mllm", f"openai:pair@{server.url}", "--dialect", "embedded"]) == 0
    values = dict(read_rows(capsys.readouterr().out))
    assert (values["dialect"], values["device"]) == ("embedded, as given", "a server's or another library's")
    assert values["read as"].startswith("boxes: 1, ")
    assert values["confidence"] == confidence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mllm", "/no/such/folder"], "there is no folder '/no/such/folder'"),
        (["--mllm", "embedded", "--dialect", "magic"], "no such dialect: 'magic'"),
        (["--dialect", "plain"], "--dialect has no effect without --mllm"),
        (["--dtype", "float16"], "--dtype has no effect without --mllm or --segmenter"),
    ],
)
def test_what_cannot_be_checked_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (PLAIN, "0 to 999, x first"),
        (DIALECTS["gemma"], "0 to 1000, y first"),
        (DIALECTS["qwen2_5_vl"], "pixels of the image as the model gets it, x first: how it is resized is unknown"),
        (
            DIALECTS["qwen2_5_vl"].for_model((28, 784, 10**6)),
            "pixels of the image as the model gets it, x first: 640 x 480 as 644 x 476",
        ),
    ],
)
def test_a_frame_is_described_in_words(dialect, expected):
    assert describe_frame(dialect, Size(640, 480)) == expected
