"""Faults of what is loaded: checkpoints, servers, images behind URLs, encoded images."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import pytest

from sam4mllm_tool.images.load import ImagePolicy, load_image
from sam4mllm_tool.models.checkpoints import embedded_folder
from sam4mllm_tool.models.mllm import load_mllm
from tests.faults.fault_case import FaultCase, attempt, describe
from tests.faults.model_faults import SERVER_FAULTS
from tests.images.hostile_images import jpeg_of_empty_scans, webp_of_one_colour
from tests.openai_servers import Exchange, build_completion, serve

__all__ = ["list_image_cases", "list_loading_cases"]


def _load_damaged(damage: Callable[[Path], object], **options: Any) -> str:
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "mllm"
        shutil.copytree(embedded_folder("mllm"), copy)
        damage(copy)
        outcome = attempt(lambda: load_mllm(str(copy), **options))
    assert load_mllm("embedded").name == "embedded"
    return describe(outcome)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _load_from_server(answer: Callable[[Exchange], Any]) -> str:
    faulty = [True]
    good = build_completion("Yes", probabilities=[{"Yes": 0.9, "No": 0.1}])
    with pytest.MonkeyPatch.context() as patch, serve(lambda e: answer(e) if faulty else good) as server:
        patch.setenv("SAM4MLLM_SERVER_TIMEOUT_S", "0.3")
        patch.setenv("SAM4MLLM_SERVER_RETRIES", "0")
        outcome = attempt(lambda: load_mllm(f"openai:m@{server.url}"))
        faulty.clear()
        patch.setenv("SAM4MLLM_SERVER_TIMEOUT_S", "30")
        assert load_mllm(f"openai:m@{server.url}").name
    return describe(outcome)


def list_loading_cases() -> Iterator[FaultCase]:
    checkpoints: dict[str, Callable[[], str]] = {
        "the folder is missing": lambda: _load_damaged(shutil.rmtree),
        "config.json is cut off": lambda: _load_damaged(lambda folder: _cut(folder / "config.json")),
        "the weights are cut off": lambda: _load_damaged(lambda folder: _cut(folder / "model.safetensors")),
        "the weights are missing": lambda: _load_damaged(lambda folder: (folder / "model.safetensors").unlink()),
        "the weights are pickled": lambda: _load_damaged(_pickle_weights),
        "the tokenizer is cut off": lambda: _load_damaged(lambda folder: _cut(folder / "tokenizer.json")),
        "there is no such device": lambda: _load_damaged(lambda _: None, device="cuda:99"),
    }
    for fault, run in checkpoints.items():
        yield FaultCase(fault, "load", run, is_slow=True)
    for fault in ("answers 500", "answers a web page", "answers another JSON", "closes the connection", "hangs"):
        yield FaultCase(f"the server {fault}", "load", partial(_load_from_server, SERVER_FAULTS[fault]), fault != "answers 500")


def _encode(image: PIL.Image.Image, format_name: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, format_name)
    return file.getvalue()


_PNG = _encode(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))


def _fetch(answer: Callable[[Exchange], Any]) -> str:
    faulty = [True]
    image = PIL.Image.open(BytesIO(_PNG))
    good: Any = (200, _PNG, {})
    policy = ImagePolicy(allow_urls=True, allow_private_addresses=True, url_seconds=0.3, max_bytes=len(_PNG))
    patient = ImagePolicy(allow_urls=True, allow_private_addresses=True, url_seconds=60)
    with serve(lambda exchange: answer(exchange) if faulty else good) as server:
        outcome = attempt(lambda: load_image(f"{server.url}/a.png", policy=policy))
        faulty.clear()
        assert np.array_equal(np.asarray(load_image(f"{server.url}/a.png", policy=patient)), np.asarray(image))
    return describe(outcome)


def _decode(content: bytes, **limits: Any) -> str:
    outcome = attempt(lambda: load_image(content, policy=ImagePolicy(**limits)))
    assert load_image(_PNG).size == (64, 64)
    return describe(outcome)


def list_image_cases() -> Iterator[FaultCase]:
    fetching: dict[str, Callable[[Exchange], Any]] = {
        "the server answers 404": lambda _: (404, "gone", {}),
        "the server answers 429": lambda _: (429, "slow down", {}),
        "the server answers 500": lambda _: (500, "worker died", {}),
        "the server answers a web page": lambda _: (200, "<html>", {}),
        "the server closes the connection": lambda _: (200, "x", {"Content-Length": "900", "Connection": "close"}),
        "the server hangs": SERVER_FAULTS["hangs"],
        "the server sends too much": lambda _: (200, _PNG + _PNG, {}),
        "the server sends itself as the target": lambda exchange: (302, "", {"Location": exchange.path}),
        "the server sends half an image": lambda _: (200, _PNG[: len(_PNG) // 2], {}),
    }
    for fault, answer in fetching.items():
        yield FaultCase(fault, "fetch", partial(_fetch, answer))
    decoding: dict[str, Callable[[], str]] = {
        "the image is empty": lambda: _decode(b""),
        "the image is another file": lambda: _decode(b"%PDF-1.7" + bytes(500)),
        "the image is cut off": lambda: _decode(_PNG[: len(_PNG) // 2]),
        "the image is damaged": lambda: _decode(_PNG[:200] + bytes(300) + _PNG[500:]),
        "the image declares too many pixels": lambda: _decode(webp_of_one_colour(16000, 16000)),
        "the image takes too long": lambda: _decode(jpeg_of_empty_scans(500, 2000), decode_timeout_s=0.02),
    }
    for fault, run in decoding.items():
        yield FaultCase(fault, "decode", run)
