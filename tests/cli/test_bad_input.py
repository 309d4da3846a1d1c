"""Every command with what a user may give it by mistake: one line that says what is wrong, and nothing is changed."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sam4mllm_tool.pipeline.sam4mllm import Sam4Mllm

Run = Callable[..., tuple[int, str, str]]

MISTAKES = {
    "segment missing.png ring": "does not exist",
    "segment folder ring": "is a folder",
    "segment empty.png ring": "is empty (0 bytes)",
    "segment text.png ring": "in none of the formats",
    "segment /dev/zero ring": "is not a regular file",
    "segment scene.png ring --out text.png": "'text.png' is a file",
    "segment scene.png ring --out /proc/no": "cannot be written",
    "segment scene.png ring --trace /proc/no/it.json": "cannot be written",
    "segment scene.png ring --trace /dev/full": "it is not a regular file",
    "segment --batch missing.jsonl": "can't be read: No such file",
    "segment --batch folder": "it is a folder",
    "segment --batch scene.png": "is not text in UTF-8",
    "chat missing.png": "does not exist",
    "chat scene.png --out text.png": "'text.png' is a file",
    "chat --history scene.png": "can't be used",
    "chat --history folder": "it is a folder",
    "trace show missing.json": "No such file",
    "trace show folder": "it is a folder",
    "trace show empty.png": "the file is empty",
    "trace replay text.png": "it is not JSON",
    "trace accept scene.png": "it is not JSON",
    "trace export text.png --out new.jsonl": "it is not JSON",
    "trace export text.png --out folder": "it is a folder",
    "export --mllm embedded --out folder/..": "is not empty",
    "data scenes --out text.png --count 1": "'text.png' is a file, not a folder",
    "data check jsonl missing": "does not exist",
    "data check nothing folder": "unknown dataset",
    "data convert coco missing.json --out new.jsonl": "does not exist",
    "data verify folder": "can't be read",
    "data verify text.png": "can't be read",
    "evaluate jsonl --root missing --out folder": "does not exist",
    "evaluate --compare folder folder": "can't be read",
    "train missing.toml": "can't be read",
    "train text.png": "expected a file ending in",
}


@pytest.mark.parametrize(("line", "reason"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_answered_in_one_line_and_changes_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sam4Mllm, "load", lambda *_, **__: pytest.fail("the models were loaded"))
    Image.new("RGB", (32, 24), "grey").save("scene.png")
    Path("folder").mkdir()
    Path("empty.png").touch()
    Path("text.png").write_text("not an image")
    before = {path.name: path.read_bytes() if path.is_file() else None for path in tmp_path.iterdir()}
    code, _, err = run(*shlex.split(line))
    assert (code, err.count("\n")) == (2, 1)
    assert reason in err
    assert err.startswith("sam4mllm")
    assert "Errno" not in err
    assert "Traceback" not in err
    assert {path.name: path.read_bytes() if path.is_file() else None for path in tmp_path.iterdir()} == before
